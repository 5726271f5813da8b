package gateway_test

import (
	"slices"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/gateway"
)

func TestServiceComplete(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		service gateway.Service
		accept  []string
		want    []string // beginnings of the mistakes, in order
	}{
		{"the least", gateway.Service{Name: "app", Audiences: []string{"https://app.test"}}, []string{"self"}, nil},
		{"whom it accepts is left as written", gateway.Service{Name: "app", Audiences: []string{"free-text", "https://app.test"}, Accept: []string{"lab", "self"}}, []string{"lab", "self"}, nil},
		{"nothing", gateway.Service{}, []string{"self"}, []string{`name: ""`, "audiences: is empty"}},
		{"a name with a space", gateway.Service{Name: "my app", Audiences: []string{"a"}}, []string{"self"}, []string{`name: "my app"`}},
		{"an audience twice", gateway.Service{Name: "app", Audiences: []string{"a", "b", "a"}}, []string{"self"}, []string{`audiences[2]: "a": is there twice`}},
		{"audiences that could be read as others", gateway.Service{Name: "app", Audiences: []string{"https://app.test/", "http://app.test", " a", ""}}, []string{"self"},
			[]string{"audiences[0]:", "audiences[1]:", "audiences[2]:", "audiences[3]:"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			err := tt.service.Complete()
			var got []string
			if err != nil {
				got = strings.Split(err.Error(), "\n")
			}
			if !slices.EqualFunc(got, tt.want, strings.HasPrefix) {
				t.Errorf("got  %q\nwant %q", got, tt.want)
			}
			if !slices.Equal(tt.service.Accept, tt.accept) {
				t.Errorf("accepts %q, want %q", tt.service.Accept, tt.accept)
			}
		})
	}
}

func TestCheckAudience(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name, audience string
		good           bool
	}{
		{"a URL", "https://app.test", true},
		{"a URL with a path", "https://app.test/v1", true},
		{"free text", "32555940559.apps.example", true},
		{"a name with a slash at its end that is no URL", "urn:app/", true},
		{"a URL with a slash at its end", "https://app.test/", false},
		{"a URL that is not https", "http://app.test", false},
		{"a URL that shouts", "HTTPS://app.test", false},
		{"empty", "", false},
		{"a space inside", "a b", false},
		{"a space at the end", "a ", false},
		{"a line break", "a\n", false},
		{"a space that is not ASCII at the end", "a\u00a0", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if err := gateway.CheckAudience(tt.audience); (err == nil) != tt.good {
				t.Errorf("got %v", err)
			}
		})
	}
}
