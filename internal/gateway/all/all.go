// Package all lists the protocols: a new one is a folder beside this one, a field
// of Service and a line in Complete.
package all

import (
	"errors"

	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// Service is one entry of "services": what all have, and exactly one protocol.
type Service struct {
	gateway.Service `yaml:",inline"`

	// HTTP serves it as an HTTP upstream.
	HTTP *httpproxy.Config `yaml:"http,omitempty"`
}

// Complete fills defaults and reports every mistake below "services[i]".
func (s *Service) Complete() error {
	bad := []error{s.Service.Complete()}
	if s.HTTP == nil {
		bad = append(bad, errors.New("http: is missing: a service has one protocol, and http is the only one in this version"))
	} else {
		bad = append(bad, s.HTTP.Complete())
	}
	return errors.Join(bad...)
}

// Family returns the action family of the service's protocol, as policy knows it.
func (s *Service) Family() string { return "http" }
