package gateway

import (
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"
)

// Certificate is one entry of "gateway.tls": a chain and its key, in PEM. Relative paths
// start at the file's folder.
type Certificate struct {
	CertFile string `yaml:"cert_file"`
	KeyFile  string `yaml:"key_file"`
}

func (c *Certificate) complete(dir string) error {
	switch {
	case c.CertFile == "":
		return errors.New("cert_file: is missing: write the file with the certificate chain, in PEM")
	case c.KeyFile == "":
		return errors.New("key_file: is missing: write the file with the certificate's key, in PEM")
	}
	for _, f := range []*string{&c.CertFile, &c.KeyFile} {
		if !filepath.IsAbs(*f) {
			*f = filepath.Join(dir, *f)
		}
	}
	if _, err := tls.LoadX509KeyPair(c.CertFile, c.KeyFile); err != nil {
		return fmt.Errorf("cert_file: %w", err)
	}
	return nil
}

// Certificates are those of the file, as they are now: each is read again when one of its
// files has changed, and stays as it was while the new one cannot be used.
type Certificates struct {
	of     []Certificate
	log    *slog.Logger
	loaded atomic.Pointer[[]*tls.Certificate]

	mu     sync.Mutex // held by who looks at the files
	looked time.Time
	seen   []string
}

// lookEvery is how often the files are looked at, as long as somebody connects.
const lookEvery = time.Second

// LoadCertificates reads those of a completed Config.
func LoadCertificates(of []Certificate, log *slog.Logger) (*Certificates, error) {
	c := &Certificates{of: of, log: log, seen: make([]string, len(of))}
	all := make([]*tls.Certificate, len(of))
	for i := range of {
		c.seen[i] = of[i].state()
		pair, err := tls.LoadX509KeyPair(of[i].CertFile, of[i].KeyFile)
		if err != nil {
			return nil, fmt.Errorf("gateway.tls[%d]: %w", i, err)
		}
		all[i] = &pair
	}
	c.loaded.Store(&all)
	return c, nil
}

func (c *Certificate) state() string {
	out := ""
	for _, f := range []string{c.CertFile, c.KeyFile} {
		info, err := os.Stat(f)
		if err != nil {
			return err.Error()
		}
		out += fmt.Sprint(info.ModTime().UnixNano(), " ", info.Size(), " ")
	}
	return out
}

// Config returns what a listener serves with: TLS 1.2 and later, HTTP/2 and HTTP/1.1.
func (c *Certificates) Config() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.get}
}

// get returns the first certificate that a client can use for the name it asks for, or the
// first of all.
func (c *Certificates) get(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.look()
	all := *c.loaded.Load()
	for _, cert := range all {
		if hello.SupportsCertificate(cert) == nil {
			return cert, nil
		}
	}
	return all[0], nil
}

// look reads again what has changed.
func (c *Certificates) look() {
	if !c.mu.TryLock() {
		return // somebody else is at it
	}
	defer c.mu.Unlock()
	if now := time.Now(); now.Sub(c.looked) < lookEvery {
		return
	} else {
		c.looked = now
	}
	all := *c.loaded.Load()
	next := append([]*tls.Certificate(nil), all...)
	for i := range c.of {
		state := c.of[i].state()
		if state == c.seen[i] {
			continue
		}
		pair, err := tls.LoadX509KeyPair(c.of[i].CertFile, c.of[i].KeyFile)
		if err != nil {
			c.log.Error("a certificate that changed cannot be used; the one before is served", "cert_file", c.of[i].CertFile, "error", err.Error())
			continue // and looked at again: the two files do not change at once
		}
		next[i], c.seen[i] = &pair, state
		c.log.Info("a certificate is in use", "cert_file", c.of[i].CertFile, "until", pair.Leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	c.loaded.Store(&next)
}
