package upstream

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"sync"
)

// material is what https connections to one server are made with. Files are read again
// when they change, for the next connection; while one is half written, or wrong, what
// was read before holds.
type material struct {
	name          string
	ca, cert, key *file

	mu          sync.Mutex
	roots       *x509.CertPool // nil: the system's
	certificate *tls.Certificate
}

func newMaterial(s Server, host string) (*material, error) {
	m := &material{name: s.ServerName}
	if m.name == "" {
		m.name = host
	}
	if s.CAFile != "" {
		m.ca = &file{path: s.CAFile}
	}
	if s.CertFile != "" {
		m.cert, m.key = &file{path: s.CertFile}, &file{path: s.KeyFile}
	}
	_, err := m.config(nil)
	return m, err
}

// config returns the settings of one connection.
func (m *material) config(protocols []string) (*tls.Config, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.ca != nil {
		if err := m.readRoots(); err != nil && m.roots == nil {
			return nil, err
		}
	}
	c := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: m.name, NextProtos: protocols, RootCAs: m.roots}
	if m.cert != nil {
		if err := m.readPair(); err != nil && m.certificate == nil {
			return nil, err
		}
		c.Certificates = []tls.Certificate{*m.certificate}
	}
	return c, nil
}

func (m *material) readRoots() error {
	text, changed, err := m.ca.read()
	if err != nil || !changed && m.roots != nil {
		return err
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(text) {
		return fmt.Errorf("ca_file: %s holds no certificate", m.ca.path)
	}
	m.roots = roots
	return nil
}

func (m *material) readPair() error {
	cert, _, err := m.cert.read()
	key, _, kerr := m.key.read()
	if err := errors.Join(err, kerr); err != nil {
		return err
	}
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return fmt.Errorf("cert_file %s, key_file %s: %w", m.cert.path, m.key.path, err)
	}
	m.certificate = &pair
	return nil
}
