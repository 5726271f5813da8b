package httpproxy_test

import (
	"net/http"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// Servers that know parameters of a segment drop them before they look for a handler:
// nobody gets by a route with one.
func TestParametersAndRoutes(t *testing.T) {
	t.Parallel()
	b := newRig(t, settings{routes: []httpproxy.Route{{Path: "/pub", Public: true}, {Path: "/pub/own"}, {Path: "/approve", Action: "http.approve"}}})
	for _, tt := range []struct {
		path   string
		status int
	}{
		{"/pub/own;x", http.StatusBadRequest},
		{"/pub/own%3Bx/y", http.StatusBadRequest},
		{"/pub;a/own", http.StatusBadRequest},
		{"/approve;x=1", http.StatusBadRequest},
		{"/pub/own/a;x", http.StatusUnauthorized},
		{"/pub/a;x", http.StatusOK},
		{"/a;x", http.StatusUnauthorized},
	} {
		if got := b.send(t, request("GET "+tt.path)); got.status != tt.status {
			t.Errorf("%s: %d, want %d", tt.path, got.status, tt.status)
		}
	}
}
