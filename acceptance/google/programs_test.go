package google_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"cloud.google.com/go/auth"
	"cloud.google.com/go/auth/credentials"
	authidtoken "cloud.google.com/go/auth/credentials/idtoken"
	"cloud.google.com/go/auth/httptransport"
	"cloud.google.com/go/compute/metadata"
	"golang.org/x/oauth2/google"
	"google.golang.org/api/idtoken"
)

// cloudPlatform is the scope that everybody asks for.
const cloudPlatform = "https://www.googleapis.com/auth/cloud-platform"

// result is what a program prints.
type result struct {
	Token  string            // that it got
	Type   string            // of Token
	Expiry time.Time         // as the library believes
	Values map[string]string // that it read
	Calls  []call            // that it made
}

// call is the answer to a request.
type call struct {
	Status int
	Body   string
}

// programs are what users of the libraries write: nothing in them knows of
// Sallyport.
var programs = map[string]func(context.Context, []string) (result, error){
	"metadata":   metadataProgram,
	"auth-adc":   adcProgram,
	"oauth2-adc": oauth2Program,
	"auth-idtoken": func(_ context.Context, a []string) (result, error) {
		return authProgram(a, authidtoken.ComputeTokenFormatDefault)
	},
	"auth-standard": func(_ context.Context, a []string) (result, error) {
		return authProgram(a, authidtoken.ComputeTokenFormatStandard)
	},
	"auth-license": func(_ context.Context, a []string) (result, error) {
		return authProgram(a, authidtoken.ComputeTokenFormatFullWithLicense)
	},
	"auth-call":   authCallProgram,
	"auth-google": googleProgram,
	"api-idtoken": apiProgram,
	"api-call":    callProgram,
}

func metadataProgram(ctx context.Context, _ []string) (result, error) {
	out := map[string]string{"on gce": fmt.Sprint(metadata.OnGCEWithContext(ctx))}
	for name, get := range map[string]func(context.Context) (string, error){
		"project": metadata.ProjectIDWithContext,
		"number":  metadata.NumericProjectIDWithContext,
		"email":   func(ctx context.Context) (string, error) { return metadata.EmailWithContext(ctx, "") },
		"by email": func(ctx context.Context) (string, error) {
			return metadata.EmailWithContext(ctx, "orders@sa.acme.test")
		},
		"universe": func(ctx context.Context) (string, error) {
			return metadata.GetWithContext(ctx, "universe/universe-domain")
		},
		"identity": func(ctx context.Context) (string, error) {
			return metadata.GetWithContext(ctx, "instance/service-accounts/default/identity?audience=https%3A%2F%2Finvoices.acme.test")
		},
	} {
		v, err := get(ctx)
		if err != nil {
			return result{}, fmt.Errorf("%s: %w", name, err)
		}
		out[name] = v
	}
	_, err := metadata.GetWithContext(ctx, "instance/no-such-key")
	if _, ok := errors.AsType[metadata.NotDefinedError](err); !ok {
		return result{}, fmt.Errorf("an unknown key: %v, want NotDefinedError", err)
	}
	return result{Values: out, Token: out["identity"]}, nil
}

func adcProgram(ctx context.Context, _ []string) (result, error) {
	c, err := credentials.DetectDefault(&credentials.DetectOptions{Scopes: []string{cloudPlatform, "https://www.googleapis.com/auth/userinfo.email"}})
	if err != nil {
		return result{}, err
	}
	out, err := fromAuth(ctx, c)
	if err != nil {
		return out, err
	}
	for name, get := range map[string]func(context.Context) (string, error){"project": c.ProjectID, "universe": c.UniverseDomain} {
		if out.Values[name], err = get(ctx); err != nil {
			return out, fmt.Errorf("%s: %w", name, err)
		}
	}
	return out, nil
}

func fromAuth(ctx context.Context, c *auth.Credentials) (result, error) {
	tok, err := c.Token(ctx)
	if err != nil {
		return result{}, err
	}
	again, err := c.Token(ctx)
	if err == nil && again.Value != tok.Value {
		err = errors.New("a second Token() fetched again")
	}
	return result{Token: tok.Value, Type: tok.Type, Expiry: tok.Expiry, Values: map[string]string{}}, err
}

func oauth2Program(ctx context.Context, _ []string) (result, error) {
	c, err := google.FindDefaultCredentials(ctx, cloudPlatform)
	if err != nil {
		return result{}, err
	}
	tok, err := c.TokenSource.Token()
	if err != nil {
		return result{}, err
	}
	return result{Token: tok.AccessToken, Type: tok.TokenType, Expiry: tok.Expiry, Values: map[string]string{"project": c.ProjectID, "universe": "googleapis.com"}}, nil
}

func authProgram(args []string, format authidtoken.ComputeTokenFormat) (result, error) {
	c, err := authidtoken.NewCredentials(&authidtoken.Options{Audience: args[0], ComputeTokenFormat: format})
	if err != nil {
		return result{}, err
	}
	return fromAuth(context.Background(), c)
}

func apiProgram(ctx context.Context, args []string) (result, error) {
	ts, err := idtoken.NewTokenSource(ctx, args[0])
	if err != nil {
		return result{}, err
	}
	tok, err := ts.Token()
	if err != nil {
		return result{}, err
	}
	return result{Token: tok.AccessToken, Type: tok.TokenType, Expiry: tok.Expiry}, nil
}

// callProgram is a whole service that calls another: args are the audience and
// the URLs to get.
func callProgram(ctx context.Context, args []string) (result, error) {
	client, err := idtoken.NewClient(ctx, args[0])
	if err != nil {
		return result{}, err
	}
	return calls(client, args[1:])
}

// authCallProgram is the same with the newer library.
func authCallProgram(_ context.Context, args []string) (result, error) {
	c, err := authidtoken.NewCredentials(&authidtoken.Options{Audience: args[0]})
	if err != nil {
		return result{}, err
	}
	client, err := httptransport.NewClient(&httptransport.Options{Credentials: c})
	if err != nil {
		return result{}, err
	}
	return calls(client, args[1:])
}

// googleProgram asks an API of Google's, as every generated client does, and says
// whether our access token was about to be sent there.
func googleProgram(context.Context, []string) (result, error) {
	var sent string
	client, err := httptransport.NewClient(&httptransport.Options{
		DetectOpts: &credentials.DetectOptions{Scopes: []string{cloudPlatform}},
		BaseRoundTripper: roundTripper(func(r *http.Request) (*http.Response, error) {
			sent = strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
			return nil, errors.New("not sent")
		}),
	})
	if err != nil {
		return result{}, err
	}
	if _, err = client.Get("https://storage.googleapis.com/storage/v1/b"); sent == "" {
		return result{}, err
	}
	return result{Token: sent}, nil
}

type roundTripper func(*http.Request) (*http.Response, error)

// RoundTrip implements http.RoundTripper.
func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func calls(client *http.Client, urls []string) (result, error) {
	var out result
	for _, url := range urls {
		resp, err := client.Get(url)
		if err != nil {
			return out, err
		}
		body, err := io.ReadAll(resp.Body)
		_ = resp.Body.Close()
		if err != nil {
			return out, err
		}
		out.Calls = append(out.Calls, call{resp.StatusCode, string(body)})
	}
	return out, nil
}

// get is a request by the test itself, with a bearer token unless it is "".
func get(ctx context.Context, url, bearer string) (call, http.Header, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return call{}, nil, err
	}
	if bearer != "" {
		req.Header.Set("Authorization", "Bearer "+bearer)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return call{}, nil, err
	}
	defer func() { _ = resp.Body.Close() }()
	body, err := io.ReadAll(resp.Body)
	return call{resp.StatusCode, string(body)}, resp.Header, err
}
