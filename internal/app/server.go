package app

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/go-json-experiment/json"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/issuer"
)

type server struct {
	name     string
	listener net.Listener
	http     *http.Server
}

func (s *server) serve() error {
	if err := s.http.Serve(s.listener); !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serve %s: %w", s.name, err)
	}
	return nil
}

// shares are the connections that there may be of each kind. Together they take fewer
// descriptors than the process may have, so that no kind can be kept out by another, and
// the log and the store always have theirs.
type shares struct {
	local     *door.Shares // of the doors for local programs; two descriptors each over Unix sockets
	admin     *door.Shares // of the operators' door; two descriptors each
	gateway   *door.Shares // two descriptors each, with the one upstream; a twentieth of all are idle upstream
	issuer    *door.Shares
	telemetry *door.Shares
}

func newShares(descriptors int) shares {
	return shares{
		local:     door.NewShares(min(1024, descriptors/16), descriptors/12),
		admin:     door.NewShares(16, max(descriptors/64, 4)),
		gateway:   door.NewShares(0, descriptors*3/10).Yielding(),
		issuer:    door.NewShares(0, descriptors/16),
		telemetry: door.NewShares(0, descriptors/32),
	}
}

// CannotListen explains why an address cannot be had, where the system's own words do not.
func CannotListen(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return fmt.Errorf("%w: a port below 1024 takes CAP_NET_BIND_SERVICE", err)
	}
	return err
}

// listen opens address for the handler that handler makes for it.
func (a *App) listen(name, address string, of *door.Shares, handler func(addr string) http.Handler) error {
	l, err := a.o.Listen(address)
	if err != nil {
		return fmt.Errorf("listen for %s: %w", name, CannotListen(err))
	}
	a.serve(name, door.Listen(l, nil, of), handler(l.Addr().String()))
	return nil
}

// serve adds a server for l.
func (a *App) serve(name string, l net.Listener, handler http.Handler) *server {
	s := &server{name, l, &http.Server{
		Handler:           handler,
		ConnContext:       door.ConnContext,
		ReadHeaderTimeout: httpproxy.ReadHeaderTimeout,
		IdleTimeout:       httpproxy.IdleTimeout,
		MaxHeaderBytes:    httpproxy.MaxHeaderBytes,
		// or net/http would answer "OPTIONS *" itself, past every rule of the handler
		DisableGeneralOptionsHandler: true,
		ErrorLog:                     slog.NewLogLogger(a.o.Logger.Handler(), slog.LevelWarn),
	}}
	a.servers = append(a.servers, s)
	return s
}

// onlyHosts answers requests for the issuer's own names alone, so that a page
// whose name was rebound to our address reads nothing.
func onlyHosts(next http.Handler, c issuer.Config) http.Handler {
	var names []string
	if u, err := url.Parse(c.URL); err == nil {
		names = append(names, strings.ToLower(u.Hostname()))
	}
	for _, h := range c.Hosts {
		names = append(names, strings.ToLower(h))
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !slices.Contains(names, strings.ToLower((&url.URL{Host: r.Host}).Hostname())) {
			http.Error(w, "this issuer does not answer to that host name", http.StatusMisdirectedRequest)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// readiness serves /healthz (the process answers) and /readyz (it can do its work).
type readiness struct {
	mu      sync.Mutex
	running bool
	names   []string
	checks  []func() error
}

func (r *readiness) add(name string, check func() error) {
	r.names, r.checks = append(r.names, name), append(r.checks, check)
}

func (r *readiness) set(running bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.running = running
}

type readyAnswer struct {
	Ready  bool              `json:"ready"`
	Checks map[string]string `json:"checks"`
}

func (r *readiness) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	switch req.URL.Path {
	case "/healthz":
		_, _ = w.Write([]byte("ok\n"))
		return
	case "/readyz":
	default:
		http.NotFound(w, req)
		return
	}
	r.mu.Lock()
	out := readyAnswer{Ready: r.running, Checks: map[string]string{"running": "ok"}}
	r.mu.Unlock()
	if !out.Ready {
		out.Checks["running"] = "starting or shutting down"
	}
	for i, check := range r.checks {
		out.Checks[r.names[i]] = "ok"
		if err := check(); err != nil {
			out.Ready = false
			out.Checks[r.names[i]] = err.Error()
		}
	}
	w.Header().Set("Content-Type", "application/json")
	if !out.Ready {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	body, _ := json.Marshal(out, json.Deterministic(true)) // strings and a bool
	_, _ = w.Write(append(body, '\n'))
}
