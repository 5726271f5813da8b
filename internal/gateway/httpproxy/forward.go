package httpproxy

import (
	"context"
	"errors"
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"net/textproto"
	"net/url"
	"strings"
	"sync"
	"time"

	"golang.org/x/net/http/httpguts"
)

// forward sends what was admitted upstream and passes the answer on.
func (x *exchange) forward() {
	ctx, cancel := context.WithCancelCause(x.r.Context())
	w := &watched{control: http.NewResponseController(x.w), cancel: cancel, streams: x.r.ProtoMajor == 2, stall: x.p.stall}
	defer w.done()
	defer x.body.leave(w)
	x.pass.OnEnd(func() { w.cut(x.pass.Err()) })
	if t := x.at.Timeout; t > 0 && !x.grpc && x.upgrade == nil {
		defer time.AfterFunc(t, func() { w.cut(errTimeout) }).Stop()
	}
	x.count.control, x.count.pace = w.control, pace{watched: w, deadline: w.control.SetWriteDeadline}
	if !x.grpc { // a call may have nothing to say for hours
		x.body.pace = pace{watched: w, deadline: w.control.SetReadDeadline}
	}
	out, err := x.outgoing(ctx, w)
	if err == nil {
		err = x.pass.Err() // which OnEnd's goroutine may not have got to
	}
	if err != nil {
		x.upstreamFailed(err)
		return
	}
	resp, err := x.route.upstream.RoundTrip(out)
	w.answered()
	switch {
	case err != nil:
		if cut := context.Cause(ctx); errors.Is(cut, errTimeout) {
			err = cut // whatever it was that was cut
		}
		x.upstreamFailed(err)
	case resp.StatusCode == http.StatusSwitchingProtocols:
		x.switched(resp)
	default:
		x.passOn(resp)
	}
}

// outgoing builds the request for the upstream: what was judged, who called, and nothing
// that concerns only the caller's connection.
func (x *exchange) outgoing(ctx context.Context, w *watched) (*http.Request, error) {
	in := x.r
	if in.ProtoAtLeast(1, 1) { // an older client gets none (RFC 9110 section 15.2)
		ctx = httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{Got1xxResponse: func(status int, h textproto.MIMEHeader) error { return x.informed(w, status, h) }})
	}
	out := (&http.Request{
		Method: in.Method, Host: x.host, Header: x.header(), ContentLength: in.ContentLength, Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		URL: &url.URL{Scheme: "http", Host: x.host, Path: x.path.decoded, RawPath: x.path.escaped,
			RawQuery: in.URL.RawQuery, ForceQuery: in.URL.ForceQuery},
	}).WithContext(ctx)
	if in.ContentLength != 0 && in.Body != nil && in.Body != http.NoBody {
		x.body.ReadCloser, x.body.limit = in.Body, int64(x.at.MaxBody)
		if in.ProtoMajor == 1 {
			_ = x.count.control.EnableFullDuplex() // the answer may begin before the body ends
		}
		out.Body = &x.body
		out.Trailer = x.trailer()
		x.body.atEnd = func() {
			for name := range out.Trailer {
				out.Trailer[name] = in.Trailer[name]
			}
		}
	}
	return out, nil
}

// header builds the header of the request for the upstream.
func (x *exchange) header() http.Header {
	in := x.r.Header
	out := make(http.Header, len(in)+8)
	named := connectionOptions(in["Connection"])
	for name, v := range in {
		if name == x.judged || named[name] || x.route.drops(name) {
			continue
		}
		out[name] = v
	}
	if x.public() {
		out.Del(authorization)
		out.Del(serverless)
	}
	if httpguts.HeaderValuesContainsToken(in["Te"], "trailers") {
		out["Te"] = []string{"trailers"}
	}
	if x.upgrade != nil {
		x.upgrade.offer(out)
	}
	out["X-Forwarded-For"] = []string{x.from}
	out["X-Forwarded-Host"] = []string{x.r.Host}
	out["X-Forwarded-Proto"] = []string{x.scheme}
	if _, there := out["User-Agent"]; !there {
		out["User-Agent"] = nil // or the transport would name itself
	}
	if x.assertion != "" {
		out[AssertionHeader] = []string{x.assertion}
	}
	for name, v := range x.identity {
		out[name] = v
	}
	return out
}

// trailer returns the names of the request's trailers that go upstream; their values come
// with the body's end.
func (x *exchange) trailer() http.Header {
	var out http.Header
	for name := range x.r.Trailer {
		if !x.route.drops(name) && name != authorization && name != serverless {
			if out == nil {
				out = http.Header{}
			}
			out[name] = nil
		}
	}
	return out
}

// informed passes on an answer that only informs (RFC 9110 section 15.2). 100 is not
// meant: it is said to whoever waits for it when its body is read. A transport may still
// read one when it has given the request up.
func (x *exchange) informed(w *watched, status int, header textproto.MIMEHeader) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if status == http.StatusContinue || w.begun {
		return nil
	}
	h := x.w.Header()
	before := maps.Clone(h)
	for name, v := range header {
		if !hop[name] && name != DecisionHeader {
			h[name] = v
		}
	}
	// of a stream that is reset, net/http's HTTP/2 may read the map when this returns; it
	// copies one with this field, and sends that in neither version
	h["Content-Length"] = []string{"0"}
	x.w.WriteHeader(status)
	clear(h) // what informs is no part of the answer
	maps.Copy(h, before)
	return nil
}

// hop are fields that concern one connection (RFC 9110 section 7.6.1).
var hop = map[string]bool{
	"Connection": true, "Proxy-Connection": true, "Keep-Alive": true, "Proxy-Authenticate": true, "Proxy-Authorization": true,
	"Te": true, "Trailer": true, "Transfer-Encoding": true, "Upgrade": true, "Http2-Settings": true,
}

// connectionOptions returns the fields that Connection names, which concern one connection,
// too; nil for none.
func connectionOptions(lines []string) map[string]bool {
	var out map[string]bool
	for _, line := range lines {
		for option := range strings.SplitSeq(line, ",") {
			option = strings.TrimSpace(option)
			if option == "" || strings.EqualFold(option, "close") || strings.EqualFold(option, "keep-alive") {
				continue
			}
			if out == nil {
				out = map[string]bool{}
			}
			out[textproto.CanonicalMIMEHeaderKey(option)] = true
		}
	}
	return out
}

// passOn passes an answer on, to its last byte and its trailers.
func (x *exchange) passOn(resp *http.Response) {
	defer resp.Body.Close()
	h := x.w.Header()
	named := connectionOptions(resp.Header["Connection"])
	for name, v := range resp.Header {
		if !hop[name] && !named[name] && name != DecisionHeader {
			h[name] = v
		}
	}
	if _, there := h["Content-Type"]; !there {
		h["Content-Type"] = nil // nobody guesses
	}
	x.at.CORS.allowed(h, x.r.Header.Get("Origin"))
	if resp.StatusCode == http.StatusNoContent || resp.StatusCode == http.StatusNotModified {
		delete(h, "Content-Length") // HTTP/2 clients wait for it, and a 204 must not have one (RFC 9110 section 8.6)
	}
	for name := range resp.Trailer {
		if !hop[name] && name != DecisionHeader {
			h.Add("Trailer", name)
		}
	}
	announced := len(resp.Trailer)
	x.early()
	x.count.WriteHeader(resp.StatusCode)
	stream := resp.ContentLength < 0
	if stream && x.r.Method != http.MethodHead {
		_ = x.count.flush() // somebody may wait for the header fields alone
	}
	err := x.copyBody(resp.Body, stream)
	if ended := x.pass.Err(); ended != nil {
		x.ended(ended)
		return
	}
	if err != nil {
		if x.r.Context().Err() == nil {
			x.p.core.Logger.Warn("an answer broke off", "decision", x.id, "service", x.route.service, "error", err.Error())
		}
		if x.grpc {
			code, detail := x.broke()
			endGRPC(x.w, code, detail, x.id)
			return
		}
		panic(http.ErrAbortHandler)
	}
	if x.count.n > 0 {
		x.count.pace.leave()
	}
	for name, v := range resp.Trailer {
		if hop[name] || name == DecisionHeader {
			continue
		}
		if len(resp.Trailer) > announced {
			name = http.TrailerPrefix + name
		}
		h[name] = v
	}
}

// copyBuffers are lent while an answer is copied.
var copyBuffers = sync.Pool{New: func() any { return new([32 << 10]byte) }}

func (x *exchange) copyBody(from io.Reader, stream bool) error {
	if from == http.NoBody {
		return nil
	}
	buf := copyBuffers.Get().(*[32 << 10]byte)
	defer copyBuffers.Put(buf)
	for {
		n, err := from.Read(buf[:])
		if n > 0 {
			if x.pass.Ended() {
				return x.pass.Err()
			}
			if _, werr := x.count.Write(buf[:n]); werr != nil {
				return werr
			}
			if stream {
				if werr := x.count.flush(); werr != nil {
					return werr
				}
			}
		}
		if err == io.EOF {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// switched goes on with a WebSocket, if that was asked for.
func (x *exchange) switched(resp *http.Response) {
	if x.upgrade == nil {
		_ = resp.Body.Close()
		x.upstreamFailed(errors.New("the upstream switches protocols, which nobody asked for"))
		return
	}
	delete(resp.Header, DecisionHeader)
	in, out, written, err := x.upgrade.serve(x.w, resp, x.pass, terms{})
	x.body.n.Add(in)
	x.count.n += out
	switch {
	case !written:
		x.upstreamFailed(err)
	case err != nil && x.pass.Err() == nil:
		x.p.core.Logger.Info("a WebSocket ended badly", "decision", x.id, "service", x.route.service, "error", err.Error())
	}
}

// upstreamFailed answers for an upstream that did not, or says why there was no time.
func (x *exchange) upstreamFailed(err error) {
	if ended := x.pass.Err(); ended != nil {
		x.ended(ended)
		return
	}
	var large *tooLarge
	switch {
	case x.count.begun:
		panic(http.ErrAbortHandler)
	case errors.As(err, &large):
		x.last()
		x.answer(http.StatusRequestEntityTooLarge, "body is too large", x.id)
		return
	case errors.Is(err, errTimeout):
		x.answer(http.StatusGatewayTimeout, "the service did not answer in time", x.id)
		return
	case x.r.Context().Err() == nil: // else the client has gone
		x.p.core.Logger.Warn("the upstream did not answer", "decision", x.id, "service", x.route.service, "error", err.Error())
	}
	if x.grpc {
		code, detail := x.broke()
		answerGRPC(x.w, code, detail, x.id)
		return
	}
	x.answer(http.StatusBadGateway, "the service did not answer", x.id)
}

// tooLarge is a body longer than its route allows.
type tooLarge struct{}

func (*tooLarge) Error() string { return "the request's body is larger than max_body" }

// countingWriter writes an answer: it counts it, and does not wait for ever for a client
// that reads nothing.
type countingWriter struct {
	http.ResponseWriter
	n       int64
	begun   bool
	control *http.ResponseController
	pace    pace
}

// WriteHeader implements http.ResponseWriter.
func (c *countingWriter) WriteHeader(status int) {
	c.begun = true
	c.ResponseWriter.WriteHeader(status)
}

// Write implements io.Writer.
func (c *countingWriter) Write(b []byte) (int, error) {
	c.pace.begin()
	n, err := c.ResponseWriter.Write(b)
	c.pace.end()
	c.n += int64(n)
	return n, err
}

// flush sends what was written.
func (c *countingWriter) flush() error {
	c.pace.begin()
	defer c.pace.end()
	return c.control.Flush()
}
