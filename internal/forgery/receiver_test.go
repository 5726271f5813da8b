package forgery_test

import (
	"bytes"
	"compress/flate"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rsa"
	"crypto/x509"
	"database/sql"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	_ "modernc.org/sqlite" // what a kid is written into
)

// receiver is a second reading of the rules. It shares no code with package token
// or verifier, and is right as long as it has no flaws; each flaw takes one thing
// away that it looks at, as real receivers have left it away.
type receiver struct {
	issuer, audience string
	now              time.Time
	published        map[string]any    // by kid: *rsa.PublicKey or *ecdsa.PublicKey
	jwks             []json.RawMessage // the same as they stand in the set
	retired          map[string]any
	assertions       map[string]any
	lure             func(path string) []byte // what the attacker serves
	lureHost         string
	keys             *sql.DB // of a receiver that keeps its secrets in a database
	flaws            []string
}

func (r *receiver) has(flaw string) bool { return slices.Contains(r.flaws, flaw) }

// with returns the same receiver with other flaws.
func (r *receiver) with(flaws ...string) *receiver {
	c := *r
	c.flaws = flaws
	return &c
}

// nul is where a string ends for programs in C.
func (r *receiver) nul(s string) string {
	if r.has("nul-ends") {
		s, _, _ = strings.Cut(s, "\x00")
	}
	return s
}

func (r *receiver) take(raw string) error {
	raw = r.nul(raw)
	if r.has("text-trimmed") {
		raw = strings.Trim(strings.TrimPrefix(raw, "Bearer "), "\ufeff\u200b\";\r\n ")
	}
	if r.has("text-first") {
		raw, _, _ = strings.Cut(raw, ",")
	}
	if len(raw) > 16<<10 && !r.has("size-unlimited") {
		return errors.New("too long")
	}
	if r.has("jws-json") && strings.HasPrefix(raw, "{") {
		return r.takeJSON([]byte(raw))
	}
	parts := strings.Split(raw, ".")
	if r.has("parts-loose") {
		if parts[0] == "" {
			parts = parts[1:]
		}
		if len(parts) == 2 {
			parts = append(parts, "")
		}
		parts = parts[:min(3, len(parts))]
	}
	if len(parts) == 5 && r.has("jwe-by-public-key") {
		return r.takeEncrypted(parts)
	}
	if len(parts) != 3 {
		return errors.New("not three parts")
	}
	return r.takeParts(parts[0], parts[1], parts[2], nil)
}

func (r *receiver) takeParts(head, body, sig string, unprotected json.RawMessage) error {
	h, err := r.header(head, unprotected)
	if err != nil {
		return err
	}
	payload, err := r.decode(body)
	if b64, ok := h["b64"].(bool); ok && !b64 && r.has("b64-served") {
		payload, err = []byte(body), nil
	}
	if err != nil {
		return fmt.Errorf("claims: %w", err)
	}
	if h["cty"] == "JWT" && r.has("nested-inner") {
		return r.take(string(payload))
	}
	signature, err := r.decode(sig)
	if err != nil {
		return fmt.Errorf("signature: %w", err)
	}
	if err := r.verify(h, []byte(head+"."+body), signature); err != nil {
		return err
	}
	if h["zip"] == "DEF" && r.has("zip-served") {
		if payload, err = io.ReadAll(flate.NewReader(bytes.NewReader(payload))); err != nil {
			return err
		}
	}
	if h["cty"] == "JWT" && r.has("nested-outer") {
		if payload, err = r.decode(strings.Split(string(payload), ".")[1]); err != nil {
			return err
		}
	}
	return r.claims(payload)
}

// header reads a header and looks at all of it but what it says about keys.
func (r *receiver) header(head string, unprotected json.RawMessage) (map[string]any, error) {
	text, err := r.decode(head)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	h, err := r.object(text)
	if err != nil {
		return nil, fmt.Errorf("header: %w", err)
	}
	if unprotected != nil {
		if err := json.Unmarshal(unprotected, &h); err != nil {
			return nil, err
		}
	}
	_, critical := h["crit"]
	if critical && r.has("b64-served") && fmt.Sprint(h["crit"]) == "[b64]" {
		critical = false
	}
	if critical && !r.has("crit-ignored") {
		return nil, errors.New("crit")
	}
	for name, flaws := range map[string]string{"b64": "b64-served", "zip": "zip-served", "cty": "nested-inner nested-outer"} {
		served := slices.ContainsFunc(strings.Fields(flaws), r.has)
		if _, there := h[name]; there && !served && !r.has("header-unread") {
			return nil, fmt.Errorf("%s changes what the claims are", name)
		}
	}
	typ, ok := h["typ"].(string)
	if typ = strings.TrimPrefix(strings.ToLower(typ), "application/"); (!ok || typ != "jwt") && !r.has("typ-ignored") {
		return nil, errors.New("typ")
	}
	return h, nil
}

// takeJSON reads the two JSON forms (RFC 7515 section 7.2).
func (r *receiver) takeJSON(raw []byte) error {
	type one struct {
		Protected, Signature string
		Header               json.RawMessage
	}
	var t struct {
		Payload    string
		Signatures *[]one
		one
	}
	if err := json.Unmarshal(raw, &t); err != nil {
		return err
	}
	if t.Signatures == nil {
		return r.takeParts(t.Protected, t.Payload, t.Signature, t.Header)
	}
	if len(*t.Signatures) == 0 && r.has("jws-no-signatures") {
		payload, err := r.decode(t.Payload)
		if err != nil {
			return err
		}
		return r.claims(payload)
	}
	if len(*t.Signatures) != 1 && !r.has("jws-any-signature") {
		return errors.New("not one signature")
	}
	var bad error
	for _, s := range *t.Signatures {
		err := r.takeParts(s.Protected, t.Payload, s.Signature, s.Header)
		if err == nil {
			return nil
		}
		bad = errors.Join(bad, err)
	}
	return bad
}

// takeEncrypted decrypts with any key of the set, as if it were a secret.
func (r *receiver) takeEncrypted(parts []string) error {
	if _, err := r.header(parts[0], nil); err != nil {
		return err
	}
	iv, err1 := r.decode(parts[2])
	text, err2 := r.decode(parts[3])
	tag, err3 := r.decode(parts[4])
	if err := errors.Join(err1, err2, err3); err != nil {
		return err
	}
	for _, secret := range r.secrets() {
		block, err := aes.NewCipher(secret)
		if err != nil || len(secret) != 32 {
			continue
		}
		gcm, err := cipher.NewGCM(block)
		if err != nil || len(iv) != gcm.NonceSize() {
			continue
		}
		if claims, err := gcm.Open(nil, iv, append(text, tag...), []byte(parts[0])); err == nil {
			return r.claims(claims)
		}
	}
	return errors.New("cannot be decrypted")
}

// decode reads base64url without padding, in its one spelling.
func (r *receiver) decode(code string) ([]byte, error) {
	if r.has("b64-space") {
		code = strings.Join(strings.Fields(code), "")
	}
	if r.has("b64-padding-ends") {
		code, _, _ = strings.Cut(code, "=")
	}
	if r.has("b64-padding") {
		code = strings.TrimRight(code, "=")
	}
	if r.has("b64-alphabet") {
		code = strings.NewReplacer("+", "-", "/", "_").Replace(code)
	}
	if r.has("b64-foreign") {
		code = strings.Map(func(c rune) rune {
			if c < 128 && (c == '-' || c == '_' || c >= '0' && c <= '9' || c >= 'A' && c <= 'Z' || c >= 'a' && c <= 'z') {
				return c
			}
			return -1
		}, code)
	}
	if r.has("b64-single") && len(code)%4 == 1 {
		code = code[:len(code)-1]
	}
	out, err := base64.RawURLEncoding.DecodeString(code)
	if err != nil {
		return nil, err
	}
	if base64.RawURLEncoding.EncodeToString(out) != code && !r.has("b64-bits") {
		return nil, errors.New("another spelling")
	}
	return out, nil
}

// candidates returns the keys that a header leads to.
func (r *receiver) candidates(h map[string]any) (out []any) {
	add := func(key any, ok bool) {
		if ok && key != nil {
			out = append(out, key)
		}
	}
	kid, named := h["kid"].(string)
	if list, ok := h["kid"].([]any); ok && r.has("coerces") && len(list) == 1 {
		kid, named = list[0].(string)
	}
	kid = r.nul(kid)
	if r.has("kid-trimmed") {
		kid = strings.TrimSpace(kid)
	}
	for id, key := range r.published {
		match := named && id == kid || r.has("kid-ignored") ||
			r.has("kid-folded") && strings.EqualFold(id, kid) || r.has("kid-prefix") && strings.HasPrefix(kid, id)
		add(key, match)
	}
	add(r.retired[kid], r.has("retired-key"))
	add(r.assertions[kid], r.has("keys-merged"))
	if jwk, ok := h["jwk"].(map[string]any); ok && r.has("jwk-trusted") {
		key, err := readJWK(jwk)
		add(key, err == nil)
	}
	if jku, ok := h["jku"].(string); ok && (r.has("jku-trusted") || r.has("jku-prefix") && strings.HasPrefix(jku, r.issuer)) {
		set, err := readJWKS(r.fetch(jku))
		add(set[kid], err == nil)
	}
	if x5u, ok := h["x5u"].(string); ok && r.has("x5u-trusted") {
		if block, _ := pem.Decode(r.fetch(x5u)); block != nil {
			add(certified(block.Bytes))
		}
	}
	if x5c, ok := h["x5c"].([]any); ok && r.has("x5c-trusted") {
		der, err := base64.StdEncoding.DecodeString(fmt.Sprint(x5c[0]))
		if key, ok := certified(der); err == nil {
			add(key, ok)
		}
	}
	if block, _ := pem.Decode(r.fetch(kid)); block != nil && r.has("kid-is-url") {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		add(key, err == nil)
	}
	return out
}

func certified(der []byte) (any, bool) {
	c, err := x509.ParseCertificate(der)
	if err != nil || c.CheckSignature(c.SignatureAlgorithm, c.RawTBSCertificate, c.Signature) != nil {
		return nil, false
	}
	return c.PublicKey.(*rsa.PublicKey), true
}

// fetch is what a request to the attacker's host would bring.
func (r *receiver) fetch(address string) []byte {
	u, err := url.Parse(address)
	if err != nil || u.Host != r.lureHost || r.lureHost == "" {
		return nil
	}
	return r.lure(u.Path)
}

// found returns the secrets that a kid leads to for a receiver that looks them up
// in a folder, in a database or in a JavaScript object.
func (r *receiver) found(kid string) (out [][]byte) {
	if r.has("kid-is-path") {
		name := strings.TrimPrefix(kid, "file://")
		if !filepath.IsAbs(name) {
			wd, err := os.Getwd()
			if err != nil {
				return nil
			}
			name = filepath.Join(wd, name)
		}
		if secret, err := os.ReadFile(name); err == nil {
			out = append(out, secret)
		}
	}
	if r.has("kid-in-sql") {
		var secret string
		if err := r.keys.QueryRow("SELECT secret FROM keys WHERE kid = '" + kid + "'").Scan(&secret); err == nil {
			out = append(out, []byte(secret))
		}
	}
	if r.has("kid-prototype") && kid == "__proto__" {
		out = append(out, []byte("[object Object]")) // String({}.__proto__)
	}
	return out
}
