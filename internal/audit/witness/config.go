// Package witness takes the audit log's checkpoints to where this machine cannot change
// them: to append-only places, and to witnesses that sign them after they have seen that
// the log only grew (c2sp.org/tlog-witness, c2sp.org/tlog-cosignature).
//
// It runs behind the log and delays nobody. What a log proves without it, and with it, is
// said in docs/audit.md; audit.Verify checks a log against what was kept.
package witness

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
	"time"
)

// Config is the part of the file's "audit" section about the world outside.
type Config struct {
	// Publish are places that get checkpoints.
	Publish []Place `yaml:"publish,omitempty"`

	// Witnesses co-sign checkpoints, once a minute.
	Witnesses []Witness `yaml:"witnesses,omitempty"`

	// Quorum is how many witnesses have to have signed. Default: all.
	Quorum int `yaml:"quorum,omitempty"`
}

// A Place is where checkpoints are put: exactly one of File and URL.
type Place struct {
	// File gets each checkpoint behind the one before: on a disk that only grows, or
	// of another machine.
	File string `yaml:"file,omitempty"`

	// URL gets each checkpoint by HTTP PUT at URL/<entries>, with If-None-Match: *, so
	// that a store with object lock never takes a second. https; plain http on loopback.
	URL string `yaml:"url,omitempty"`

	// Every is the least time between two. Default 1m; at least 1s.
	Every time.Duration `yaml:"every,omitempty"`

	// AuthorizationFile holds the value of the Authorization header; it is read each time.
	AuthorizationFile string `yaml:"authorization_file,omitempty"`

	// CAFile holds the certificates that URL's is checked with, as PEM. Default: the system's.
	CAFile string `yaml:"ca_file,omitempty"`
}

// A Witness is one that speaks c2sp.org/tlog-witness.
type Witness struct {
	// URL is its submission prefix: checkpoints go to URL/add-checkpoint.
	URL string `yaml:"url"`

	// Key is its verifier key, NAME+HASH+KEY, of type 0x04 (cosignature/v1).
	Key string `yaml:"key"`

	// CAFile is as of a Place.
	CAFile string `yaml:"ca_file,omitempty"`
}

const (
	defaultEvery = time.Minute
	minEvery     = time.Second
)

// Complete fills defaults and reports every mistake below "audit".
func (c *Config) Complete() error {
	var bad []error
	for i := range c.Publish {
		p := &c.Publish[i]
		if p.Every == 0 {
			p.Every = defaultEvery
		}
		at := fmt.Sprintf("publish[%d]", i)
		if (p.File == "") == (p.URL == "") {
			bad = append(bad, fmt.Errorf("%s: write file or url, one of them", at))
		}
		if p.File != "" && (p.AuthorizationFile != "" || p.CAFile != "") {
			bad = append(bad, fmt.Errorf("%s: authorization_file and ca_file go with url", at))
		}
		if p.Every < minEvery {
			bad = append(bad, fmt.Errorf("%s.every: %v is less than a second", at, p.Every))
		}
		if err := checkURL(p.URL); p.URL != "" && err != nil {
			bad = append(bad, fmt.Errorf("%s.url: %w", at, err))
		}
	}
	keys := map[string]int{}
	for i, w := range c.Witnesses {
		if err := checkURL(w.URL); err != nil {
			bad = append(bad, fmt.Errorf("witnesses[%d].url: %w", i, err))
		}
		if _, err := NewVerifier(w.Key); err != nil {
			bad = append(bad, fmt.Errorf("witnesses[%d].key: %w", i, err))
			continue
		}
		// a cosignature does not say whose name it was asked under: a key counts once
		key := w.Key[strings.LastIndexByte(w.Key, '+'):]
		if j, ok := keys[key]; ok {
			bad = append(bad, fmt.Errorf("witnesses[%d].key: is the key of witnesses[%d]: two of the quorum would be one", i, j))
		}
		keys[key] = i
	}
	switch {
	case c.Quorum < 0 || c.Quorum > len(c.Witnesses):
		bad = append(bad, fmt.Errorf("quorum: %d of %d witnesses: write a number from 1 to that", c.Quorum, len(c.Witnesses)))
	case c.Quorum == 0:
		c.Quorum = len(c.Witnesses)
	}
	return errors.Join(bad...)
}

func checkURL(text string) error {
	u, err := url.Parse(text)
	switch {
	case err != nil || u.Host == "" || u.User != nil || u.RawQuery != "" || u.Fragment != "":
		return fmt.Errorf("%q: want a URL such as https://witness.example/log, without query", text)
	case u.Scheme == "http":
		if a, err := netip.ParseAddr(u.Hostname()); err != nil || !a.IsLoopback() {
			return fmt.Errorf("%q: plain http is for loopback addresses: write https", text)
		}
	case u.Scheme != "https":
		return fmt.Errorf("%q: want https", text)
	}
	return nil
}
