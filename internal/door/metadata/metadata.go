// Package metadata is a door in the shape of the GCE metadata server, so that
// programs written against Google's client libraries get identities here without
// a change.
//
// Who calls is attested by the guard, never said by the caller: the header and host
// rules only keep out browsers and proxies that were tricked into asking. What a
// request may look like, and how tokens are asked for, is package door's; the
// contract is google-clients, sections 0 and 1, and docs/spec/gce-metadata.md says
// what each row of it became.
package metadata

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/fault"
	"github.com/sallyport-dev/sallyport/internal/guard"
)

// DefaultUniverse is the universe domain that a door answers with.
const DefaultUniverse = "googleapis.com"

// A Door is one listener for a set of accounts.
type Door struct {
	local   *door.Local
	tree    *node
	now     func() time.Time
	changed chan struct{} // closed when waiting for a change is over
	close   sync.Once
	always  []field // that every answer has
}

// New returns a Door for a completed Config.
func New(c Config, l *door.Local, now func() time.Time) *Door {
	return &Door{local: l, tree: c.tree(), now: now, changed: make(chan struct{}), always: []field{
		{flavor, []string{"Google"}},
		{"Server", []string{"Metadata Server for VM"}},
		{"X-Xss-Protection", []string{"0"}},
		{"X-Frame-Options", []string{"SAMEORIGIN"}},
		{"Cache-Control", []string{"no-store"}},
	}}
}

// Close answers those who wait for a change: there will be none.
func (d *Door) Close() { d.close.Do(func() { close(d.changed) }) }

// Base is where the tree begins.
const Base = "/computeMetadata/v1/"

// flavor is the header that every request but to "/" must have, and every answer
// has.
const flavor = "Metadata-Flavor"

// ServeHTTP keeps the rules of contract 1.2 before any path is looked at.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	h := w.Header() // by their canonical names: every answer has them, and Set takes its time
	for _, f := range d.always {
		h[f.name] = f.values
	}
	if reason, why := d.local.Check(r); reason != "" {
		d.fail(w, d.local.Refuse(r, reason, why))
		return
	}
	if r.URL.Path != "/" && !(len(r.Header[flavor]) == 1 && r.Header.Get(flavor) == "Google") {
		const why = "the request lacks the header Metadata-Flavor: Google"
		f := d.local.Refuse(r, guard.FlavorMissing, why)
		if f.Code != fault.Busy {
			f.Public = why
		}
		d.fail(w, f)
		return
	}
	if err := d.serve(w, r); err != nil {
		d.fail(w, err)
	}
}

// A field of the header; net/http reads values and does not change them.
type field struct {
	name   string
	values []string
}

func (d *Door) serve(w http.ResponseWriter, r *http.Request) error {
	switch r.URL.Path {
	case "/":
		return d.fixed(w, r, "computeMetadata/\n")
	case "/computeMetadata/":
		return d.fixed(w, r, "v1/\n")
	case "/computeMetadata", strings.TrimSuffix(Base, "/"):
		return d.redirect(w, r)
	}
	path, ok := split(r.URL)
	if !ok {
		return d.local.Refuse(r, guard.PathUnknown, "no such path in the metadata tree")
	}
	if len(path) == 4 && path[0] == "instance" && path[1] == "service-accounts" {
		switch path[3] {
		case "identity":
			return d.identity(w, r, path[2])
		case "token":
			return d.token(w, r, path[2])
		}
	}
	return d.value(w, r, path)
}

// split takes a path below Base apart; a directory's ends in "". Each part is
// unescaped by itself: %2F is in a name, where no name has one.
func split(u *url.URL) ([]string, bool) {
	rest, ok := strings.CutPrefix(u.EscapedPath(), Base)
	if !ok {
		return nil, false
	}
	parts := strings.Split(rest, "/")
	for i, p := range parts {
		name, err := url.PathUnescape(p)
		if err != nil {
			return nil, false
		}
		parts[i] = name
	}
	return parts, true
}

func (d *Door) fixed(w http.ResponseWriter, r *http.Request, body string) error {
	if r.URL.RawQuery != "" {
		return d.local.Parameter(r, errors.New("this path takes no parameters"))
	}
	answer(w, "application/text", body)
	return nil
}

// redirect answers a directory's path that has no slash at its end, as Google's
// server does: with 404 Node would take it that there is none (contract 1.3).
func (d *Door) redirect(w http.ResponseWriter, r *http.Request) error {
	to := &url.URL{Path: r.URL.Path + "/", RawPath: r.URL.EscapedPath() + "/", RawQuery: r.URL.RawQuery}
	w.Header().Set("Location", to.RequestURI())
	w.WriteHeader(http.StatusMovedPermanently)
	return nil
}

func (d *Door) identity(w http.ResponseWriter, r *http.Request, account string) error {
	q, err := readIdentityQuery(r.URL.RawQuery)
	if err != nil {
		return d.local.Parameter(r, err)
	}
	among, err := d.among(r, account)
	if err != nil {
		return err
	}
	raw, err := d.local.IDToken(r, among, q.audience, q.full)
	if err != nil {
		if f := fault.Of(err); f.Code == fault.Denied && q.audience == gcloudAudience {
			f.Code = fault.Absent // 403 here crashes gcloud (contract 0.14)
		}
		return err
	}
	answer(w, "text/html", raw) // not application/json: Python would parse it
	return nil
}

// gcloudAudience is gcloud's own client id, for which it asks first of all.
const gcloudAudience = "32555940559.apps.googleusercontent.com"

func (d *Door) token(w http.ResponseWriter, r *http.Request, account string) error {
	scopes, err := readTokenQuery(r.URL.RawQuery)
	if errors.Is(err, errScope) {
		f := d.local.Refuse(r, guard.ScopeRefused, err.Error())
		if f.Code != fault.Busy {
			f.Public = err.Error()
		}
		return f
	}
	if err != nil {
		return d.local.Parameter(r, err)
	}
	among, err := d.among(r, account)
	if err != nil {
		return err
	}
	raw, expires, err := d.local.AccessToken(r, among, scopes)
	if err != nil {
		return err
	}
	// a second less than it has, as Google's server says; a number, or Go and Python
	// fail (contract 0.11)
	left := strconv.Itoa(int(expires.Sub(d.now()).Seconds()) - 1)
	answer(w, "application/json", `{"access_token":"`+raw+`","expires_in":`+left+`,"token_type":"Bearer"}`)
	return nil
}

func (d *Door) among(r *http.Request, account string) ([]string, error) {
	among := d.local.Among(account)
	if len(among) == 0 {
		return nil, d.local.Refuse(r, guard.PathUnknown, "the path names an account that this door does not serve")
	}
	return among, nil
}

// value answers a value or a directory of the tree.
func (d *Door) value(w http.ResponseWriter, r *http.Request, path []string) error {
	q, err := readValueQuery(r.URL.RawQuery)
	if err != nil {
		return d.local.Parameter(r, err)
	}
	slash := path[len(path)-1] == ""
	if slash {
		path = path[:len(path)-1]
	}
	tree := d.tree
	n, private := tree.find(path)
	var pass *guard.Pass
	if private || n != nil && q.recursive && n.reveals() {
		if pass, tree, err = d.mine(r, path); err != nil {
			return err
		}
		n, _ = tree.find(path)
	}
	switch {
	case n == nil || slash && n.children == nil:
		return d.local.Refuse(r, guard.PathUnknown, "no such path in the metadata tree")
	case !slash && n.children != nil && !q.recursive:
		return d.redirect(w, r)
	}
	contentType, body := n.render(q, strings.Join(path, "/"))
	if q.wait && etag(body) == q.lastETag || q.wait && q.lastETag == "" {
		if err := d.wait(r, q.timeout); err != nil {
			return err
		}
	}
	if pass != nil {
		if err := pass.Still(r.Context()); err != nil {
			return err
		}
	}
	w.Header().Set("ETag", etag(body))
	answer(w, contentType, string(body))
	return nil
}

// wait returns when the tree has changed, or the time is over: `wait_for_change`
// (contract 1.3). The tree of a door never changes as long as it is served.
func (d *Door) wait(r *http.Request, timeout time.Duration) error {
	conn, _ := door.Caller(r.Context())
	leave, ok := d.local.Waiting.Enter(conn.UID())
	if !ok {
		return &fault.Error{Code: fault.TooMany, Public: "too many requests of this user wait for a change", RetryAfter: 5 * time.Second}
	}
	defer leave()
	t := time.NewTimer(timeout)
	defer t.Stop()
	select {
	case <-t.C:
	case <-d.changed:
	case <-r.Context().Done():
	}
	return nil
}

// mine admits the caller to what is its own, and returns the tree as it sees it.
func (d *Door) mine(r *http.Request, path []string) (*guard.Pass, *node, error) {
	account := "default"
	if len(path) > 2 && path[0] == "instance" && path[1] == "service-accounts" {
		account = path[2]
	}
	among, err := d.among(r, account)
	if err != nil {
		return nil, nil, err
	}
	pass, err := d.local.Itself(r, among)
	if err != nil {
		return nil, nil, err
	}
	a, err := pass.Admission()
	if err != nil {
		return nil, nil, err
	}
	tree := d.tree.withAccount(&a.Principal)
	if account == a.Principal.Name { // the tree has it by its address
		path[2] = a.Principal.Email
	}
	return pass, tree, nil
}

// render writes a value or directory as it was asked for.
func (n *node) render(q valueQuery, path string) (contentType string, body []byte) {
	switch {
	case q.recursive && q.alt == "text":
		return "application/text", n.appendLines(nil, relative(path, n))
	case q.recursive || q.alt == "json" && n.children == nil:
		return "application/json", n.appendJSON(nil, chosen(path))
	case n.children != nil:
		return "application/text", []byte(n.listing())
	}
	return "application/text", []byte(n.text)
}

// relative is what the lines of a recursive answer begin with: of one value its own
// name, of a directory nothing.
func relative(path string, n *node) string {
	if n.children != nil {
		return ""
	}
	return path[strings.LastIndexByte(path, '/')+1:]
}

// chosen reports whether the names in the directory at path are people's.
func chosen(path string) bool {
	return slices.Contains([]string{"instance/attributes", "project/attributes", "instance/service-accounts"}, path)
}

func answer(w http.ResponseWriter, contentType, body string) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	_, _ = io.WriteString(w, body) // the client has gone; nothing to add
}

// fail is the only place this door writes an error.
func (d *Door) fail(w http.ResponseWriter, err error) {
	f := fault.Of(err)
	status := door.Status(w.Header(), f)
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	w.WriteHeader(status)
	id := ""
	if f.Decision != "" {
		id = " (decision " + f.Decision + ")"
	}
	_, _ = fmt.Fprintln(w, f.Public+id)
}
