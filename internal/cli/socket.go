package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/config"
)

// spiffeSocket is the variable that says where a host's Workload API is (SPIFFE
// Workload Endpoint section 4).
const spiffeSocket = "SPIFFE_ENDPOINT_SOCKET"

// defaultDataDir is where the systemd unit keeps things.
const defaultDataDir = "/var/lib/sallyport"

// endpoint is where a running server is, for commands that ask it.
type endpoint struct {
	place
	socket string
}

func (p *endpoint) flags(c *cobra.Command) {
	p.place.flags(c)
	c.Flags().StringVar(&p.socket, "socket", "", "the server's socket (default $"+spiffeSocket+", else "+config.WorkloadSocket(defaultDataDir)+")")
}

// path returns the socket of the server that was named, or of the one of this host.
func (p *endpoint) path() (string, error) {
	switch env := os.Getenv(spiffeSocket); {
	case p.socket != "" && (p.config != "" || p.dataDir != ""):
		return "", misuse(errors.New("--socket says where the server is: leave --data-dir and --config away"))
	case p.socket != "":
		if path, ok := socketPath(p.socket); ok {
			return path, nil
		}
		if strings.Contains(p.socket, "://") {
			return "", misuse(fmt.Errorf("--socket %q: want a path, or unix:///PATH", p.socket))
		}
		return p.socket, nil
	case p.config != "" && p.dataDir == "":
		cfg, err := load(p.config)
		if err != nil {
			return "", err
		}
		return cfg.Workload.Listen, nil
	case p.config != "" || p.dataDir != "":
		dir, err := p.dir() // which says that it takes one of them
		return config.WorkloadSocket(dir), err
	case env != "":
		if path, ok := socketPath(env); ok {
			return path, nil
		}
		return "", misuse(fmt.Errorf("%s is %q: want unix:///PATH", spiffeSocket, env))
	}
	return config.WorkloadSocket(defaultDataDir), nil
}

// socketPath returns the path of a URI of a Unix socket, unix:///PATH or unix:/PATH
// (SPIFFE Workload Endpoint section 4).
func socketPath(uri string) (path string, ok bool) {
	path, ok = strings.CutPrefix(uri, "unix:")
	path = strings.TrimPrefix(path, "//")
	return path, ok && strings.HasPrefix(path, "/")
}

// dial is a client of the server behind a Unix socket.
type dial struct {
	socket string
	http   *http.Client
}

// askTimeout bounds one question to a server on this host.
const askTimeout = 30 * time.Second

func newDial(socket string) *dial {
	return &dial{socket, &http.Client{Timeout: askTimeout, Transport: &http.Transport{
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		},
	}}}
}

// maxAnswer bounds what is read of an answer, in bytes: 100,000 sessions are 40 MiB.
const maxAnswer = 64 << 20

// ask sends one request and returns the answer. A server that cannot be asked is a
// failure, and told with what may be the matter.
func (d *dial) ask(ctx context.Context, method, path, body string, header http.Header) (*http.Response, string, error) {
	req, err := http.NewRequestWithContext(ctx, method, "http://sallyport"+path, strings.NewReader(body))
	if err != nil {
		return nil, "", misuse(err)
	}
	if body == "" {
		req.Body = http.NoBody
	}
	req.Header = header
	resp, err := d.http.Do(req)
	if err != nil {
		return nil, "", failed(d.unreachable(err))
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(io.LimitReader(resp.Body, maxAnswer))
	if err != nil {
		return nil, "", failed(d.unreachable(err))
	}
	return resp, string(text), nil
}

// metadata asks the metadata door that is behind a server's workload.sock.
func (d *dial) metadata(ctx context.Context, path string) (*http.Response, string, error) {
	resp, text, err := d.ask(ctx, http.MethodGet, path, "", http.Header{"Metadata-Flavor": {"Google"}})
	if err == nil && resp.Header.Get("Metadata-Flavor") != "Google" {
		err = failed(fmt.Errorf("what is at %s answers %d and is no workload.sock of a server", d.socket, resp.StatusCode))
	}
	return resp, text, err
}

func (d *dial) unreachable(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED):
		return fmt.Errorf("no server is at %s: is it running, and is that its data_dir?", d.socket)
	case errors.Is(err, os.ErrPermission) && filepath.Base(d.socket) == filepath.Base(config.AdminSocket("")):
		return fmt.Errorf("%s cannot be reached by this user: the server's own user administers it, and those whom admin.uids of its file lists", d.socket)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%s cannot be reached by this user: the folder it is in must let others pass (chmod o+x)", d.socket)
	}
	return fmt.Errorf("the server at %s cannot be asked: %w", d.socket, err)
}
