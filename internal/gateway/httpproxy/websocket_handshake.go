package httpproxy

import (
	"bufio"
	"crypto/sha1"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strings"

	"golang.org/x/net/http/httpguts"
)

// An upgrade is what a client asks for in its opening handshake (RFC 6455 section 4).
type upgrade struct {
	key       string
	protocols []string // offered
	deflate   bool     // permessage-deflate is among the offered extensions
	offers    []string // of it, as they came
}

const (
	webSocket         = "websocket"
	webSocketVersion  = "13"
	permessageDeflate = "permessage-deflate"
	acceptSuffix      = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11" // RFC 6455 section 1.3
)

var errVersion = errors.New("the version of WebSocket is not 13")

// readUpgrade reads the opening handshake (section 4.2.1). The error says what is
// wrong, for the record; errVersion is answered 426 with Sec-WebSocket-Version: 13
// (section 4.4).
func readUpgrade(r *http.Request) (upgrade, error) {
	h := r.Header
	key, one := only(h, "Sec-Websocket-Key")
	raw, err := base64.StdEncoding.Strict().DecodeString(key)
	version, oneVersion := only(h, "Sec-Websocket-Version")
	protocol, oneUpgrade := only(h, "Upgrade")
	switch {
	case r.Method != http.MethodGet || r.ProtoMajor != 1 || r.ProtoMinor < 1:
		return upgrade{}, errors.New("a WebSocket begins with GET over HTTP/1.1")
	case !oneUpgrade || !strings.EqualFold(protocol, webSocket):
		return upgrade{}, errors.New("the field Upgrade is not websocket alone")
	case !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return upgrade{}, errors.New("the field Connection does not name upgrade")
	case !oneVersion || version != webSocketVersion:
		return upgrade{}, errVersion
	case !one || err != nil || len(raw) != 16:
		return upgrade{}, errors.New("Sec-WebSocket-Key is not 16 bytes in base64")
	case r.ContentLength != 0 || len(r.TransferEncoding) > 0:
		return upgrade{}, errors.New("an opening handshake has no body")
	}
	u := upgrade{key: key}
	for _, p := range elements(h["Sec-Websocket-Protocol"]) {
		if !httpguts.ValidHeaderFieldName(p) || slices.Contains(u.protocols, p) { // a token, as names of fields are
			return upgrade{}, errors.New("Sec-WebSocket-Protocol is no list of different tokens")
		}
		u.protocols = append(u.protocols, p)
	}
	for _, e := range elements(h["Sec-Websocket-Extensions"]) {
		if extension(e) == permessageDeflate {
			u.deflate = true
			u.offers = append(u.offers, e)
		}
	}
	return u, nil
}

// offer writes the handshake to the header of the request for the upstream. Extensions
// that are not known here are not offered to it: what they do with the reserved bits
// could not be judged.
func (u *upgrade) offer(h http.Header) {
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", webSocket)
	h.Set("Sec-Websocket-Key", u.key)
	h.Set("Sec-Websocket-Version", webSocketVersion)
	h.Del("Sec-Websocket-Accept")
	h.Del("Sec-Websocket-Extensions")
	if len(u.offers) > 0 {
		h.Set("Sec-Websocket-Extensions", strings.Join(u.offers, ", "))
	}
}

// agreed checks the upstream's 101 as a client has to (section 4.1) and reports whether
// permessage-deflate was agreed on.
func (u *upgrade) agreed(resp *http.Response) (deflate bool, err error) {
	h := resp.Header
	protocol, oneUpgrade := only(h, "Upgrade")
	accept, one := only(h, "Sec-Websocket-Accept")
	sum := sha1.Sum([]byte(u.key + acceptSuffix)) // what the RFC says; nothing rests on it
	extensions := elements(h["Sec-Websocket-Extensions"])
	protocols := h["Sec-Websocket-Protocol"]
	switch {
	case resp.StatusCode != http.StatusSwitchingProtocols:
		return false, fmt.Errorf("the upstream answered %d", resp.StatusCode)
	case !oneUpgrade || !strings.EqualFold(protocol, webSocket) || !httpguts.HeaderValuesContainsToken(h["Connection"], "upgrade"):
		return false, errors.New("the upstream does not switch to websocket")
	case !one || accept != base64.StdEncoding.EncodeToString(sum[:]):
		return false, errors.New("the upstream's Sec-WebSocket-Accept is not that of the key")
	case len(protocols) > 1 || len(protocols) == 1 && !slices.Contains(u.protocols, protocols[0]):
		return false, errors.New("the upstream chose a subprotocol that was not offered")
	case len(extensions) > 1 || len(extensions) == 1 && (!u.deflate || extension(extensions[0]) != permessageDeflate):
		return false, errors.New("the upstream chose an extension that was not offered")
	}
	return len(extensions) == 1, nil
}

// only returns the one value of a field, without spaces around it.
func only(h http.Header, name string) (string, bool) {
	if len(h[name]) != 1 {
		return "", false
	}
	return strings.Trim(h[name][0], " \t"), true
}

// elements splits a field's lists at commas outside quoted strings (RFC 9110 section
// 5.6.1); empty ones do not count.
func elements(values []string) []string {
	var out []string
	for _, v := range values {
		start, quoted := 0, false
		for i := 0; i <= len(v); i++ {
			switch {
			case i == len(v) || v[i] == ',' && !quoted:
				if e := strings.Trim(v[start:i], " \t"); e != "" {
					out = append(out, e)
				}
				start = i + 1
			case v[i] == '\\' && quoted && i+1 < len(v):
				i++
			case v[i] == '"':
				quoted = !quoted
			}
		}
	}
	return out
}

// extension returns the name of an extension, without its parameters.
func extension(element string) string {
	name, _, _ := strings.Cut(element, ";")
	return strings.TrimRight(name, " \t")
}

// serve does what follows the upstream's answer to an upgrade: it checks that, switches
// the client's connection over, and relays until the end. The counts are relay's. While
// written is false nothing was said to the client, who is owed a 502 for err.
func (u *upgrade) serve(w http.ResponseWriter, resp *http.Response, pass session, t terms) (in, out int64, written bool, err error) {
	t.deflate, err = u.agreed(resp)
	upstream, ok := resp.Body.(duplex)
	if err == nil && !ok {
		err = errors.New("the upstream's connection cannot be written to")
	}
	if err != nil {
		_ = resp.Body.Close()
		return 0, 0, false, err
	}
	client, err := answerUpgrade(w, resp.Header)
	if err != nil {
		_ = upstream.Close()
		return 0, 0, true, err
	}
	in, out, err = relay(client, upstream, pass, t)
	return in, out, true, err
}

// answerUpgrade takes the client's connection from net/http and writes the 101 to it.
func answerUpgrade(w http.ResponseWriter, h http.Header) (duplex, error) {
	conn, buffered, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return nil, fmt.Errorf("take over the client's connection: %w", err)
	}
	named := connectionOptions(h["Connection"])
	for name := range h {
		if hop[name] || named[name] {
			delete(h, name)
		}
	}
	h.Set("Connection", "Upgrade")
	h.Set("Upgrade", webSocket)
	h.Del("Content-Length") // RFC 9110 section 8.6: not in a 1xx
	_, _ = io.WriteString(buffered, "HTTP/1.1 101 Switching Protocols\r\n")
	_ = h.Write(buffered)
	_, _ = io.WriteString(buffered, "\r\n")
	if err := buffered.Flush(); err != nil { // which has the errors before it
		_ = conn.Close()
		return nil, fmt.Errorf("the client is lost: %w", err)
	}
	return newHijacked(conn, buffered.Reader), nil
}

// hijacked is a connection with what net/http had read of it already. Only one
// goroutine reads.
type hijacked struct {
	net.Conn
	first []byte
}

func newHijacked(conn net.Conn, r *bufio.Reader) *hijacked {
	c := &hijacked{Conn: conn}
	if n := r.Buffered(); n > 0 {
		c.first = make([]byte, n) // a copy, so that the reader can go
		_, _ = io.ReadFull(r, c.first)
	}
	return c
}

// Read reads what came first first.
func (c *hijacked) Read(b []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.first)
	if c.first = c.first[n:]; len(c.first) == 0 {
		c.first = nil
	}
	return n, nil
}

// CloseWrite ends what is written, where the connection can end that alone.
func (c *hijacked) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}
