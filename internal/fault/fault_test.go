package fault_test

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/fault"
)

func TestOf(t *testing.T) {
	t.Parallel()
	secret := errors.New("disk 7 is full of eyJhbGciOi")
	typed := fault.New(fault.Denied, secret, "not allowed")
	for _, tt := range []struct {
		name string
		err  error
		code fault.Code
		text string
	}{
		{"a typed error is itself", typed, fault.Denied, "not allowed"},
		{"a wrapped typed error is found", fmt.Errorf("mint: %w", typed), fault.Denied, "not allowed"},
		{"any other error becomes internal", secret, fault.Internal, "the server could not finish this request"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got := fault.Of(tt.err)
			if got.Code != tt.code || got.Public != tt.text {
				t.Errorf("Of() = %+v, want %s %q", got, tt.code, tt.text)
			}
			if strings.Contains(got.Error(), "disk") {
				t.Errorf("public text %q shows the cause", got)
			}
			if !errors.Is(got, secret) {
				t.Error("the cause is lost to the log")
			}
		})
	}
}
