package caller_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"time"

	"github.com/sallyport-dev/sallyport/caller"
	"github.com/sallyport-dev/sallyport/token"
)

// A service and a door, as they would be on the network.
func exampleServers() (service, door *httptest.Server) {
	service = httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		t, _ := token.Parse(strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer "))
		_, _ = fmt.Fprint(w, "hello ", t.Claims.Subject)
	}))
	door = httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		claims := map[string]any{"sub": "spiffe://acme.internal/sa/orders", "aud": r.FormValue("audience"), "exp": time.Now().Unix() + 3600}
		in, _ := token.SigningInput(token.RS256, "k", token.TypeID, claims)
		w.Header().Set("Metadata-Flavor", "Google")
		_, _ = io.WriteString(w, token.Seal(in, []byte("signature")))
	}))
	return service, door
}

func Example() {
	service, door := exampleServers()
	defer service.Close()
	defer door.Close()

	source, err := caller.New(caller.Config{
		Audience: service.URL,                             // https://invoices.acme.internal
		Door:     strings.TrimPrefix(door.URL, "http://"), // default: $GCE_METADATA_HOST
	})
	if err != nil {
		fmt.Println(err)
		return
	}
	client := &http.Client{Transport: source.Transport(service.Client().Transport)}

	resp, err := client.Get(service.URL + "/v1/invoices")
	if err != nil {
		fmt.Println(err)
		return
	}
	defer resp.Body.Close()
	body, _ := io.ReadAll(resp.Body)
	fmt.Println(string(body))

	_, err = client.Get("https://elsewhere.example")
	fmt.Println(errors.Is(err, caller.ErrDestination))
	// Output:
	// hello spiffe://acme.internal/sa/orders
	// true
}

func ExampleSource_Token() {
	door := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Metadata-Flavor", "Google")
		http.Error(w, "not allowed (decision a-42)", http.StatusForbidden)
	}))
	defer door.Close()
	host := strings.TrimPrefix(door.URL, "http://")

	source, err := caller.New(caller.Config{Audience: "https://invoices.acme.internal", Door: host})
	if err != nil {
		fmt.Println(err)
		return
	}
	_, err = source.Token(context.Background())
	switch {
	case errors.Is(err, caller.ErrDenied):
		fmt.Println(strings.Replace(err.Error(), host, "127.0.0.1:8401", 1))
	case errors.Is(err, caller.ErrUnavailable):
		fmt.Println("later, perhaps")
	}
	// Output: caller: the metadata door refused: 127.0.0.1:8401 answered 403: not allowed (decision a-42)
}
