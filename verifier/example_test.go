package verifier_test

import (
	"crypto/ed25519"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"time"

	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

func ExampleGate_Protect() {
	key := ed25519.NewKeyFromSeed(make([]byte, ed25519.SeedSize)) // of the issuer
	clock := func() time.Time { return time.Date(2026, 11, 25, 12, 0, 0, 0, time.UTC) }

	sallyport, err := verifier.New(verifier.Config{
		Issuer: "https://id.acme.internal",
		Keys:   verifier.StaticKeys{{ID: "k", Algorithm: token.EdDSA, Public: key.Public()}}, // or NewRemoteKeys
		Rules:  verifier.OwnRules(token.TypeID),
		Now:    clock,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	gate, err := verifier.NewGate(verifier.Requirement{
		Verifiers: []*verifier.Verifier{sallyport},
		Audiences: []string{"https://invoices.acme.internal"},
		Service:   "invoices",
		Observer:  verifier.LogObserver(slog.New(slog.NewTextHandler(os.Stdout, nil))),
		Now:       clock,
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	handler := gate.Protect(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		caller, _ := verifier.FromContext(r.Context())
		fmt.Println("hello", caller.Principal())
	}))

	claims := map[string]any{"iss": "https://id.acme.internal", "sub": "spiffe://acme.internal/sa/orders",
		"aud": "https://invoices.acme.internal", "iat": clock().Unix(), "exp": clock().Unix() + 3600}
	in, _ := token.SigningInput(token.EdDSA, "k", token.TypeID, claims)
	request := httptest.NewRequest("GET", "/v1/invoices?month=11", nil)
	request.Header.Set("Authorization", "Bearer "+token.Seal(in, ed25519.Sign(key, in)))
	handler.ServeHTTP(httptest.NewRecorder(), request)

	refused := httptest.NewRecorder()
	handler.ServeHTTP(refused, httptest.NewRequest("GET", "/v1/invoices", nil))
	fmt.Println(refused.Code, refused.Header().Get("WWW-Authenticate"))
	// Output:
	// time=2026-11-25T12:00:00.000Z level=INFO msg="call admitted" kind=admit decision=allow service=invoices principal=serviceAccount:orders provider=https://id.acme.internal action=http.get resource=/v1/invoices peer=192.0.2.1:1234 reported=true
	// hello serviceAccount:orders
	// time=2026-11-25T12:00:00.000Z level=WARN msg="call refused" kind=refuse decision=deny service=invoices action=http.get resource=/v1/invoices reason=credential_missing peer=192.0.2.1:1234 reported=true
	// 401 Bearer realm="invoices"
}
