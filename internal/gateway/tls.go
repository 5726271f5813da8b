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

// A Certificate is one entry of "gateway.tls": what the listener shows to clients that ask
// for one of its names (SNI, RFC 6066 section 3). Relative paths start at the file's
// folder. The files are read again when they change.
type Certificate struct {
	// CertFile holds the chain in PEM, the server's own certificate first. Required.
	CertFile string `yaml:"cert_file"`

	// KeyFile holds its private key in PEM. Required.
	KeyFile string `yaml:"key_file"`
}

// Complete makes paths absolute, and reports every mistake below "gateway".
func (c *Config) Complete(dir string) error {
	var bad []error
	for i := range c.TLS {
		t := &c.TLS[i]
		for _, f := range []struct {
			name string
			path *string
		}{{"cert_file", &t.CertFile}, {"key_file", &t.KeyFile}} {
			switch {
			case *f.path == "":
				bad = append(bad, fmt.Errorf("tls[%d].%s: is missing: write the path of a PEM file", i, f.name))
			case !filepath.IsAbs(*f.path):
				*f.path = filepath.Join(dir, *f.path)
			}
		}
	}
	return errors.Join(append(bad, c.TrustedProxies.complete())...)
}

// checkFiles is how often certificate files are looked at.
const checkFiles = time.Second

// Certificates are what a listener shows, by name. They are safe for concurrent use.
type Certificates struct {
	pairs  []Certificate
	logger *slog.Logger
	now    func() time.Time

	current atomic.Pointer[[]tls.Certificate]
	looked  atomic.Int64 // when, in Unix nanoseconds

	mu    sync.Mutex // of one look at the files
	seen  []string   // what each pair of files looked like
	loads []tls.Certificate
}

// OpenCertificates reads all pairs; the error names the file that is wrong. A nil now is
// time.Now.
func OpenCertificates(pairs []Certificate, logger *slog.Logger, now func() time.Time) (*Certificates, error) {
	if now == nil {
		now = time.Now
	}
	c := &Certificates{pairs: pairs, logger: logger, now: now, seen: make([]string, len(pairs)), loads: make([]tls.Certificate, len(pairs))}
	for i, p := range pairs {
		c.seen[i] = look(p)
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("read the certificate %s and its key %s: %w", p.CertFile, p.KeyFile, err)
		}
		c.loads[i] = pair
	}
	c.publish()
	c.looked.Store(now().UnixNano())
	return c, nil
}

func (c *Certificates) publish() {
	out := append([]tls.Certificate(nil), c.loads...)
	c.current.Store(&out)
}

// look describes a pair of files as far as a change shows in it.
func look(p Certificate) string {
	out := ""
	for _, path := range []string{p.CertFile, p.KeyFile} {
		info, err := os.Stat(path)
		if err != nil {
			return out + "?"
		}
		out += fmt.Sprintf("%d %d|", info.ModTime().UnixNano(), info.Size())
	}
	return out
}

// refresh reads again what has changed. A pair that is broken, or half written, leaves
// the one before it in use and is tried again when it changes.
func (c *Certificates) refresh() {
	now := c.now().UnixNano()
	last := c.looked.Load()
	if now-last < int64(checkFiles) || !c.looked.CompareAndSwap(last, now) {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	changed := false
	for i, p := range c.pairs {
		is := look(p)
		if is == c.seen[i] {
			continue
		}
		c.seen[i] = is
		pair, err := tls.LoadX509KeyPair(p.CertFile, p.KeyFile)
		if err != nil {
			c.logger.Error("a certificate that changed cannot be used: the one before it stays", "cert_file", p.CertFile, "error", err.Error())
			continue
		}
		c.loads[i], changed = pair, true
		c.logger.Info("a certificate was replaced", "cert_file", p.CertFile)
	}
	if changed {
		c.publish()
	}
}

// choose returns the certificate for a client: the first that it supports, by name and
// algorithm, else the first of the file.
func (c *Certificates) choose(hello *tls.ClientHelloInfo) (*tls.Certificate, error) {
	c.refresh()
	all := *c.current.Load()
	for i := range all {
		if hello.SupportsCertificate(&all[i]) == nil {
			return &all[i], nil
		}
	}
	return &all[0], nil
}

// TLS returns the listener's settings: TLS 1.2 or newer, HTTP/2 or HTTP/1.1 by ALPN.
func (c *Certificates) TLS() *tls.Config {
	return &tls.Config{MinVersion: tls.VersionTLS12, NextProtos: []string{"h2", "http/1.1"}, GetCertificate: c.choose}
}
