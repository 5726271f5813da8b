// Package discovery publishes what a verifier of our tokens needs: the OpenID
// Provider configuration and the public keys, as JWK sets, as the {kid: PEM} map that
// Google's Node and Python libraries read, and as the SPIFFE trust bundle.
//
// Everything here is public and the same for everybody; nothing is admitted or
// recorded. Sources: OpenID Connect Discovery 1.0 sections 3 and 4, RFC 7517, SPIFFE
// Trust Domain and Bundle, contract google-clients section 4.
package discovery

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-json-experiment/json"
	"github.com/spiffe/go-spiffe/v2/bundle/spiffebundle"

	"github.com/sallyport-dev/sallyport/token"
)

// MaxAge is how long a verifier may keep the key documents. Go's libraries do not
// fetch again for an unknown `kid` before that, so a new key must be published
// that much earlier than it is used.
const MaxAge = time.Hour

// JWKSPath is where the keys of ID and access tokens are: `jwks_uri`.
const JWKSPath = "/oauth2/v3/certs"

// BundlePath is where the trust bundle is, for SPIFFE federation (SPIFFE Trust Domain
// and Bundle section 5).
const BundlePath = "/spiffe/bundle.json"

// Config says what is published.
type Config struct {
	URL        string             // the issuer
	Tokens     func() []token.Key // keys of ID and access tokens
	Assertions func() []token.Key // keys of assertions, kept apart

	// Bundle is the trust bundle of SVIDs: another document, since its keys have other
	// uses.
	Bundle func() (*spiffebundle.Bundle, error)
}

// configuration holds the members that contract google-clients section 4 names.
type configuration struct {
	Issuer       string            `json:"issuer"`
	JWKSURI      string            `json:"jwks_uri"`
	ResponseType []string          `json:"response_types_supported"`
	SubjectTypes []string          `json:"subject_types_supported"`
	Algorithms   []token.Algorithm `json:"id_token_signing_alg_values_supported"`
	Claims       []string          `json:"claims_supported"`
}

// A Door serves the documents.
type Door struct {
	c   Config
	mux *http.ServeMux
}

// New returns the Door.
func New(c Config) *Door {
	d := &Door{c: c, mux: http.NewServeMux()}
	d.serve("/.well-known/openid-configuration", d.configuration)
	d.serve(JWKSPath, func() ([]byte, error) { return token.JWKS(c.Tokens()) })
	d.serve("/oauth2/v1/certs", func() ([]byte, error) { return token.PEMMap(c.Tokens()) })
	d.serve("/assertion/jwks.json", func() ([]byte, error) { return token.JWKS(c.Assertions()) })
	d.serve(BundlePath, func() ([]byte, error) {
		b, err := c.Bundle()
		if err != nil {
			return nil, err
		}
		return b.Marshal()
	})
	return d
}

// ServeHTTP implements http.Handler.
func (d *Door) ServeHTTP(w http.ResponseWriter, r *http.Request) { d.mux.ServeHTTP(w, r) }

func (d *Door) configuration() ([]byte, error) {
	algs := []token.Algorithm{}
	for _, k := range d.c.Tokens() {
		if !slices.Contains(algs, k.Algorithm) { // next and retired keys have the same
			algs = append(algs, k.Algorithm)
		}
	}
	return json.Marshal(configuration{
		Issuer:       d.c.URL,
		JWKSURI:      d.c.URL + JWKSPath,
		ResponseType: []string{"id_token"},
		SubjectTypes: []string{"public"},
		Algorithms:   algs,
		Claims:       []string{"iss", "sub", "aud", "azp", "email", "email_verified", "iat", "nbf", "exp", "jti"},
	})
}

// serve answers GET and HEAD on path with a document that caches may keep.
func (d *Door) serve(path string, document func() ([]byte, error)) {
	d.mux.HandleFunc("GET "+path, func(w http.ResponseWriter, r *http.Request) {
		body, err := document()
		if err != nil {
			http.Error(w, "this document cannot be made now", http.StatusInternalServerError)
			return
		}
		sum := sha256.Sum256(body)
		etag := `"` + hex.EncodeToString(sum[:8]) + `"`
		h := w.Header()
		// exactly "max-age=N" between commas: Go's library parses nothing more
		h.Set("Cache-Control", fmt.Sprintf("public, max-age=%d", int(MaxAge.Seconds())))
		h.Set("ETag", etag)
		h.Set("X-Content-Type-Options", "nosniff")
		if strings.Contains(r.Header.Get("If-None-Match"), etag) {
			w.WriteHeader(http.StatusNotModified)
			return
		}
		h.Set("Content-Type", "application/json")
		h.Set("Content-Length", strconv.Itoa(len(body)))
		_, _ = w.Write(body) // the client has gone; nothing to add
	})
}
