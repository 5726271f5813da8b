package token

import (
	"bytes"
	"encoding/base64"
	"fmt"
	"io"

	"github.com/go-json-experiment/json"
)

func newReader(b []byte) io.Reader { return bytes.NewBuffer(b) }

func rawURL(b []byte) string { return base64.RawURLEncoding.EncodeToString(b) }

// The `typ` values of our own tokens. Purpose is checked by them: no kind of
// token stands in for another (RFC 8725 section 3.11).
const (
	TypeID        = "JWT"                     // an ID token, the bearer token of services
	TypeAccess    = "at+jwt"                  // an access token for our own APIs, RFC 9068
	TypeAssertion = "sallyport-assertion+jwt" // what the gateway hands upstream; no bearer token
	TypeSVID      = "JOSE"                    // a JWT-SVID, which may be JWT or JOSE (JWT-SVID section 2.2): never an ID token
)

type header struct {
	Algorithm Algorithm `json:"alg"`
	KeyID     string    `json:"kid"`
	Type      string    `json:"typ"`
}

// SigningInput returns the bytes to sign for claims, which marshal to a JSON
// object (RFC 7515 section 5.1).
func SigningInput(alg Algorithm, kid, typ string, claims any) ([]byte, error) {
	h, err := json.Marshal(header{alg, kid, typ})
	if err != nil {
		return nil, fmt.Errorf("encode header: %w", err)
	}
	c, err := json.Marshal(claims, json.Deterministic(true))
	if err != nil {
		return nil, fmt.Errorf("encode claims: %w", err)
	}
	enc := base64.RawURLEncoding
	out := make([]byte, 0, enc.EncodedLen(len(h))+enc.EncodedLen(len(c))+1)
	out = enc.AppendEncode(out, h)
	out = append(out, '.')
	return enc.AppendEncode(out, c), nil
}

// Seal joins a signing input and its signature into a compact token.
func Seal(input, signature []byte) string {
	return string(base64.RawURLEncoding.AppendEncode(append(input, '.'), signature))
}
