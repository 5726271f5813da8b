package httpproxy

import (
	"io"
	"net/http"
	"net/url"
	"time"
)

// RelayTerms are terms, by names that tests can write.
type RelayTerms struct {
	Deflate         bool
	Limit           int64
	Stall, Farewell time.Duration
}

// RelaySession is session.
type RelaySession = session

func (t RelayTerms) terms() terms { return terms{t.Deflate, t.Limit, t.Stall, t.Farewell} }

// Relay is relay.
func Relay(client, upstream io.ReadWriteCloser, pass RelaySession, t RelayTerms) (in, out int64, err error) {
	return relay(client, upstream, pass, t.terms())
}

// WebSocketOnly is the proxy without admission: upgrades go to upstream under pass.
// over is told how each relay ended.
func WebSocketOnly(upstream string, pass RelaySession, t RelayTerms, over func(in, out int64, err error)) http.Handler {
	to, forward := upstream, &http.Transport{DisableCompression: true}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		u, err := readUpgrade(r)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		request := r.Clone(r.Context())
		request.RequestURI, request.URL = "", &url.URL{Scheme: "http", Host: to, Path: "/"}
		u.offer(request.Header)
		resp, err := forward.RoundTrip(request)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		in, out, written, err := u.serve(w, resp, pass, t.terms())
		if !written {
			http.Error(w, err.Error(), http.StatusBadGateway)
			return
		}
		over(in, out, err)
	})
}
