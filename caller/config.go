package caller

import (
	"cmp"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode"
)

// Config says whose tokens to fetch, from where, and whom they may be sent to.
type Config struct {
	// Audience is the one service that the tokens are for, exactly as the service
	// expects it. If it is an https URL, its host and port may get the tokens.
	// Required.
	Audience string

	// Door is the metadata door: "HOST:PORT", port 80 if there is none, or
	// "unix:///PATH" for a socket. Default: the variable GCE_METADATA_HOST.
	Door string

	// Hosts may get the tokens too: "HOST:PORT", port 443 if there is none. An
	// audience that is no URL needs one, and so does plain HTTP, which is for
	// localhost and loopback addresses only.
	Hosts []string

	// Now is the clock. Default time.Now.
	Now func() time.Time

	// Logger hears of renewals that fail. Default slog.Default().
	Logger *slog.Logger
}

// New returns a Source, or an error that names every mistake in c. Nothing is
// fetched yet.
func New(c Config) (*Source, error) {
	var bad []error
	if c.Audience == "" || strings.ContainsFunc(c.Audience, func(r rune) bool { return unicode.IsSpace(r) || unicode.IsControl(r) }) {
		bad = append(bad, fmt.Errorf("caller: Audience: %q: is empty, or has white space or control characters", c.Audience))
	}
	s := &Source{audience: c.Audience, now: c.Now, log: cmp.Or(c.Logger, slog.Default())}
	if s.now == nil {
		s.now = time.Now
	}
	var err error
	if s.door, err = newDoor(cmp.Or(c.Door, os.Getenv("GCE_METADATA_HOST"))); err != nil {
		bad = append(bad, fmt.Errorf("caller: Door: %w", err))
	}
	if s.to, err = newDestinations(c.Audience, c.Hosts); err != nil {
		bad = append(bad, err)
	}
	if len(bad) > 0 {
		return nil, errors.Join(bad...)
	}
	return s, nil
}

// destinations are who may get a token, each as HOST:PORT in one spelling.
type destinations struct {
	own    string // the audience's own; "" if it is no URL
	listed map[string]bool
}

func newDestinations(audience string, hosts []string) (destinations, error) {
	d := destinations{listed: map[string]bool{}}
	var bad []error
	if strings.HasPrefix(audience, "https://") {
		u, err := url.Parse(audience)
		switch {
		case err != nil || u.Hostname() == "" || u.User != nil:
			bad = append(bad, fmt.Errorf("caller: Audience: %q: is no URL that names a host", audience))
		case !ascii(u.Host):
			bad = append(bad, fmt.Errorf("caller: Audience: %q: write its host as the DNS has it, xn--…", audience))
		default:
			d.own = hostPort(u.Host, "https")
		}
	}
	for i, h := range hosts {
		u, err := url.Parse("https://" + h)
		if err != nil || u.Host != h || u.Hostname() == "" || !ascii(h) {
			bad = append(bad, fmt.Errorf("caller: Hosts[%d]: %q: want HOST or HOST:PORT, as the DNS has it", i, h))
			continue
		}
		d.listed[hostPort(h, "https")] = true
	}
	return d, errors.Join(bad...)
}

// allows reports whether a token may go to host over scheme. Names beyond ASCII may not
// have one: net/http turns them into other names (IDNA) than letters alone would tell,
// "İ" is no "i" to it.
func (d *destinations) allows(scheme, host string) bool {
	if !ascii(host) {
		return false
	}
	to := hostPort(host, scheme)
	switch scheme {
	case "https":
		return d.listed[to] || d.own != "" && d.own == to
	case "http":
		return d.listed[to]
	}
	return false
}

func ascii(s string) bool {
	return !strings.ContainsFunc(s, func(r rune) bool { return r > unicode.MaxASCII })
}

// hostPort returns the one spelling of an authority in ASCII: RFC 9110 section 4.2.3,
// with the port always there.
func hostPort(host, scheme string) string {
	u := url.URL{Host: host}
	name, port := strings.ToLower(u.Hostname()), u.Port()
	if ip, err := netip.ParseAddr(name); err == nil {
		name = ip.String()
	}
	if port == "" {
		port = "80"
		if scheme == "https" {
			port = "443"
		}
	}
	return net.JoinHostPort(name, port)
}

// loopback reports whether nobody but this machine can be at host, which is in ASCII.
func loopback(host string) bool {
	name := strings.ToLower((&url.URL{Host: host}).Hostname())
	ip, err := netip.ParseAddr(name)
	return name == "localhost" || err == nil && ip.IsLoopback()
}
