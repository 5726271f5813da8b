package metadata

import (
	"cmp"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/sallyport-dev/sallyport/internal/door"
)

// Config is one entry of the "metadata" section of the file.
type Config struct {
	// Listen is a loopback address, or port 80 of 169.254.169.254 where that is an
	// address of this machine or of NetworkNamespace. Required: only there can
	// callers be attested.
	Listen string `yaml:"listen"`

	// NetworkNamespace is the path of a network namespace to listen in, such as
	// /run/netns/orders or /proc/PID/ns/net. Default: our own. It needs
	// CAP_SYS_ADMIN.
	NetworkNamespace string `yaml:"network_namespace,omitempty"`

	// ServiceAccounts are the accounts this door may give. Required.
	ServiceAccounts []string `yaml:"service_accounts"`

	// Project is what clients are told of a project.
	Project Project `yaml:"project,omitempty"`

	// Instance is what clients are told of the machine.
	Instance Instance `yaml:"instance,omitempty"`

	// UniverseDomain is universe/universe-domain: the domain whose APIs the tokens
	// are for, which Google's libraries compare with where they are about to send
	// one. Default: see DefaultUniverse.
	UniverseDomain string `yaml:"universe_domain,omitempty"`
}

// Project is what clients are told of a project; nothing else depends on it.
type Project struct {
	// ID is project/project-id. Default "sallyport".
	ID string `yaml:"id,omitempty"`

	// Number is project/numeric-project-id. Default 1.
	Number uint64 `yaml:"number,omitempty"`

	// Attributes are project/attributes/, for this door's accounts to read.
	Attributes map[string]string `yaml:"attributes,omitempty"`
}

// Instance is what clients are told of the machine; nothing else depends on it.
type Instance struct {
	// ID is instance/id. Default: made from the host's name.
	ID uint64 `yaml:"id,omitempty"`

	// Name is instance/name. Default: the host's name up to its first dot.
	Name string `yaml:"name,omitempty"`

	// Hostname is instance/hostname. Default: the host's name.
	Hostname string `yaml:"hostname,omitempty"`

	// Zone is the last part of instance/zone. Default "local-a".
	Zone string `yaml:"zone,omitempty"`

	// Region is the last part of instance/region. Default: Zone up to its last "-".
	Region string `yaml:"region,omitempty"`

	// Tags are instance/tags.
	Tags []string `yaml:"tags,omitempty"`

	// Attributes are instance/attributes/, for this door's accounts to read.
	Attributes map[string]string `yaml:"attributes,omitempty"`
}

// wellKnown is the address at which clients look for a metadata server unless a
// variable says otherwise.
const wellKnown = "169.254.169.254"

// Complete fills defaults and reports every mistake below "metadata[i]".
func (c *Config) Complete() error {
	bad := []error{checkListen(c.Listen)}
	if c.NetworkNamespace != "" && (!path.IsAbs(c.NetworkNamespace) || path.Clean(c.NetworkNamespace) != c.NetworkNamespace) {
		bad = append(bad, fmt.Errorf("network_namespace: %q: want a whole path, such as /run/netns/orders", c.NetworkNamespace))
	}
	if len(c.ServiceAccounts) == 0 {
		bad = append(bad, errors.New("service_accounts: is empty: name the accounts that this door may give"))
	}
	for i, a := range c.ServiceAccounts {
		if slices.Contains(c.ServiceAccounts[:i], a) {
			bad = append(bad, fmt.Errorf("service_accounts[%d]: %q is there twice", i, a))
		}
	}
	c.Project.ID = cmp.Or(c.Project.ID, "sallyport")
	c.Project.Number = cmp.Or(c.Project.Number, 1)
	bad = append(bad, checkAttributes("project.attributes", c.Project.Attributes)...)
	bad = append(bad, c.Instance.complete()...)
	bad = append(bad, checkAttributes("instance.attributes", c.Instance.Attributes)...)
	c.UniverseDomain = cmp.Or(c.UniverseDomain, DefaultUniverse)
	if !domain.MatchString(c.UniverseDomain) {
		bad = append(bad, fmt.Errorf("universe_domain: %q: want a domain, perhaps with a port, such as acme.internal:8443", c.UniverseDomain))
	}
	return errors.Join(bad...)
}

func checkListen(listen string) error {
	host, port, err := net.SplitHostPort(listen)
	ip, perr := netip.ParseAddr(host)
	if host == "localhost" {
		return fmt.Errorf("listen: %q: %w", listen, door.ErrLocalhost)
	}
	local := perr == nil && (ip.IsLoopback() || host == wellKnown && port == "80")
	if err != nil || !local {
		return fmt.Errorf("listen: %q: want a loopback address and port, such as 127.0.0.1:8401, or %s:80: callers from elsewhere cannot be attested", listen, wellKnown)
	}
	return nil
}

var (
	domain    = regexp.MustCompile(`^[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?(:[0-9]{1,5})?$`)
	place     = regexp.MustCompile(`^[a-z]([a-z0-9-]{0,61}[a-z0-9])?$`)
	attribute = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)
)

// maxAttribute is the longest value of an attribute, in bytes, as on GCE.
const maxAttribute = 256 << 10

func checkAttributes(path string, attributes map[string]string) []error {
	var bad []error
	for key, value := range attributes {
		if !attribute.MatchString(key) {
			bad = append(bad, fmt.Errorf("%s: %q: a key is letters, digits, - and _, at most 128", path, key))
		}
		if len(value) > maxAttribute {
			bad = append(bad, fmt.Errorf("%s.%s: longer than %d bytes", path, key, maxAttribute))
		}
	}
	return bad
}

func (i *Instance) complete() []error {
	host, _ := os.Hostname() // a machine without a name is told so, as ""
	i.Hostname = cmp.Or(i.Hostname, host)
	name, _, _ := strings.Cut(i.Hostname, ".")
	i.Name = cmp.Or(i.Name, name)
	sum := sha256.Sum256([]byte("instance " + i.Hostname))
	i.ID = cmp.Or(i.ID, binary.BigEndian.Uint64(sum[:])>>1) // 63 bits: some clients read it as signed
	i.Zone = cmp.Or(i.Zone, "local-a")
	if at := strings.LastIndexByte(i.Zone, '-'); at > 0 {
		i.Region = cmp.Or(i.Region, i.Zone[:at])
	}
	i.Region = cmp.Or(i.Region, i.Zone)
	var bad []error
	for _, x := range []struct{ path, value string }{{"instance.zone", i.Zone}, {"instance.region", i.Region}} {
		if !place.MatchString(x.value) {
			bad = append(bad, fmt.Errorf("%s: %q: want lower-case letters, digits and -, such as local-a", x.path, x.value))
		}
	}
	return bad
}
