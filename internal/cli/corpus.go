package cli

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/internal/forgery"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/identity"
	"github.com/sallyport-dev/sallyport/token"
)

type corpusFlags struct {
	audience, issuer, account, trustDomain string
	jwks, serve                            string
	duration                               time.Duration
}

func tokenCorpus(e *env) *cobra.Command {
	var f corpusFlags
	c := &cobra.Command{
		Use:   "corpus --audience AUD (--issuer URL --jwks FILE | --serve ADDR [--for DURATION])",
		Short: "print tokens that a receiver of ID tokens must refuse, to test one in any language",
		Long: "Print about 400 tokens that a receiver of this issuer's ID tokens must refuse, and a few that it must take, one\n" +
			"JSON object a line: \"token\", \"expect\" (accept or reject), \"level\" (must: a difference is a defect; should:\n" +
			"hardening), \"reason\". They are signed with keys made for this run. Trust those keys in a test and nowhere else.\n\n" +
			"  sallyport token corpus --issuer https://id.acme.internal --audience https://invoices.acme.internal --jwks keys.json > corpus.jsonl\n\n" +
			"Then give each token to the receiver, within 45 minutes (ok-exp-in-leeway within 50 seconds), and compare.\n\n" +
			"--jwks FILE writes the public keys there, for a receiver that reads a file. A file that is there already is\n" +
			"left alone and the command fails, unless an earlier run has written it: then it is replaced.\n\n" +
			"--serve ADDR is for a receiver that fetches the keys: the command is then the issuer http://ADDR, on loopback,\n" +
			"and serves /.well-known/openid-configuration and " + discovery.JWKSPath + " once all lines are out, until it is interrupted or\n" +
			"for as long as --for says. Some tokens name a URL on another port. If anything is fetched from there, the exit\n" +
			"status is 1: the receiver looks for keys where a token tells it to.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := f.check(); err != nil {
				return misuse(err)
			}
			keys, err := forgery.NewKeys()
			if err != nil {
				return failed(err)
			}
			if f.serve != "" {
				return e.serveCorpus(cmd.Context(), &f, keys)
			}
			c := f.config(keys)
			if err := c.Check(); err != nil {
				return misuse(err)
			}
			if err := writeKeys(f.jwks, keys.Public()); err != nil {
				return err
			}
			return e.printCorpus(c)
		},
	}
	c.Flags().StringVar(&f.audience, "audience", "", "what the receiver is called: the aud that it expects (required)")
	c.Flags().StringVar(&f.issuer, "issuer", "", "the iss that the receiver expects; with --serve it is http://ADDR")
	c.Flags().StringVar(&f.account, "account", "orders", "the service account that the good tokens are of")
	c.Flags().StringVar(&f.trustDomain, "trust-domain", "acme.internal", "its trust domain")
	c.Flags().StringVar(&f.jwks, "jwks", "", "write the public keys to this file, a JWK set")
	c.Flags().StringVar(&f.serve, "serve", "", "serve discovery and the public keys on this loopback address; port 0 is any that is free")
	c.Flags().DurationVar(&f.duration, "for", 0, "with --serve: end after this long (default when interrupted)")
	_ = c.MarkFlagRequired("audience") // fails only for a flag that is not there
	return c
}

func (f *corpusFlags) check() error {
	switch {
	case (f.jwks == "") == (f.serve == ""):
		return errors.New("needs --jwks FILE or --serve ADDR, one of them: without the public keys nobody can judge the tokens")
	case f.serve != "" && f.issuer != "":
		return errors.New("--serve is the issuer itself, http://ADDR: leave --issuer away")
	case f.serve == "" && f.issuer == "":
		return errors.New("needs --issuer URL: the iss that the receiver expects")
	case f.serve == "" && f.duration != 0:
		return errors.New("--for is how long --serve serves")
	case f.duration < 0:
		return fmt.Errorf("--for %v: want a time to come", f.duration)
	case f.trustDomain == "" || strings.ContainsAny(f.trustDomain, "/ "):
		return fmt.Errorf("--trust-domain %q: want a name such as acme.internal", f.trustDomain)
	case !identity.ValidName(f.account):
		return fmt.Errorf("--account %q: want lower-case letters, digits and inner - or _", f.account)
	case f.serve != "":
		host, _, err := net.SplitHostPort(f.serve)
		if ip := net.ParseIP(host); err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
			return fmt.Errorf("--serve %q: want a loopback address and a port, such as 127.0.0.1:9111: plain http is for loopback only", f.serve)
		}
	}
	return nil
}

func (f *corpusFlags) config(keys forgery.Keys) forgery.Config {
	return forgery.Config{
		Issuer: f.issuer, Audience: f.audience, Keys: keys,
		Subject: identity.SPIFFEID(f.trustDomain, f.account), Email: identity.Email(f.trustDomain, f.account),
	}
}

// printCorpus writes a line for each case.
func (e *env) printCorpus(c forgery.Config) error {
	for one, err := range forgery.Corpus(c) {
		if err != nil {
			return failed(err)
		}
		if err := e.json(one); err != nil {
			return failed(fmt.Errorf("write the corpus: %w", err))
		}
	}
	return nil
}

// writeKeys writes a JWK set that nobody relies on, so that it replaces only one of
// its own kind. It appears whole or not at all: a receiver may be watching.
func writeKeys(file string, keys []token.Key) error {
	old, err := os.ReadFile(file)
	there := err == nil
	switch {
	case there && !throwAway(old):
		return misuse(fmt.Errorf("--jwks: %s is there already, and holds other than the throw-away keys of an earlier run: name another file", file))
	case !there && !errors.Is(err, fs.ErrNotExist):
		return misuse(fmt.Errorf("--jwks: %w", err))
	}
	set, err := token.JWKS(keys)
	if err != nil {
		return failed(err)
	}
	tmp, err := os.CreateTemp(filepath.Dir(file), ".jwks-*")
	if err != nil {
		return misuse(fmt.Errorf("--jwks: %w", err))
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(append(set, '\n'))
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	switch {
	case err != nil:
	case there:
		err = os.Rename(tmp.Name(), file)
	default:
		err = os.Link(tmp.Name(), file) // unlike Rename, fails if somebody has made it meanwhile
	}
	if err != nil {
		return failed(fmt.Errorf("--jwks: %w", err))
	}
	return nil
}

// throwAway reports whether a file is a JWK set of forgery's own making.
func throwAway(set []byte) bool {
	keys, skipped, err := token.ParseJWKS(set)
	for _, k := range keys {
		if !strings.HasPrefix(k.ID, forgery.ThrowAway) {
			return false
		}
	}
	return err == nil && len(keys) > 0 && len(skipped) == 0
}

// serveCorpus is the issuer of the corpus for as long as the command runs.
func (e *env) serveCorpus(ctx context.Context, f *corpusFlags, keys forgery.Keys) error {
	l, err := net.Listen("tcp", f.serve)
	if err != nil {
		return failed(err)
	}
	defer l.Close()
	host, _, _ := net.SplitHostPort(f.serve)                    // was checked
	trap, err := net.Listen("tcp", net.JoinHostPort(host, "0")) // where no receiver may go
	if err != nil {
		return failed(err)
	}
	defer trap.Close()
	_, port, _ := net.SplitHostPort(l.Addr().String()) // Listen wrote it
	f.issuer = "http://" + net.JoinHostPort(host, port)
	c := f.config(keys)
	c.Lure = "http://" + trap.Addr().String()
	if err := c.Check(); err != nil {
		return misuse(err)
	}
	lure, err := keys.Lure(time.Now())
	if err != nil {
		return failed(err)
	}
	if err := e.printCorpus(c); err != nil {
		return err
	}
	if f.duration > 0 {
		var stop context.CancelFunc
		ctx, stop = context.WithTimeout(ctx, f.duration)
		defer stop()
	}
	_, _ = fmt.Fprintf(e.err, "serving the keys of %s; nothing may be fetched from %s\n", f.issuer, c.Lure)
	var visits atomic.Int64
	err = serveUntil(ctx, map[net.Listener]http.Handler{l: published(f.issuer, keys), trap: trapped(lure, &visits)})
	if err != nil {
		return failed(err)
	}
	if n := visits.Load(); n > 0 {
		return no(fmt.Errorf("%s was asked for keys (%d requests): the receiver looks for them where a token's jku, x5u or kid tells it to", c.Lure, n))
	}
	return nil
}

// published is what the issuer's own door answers, without what it has no keys for.
func published(issuer string, keys forgery.Keys) http.Handler {
	door := discovery.New(discovery.Config{
		URL: issuer, Tokens: keys.Public, Assertions: func() []token.Key { return []token.Key{keys.Assertion.Public()} },
	})
	mux := http.NewServeMux()
	for _, path := range []string{"/.well-known/openid-configuration", discovery.JWKSPath, "/oauth2/v1/certs", "/assertion/jwks.json"} {
		mux.Handle(path, door)
	}
	return mux
}

// trapped hands the attacker's keys to whoever comes, and counts.
func trapped(documents map[string][]byte, visits *atomic.Int64) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		visits.Add(1)
		body, ok := documents[r.URL.Path]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(body) // the client has gone; nothing to add
	})
}

// serveUntil serves each handler until ctx is done or one of them fails.
func serveUntil(ctx context.Context, handlers map[net.Listener]http.Handler) error {
	ended := make(chan error, len(handlers))
	var servers []*http.Server
	for l, h := range handlers {
		s := &http.Server{Handler: h, ReadHeaderTimeout: httpproxy.ReadHeaderTimeout}
		servers = append(servers, s)
		go func() { ended <- s.Serve(l) }()
	}
	var first error
	select {
	case <-ctx.Done():
	case first = <-ended:
		ended <- nil
	}
	for _, s := range servers {
		_ = s.Close()
	}
	for range servers {
		<-ended
	}
	return first
}
