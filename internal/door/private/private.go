// Package private is the door that `sallyport run` opens for one program: a metadata
// door on a loopback address of its own, for that program and its descendants.
//
// It runs as the program's user, beside the program, and ends with it. It hands what
// it is asked to the server, over the server's Unix socket, and decides one thing: that
// the caller is the program or descends from it. That its user may act as the account
// is decided by the server, each time anew.
package private

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// Prefix begins the paths at which the server acts as an account: Prefix + ACCOUNT +
// the path that the program asked for.
const Prefix = "/run/"

// Kin knows who may come in.
type Kin interface {
	// Check fails unless the caller is the program or descends from it.
	Check(ctx context.Context, c attest.Conn) error
}

// maxForwarded is how many requests the server is asked at a time: more than it lets one
// user have waiting, or in the making, so that it is the server who says no.
const maxForwarded = 256

// A Door forwards requests.
type Door struct {
	kin    Kin
	local  door.Local // for its Check alone
	proxy  *httputil.ReverseProxy
	report string // where refusals are told

	mu   sync.Mutex
	told int       // of late
	last time.Time // when told was begun to be counted anew
}

// How many refusals the server is told of in a minute: strangers make them, and the server
// counts them with the door's own user.
const maxTold = 60

// New returns a Door that listens on address and speaks for account to the server
// behind socket.
func New(address, socket, account string, kin Kin) *Door {
	d := &Door{kin: kin, local: door.Local{Hosts: door.Hosts(address)}, report: "http://sallyport" + Prefix + account + RefusedPath}
	d.proxy = &httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			in := r.In.URL
			// nothing of the target but its path and query is handed on: http://HOST/PATH and
			// X:OPAQUE name others. The query goes as it came: the server judges it.
			r.Out.URL = &url.URL{Scheme: "http", Host: "sallyport", Path: Prefix + account + in.Path, RawPath: Prefix + account + in.EscapedPath(), RawQuery: in.RawQuery}
			r.Out.Host = "sallyport"
		},
		Transport: &http.Transport{
			DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
				return (&net.Dialer{}).DialContext(ctx, "unix", socket)
			},
			MaxIdleConnsPerHost: 16,
			MaxConnsPerHost:     maxForwarded,
			IdleConnTimeout:     time.Minute,
		},
		ErrorLog: slog.NewLogLogger(slog.DiscardHandler, slog.LevelError), // there is nobody to read it
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, _ error) {
			refuse(w, http.StatusServiceUnavailable, "the Sallyport server cannot be reached")
		},
	}
	return d
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if reason, why := d.local.Check(r); reason != "" {
		d.turnAway(w, r, reason, errors.New(why))
		return
	}
	if !strings.HasPrefix(r.URL.Path, "/") {
		d.turnAway(w, r, guard.PathUnknown, errors.New("the request target is no path"))
		return
	}
	err := errors.New("the connection was not accepted by a listener that attests")
	if c, ok := door.Caller(r.Context()); ok {
		err = d.kin.Check(r.Context(), c)
	}
	if err != nil {
		d.turnAway(w, r, guard.NoDescendant, err)
		return
	}
	d.proxy.ServeHTTP(w, r)
}

// turnAway answers as the server would.
func (d *Door) turnAway(w http.ResponseWriter, r *http.Request, reason guard.Reason, why error) {
	f := reason.Fault()
	refuse(w, door.Status(w.Header(), f), f.Public+d.tell(r.Context(), reason, why))
}

func (d *Door) mayTell(now time.Time) bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	if now.Sub(d.last) > time.Minute {
		d.told, d.last = 0, now
	}
	d.told++
	return d.told <= maxTold
}

// tell has the server record why a caller was turned away, and returns the decision for
// the caller; "" when the server cannot be reached, or counts such refusals by now.
func (d *Door) tell(ctx context.Context, reason guard.Reason, why error) string {
	if !d.mayTell(time.Now()) {
		return ""
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, d.report+"?"+string(reason), strings.NewReader(why.Error()))
	if err != nil {
		return ""
	}
	resp, err := d.proxy.Transport.RoundTrip(req)
	if err != nil {
		return ""
	}
	defer resp.Body.Close()
	if id, err := io.ReadAll(io.LimitReader(resp.Body, maxReport)); err == nil && resp.StatusCode == http.StatusOK && len(id) > 0 {
		return " (decision " + string(id) + ")"
	}
	return ""
}

func refuse(w http.ResponseWriter, status int, why string) {
	w.Header().Set("Metadata-Flavor", "Google") // or clients take it that nobody is here
	http.Error(w, why, status)
}
