package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/discovery"
	"github.com/sallyport-dev/sallyport/internal/federation"
	"github.com/sallyport-dev/sallyport/token"
	"github.com/sallyport-dev/sallyport/verifier"
)

func tokenCommand(e *env) *cobra.Command {
	return group("token", "get tokens, and look at them", tokenMint(e), tokenShow(e), tokenVerify(e), tokenCorpus(e))
}

// readToken reads one token from standard input: an argument would show in the
// list of processes. Nothing is trimmed: what is judged is what was given.
func (e *env) readToken() (string, error) {
	raw, err := io.ReadAll(io.LimitReader(e.in, token.MaxLength+1))
	if err != nil {
		return "", failed(fmt.Errorf("read standard input: %w", err))
	}
	return string(raw), nil
}

// hint says what went wrong when a shell added a line break.
func hint(raw string) string {
	if strings.HasSuffix(raw, "\n") {
		return ": it ends in a line break; give it with printf %s \"$TOKEN\" instead of echo"
	}
	return ""
}

func tokenShow(e *env) *cobra.Command {
	return &cobra.Command{
		Use: "show TOKEN | -", Short: "print a token's claims without checking anything; - reads standard input", Args: takes("TOKEN, or - for standard input"),
		RunE: func(_ *cobra.Command, args []string) error {
			raw := args[0]
			if raw == "-" {
				in, err := e.readToken()
				if err != nil {
					return err
				}
				raw = strings.TrimSpace(in) // nothing is judged here
			}
			header, claims, err := token.Decode(raw)
			if err != nil {
				return no(err)
			}
			if e.output == "json" {
				return e.json(struct {
					Header jsontext.Value `json:"header"`
					Claims jsontext.Value `json:"claims"`
				}{header, claims})
			}
			return e.raw(claims)
		},
	}
}

type verifyFlags struct {
	issuer, jwks, config string
	audiences            []string
	algorithms           []string
}

func tokenVerify(e *env) *cobra.Command {
	var f verifyFlags
	c := &cobra.Command{
		Use:   "verify --audience AUD (--issuer URL --jwks FILE|URL | --config FILE) -",
		Short: "verify the token on standard input; exit 0 if it is good, 1 if not",
		Long: "Verify the token on standard input: exit 0 and print its claims if it is good, exit 1 if not.\n" +
			"With --jwks the rules for providers hold: typ may be absent, life is at most 24 h. With --config the\n" +
			"token must be one of that server's own ID tokens; its keys are read from the issuer's URL.",
		Args: takes("-, with the token on standard input"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if args[0] != "-" {
				return misuse(errors.New("write - and give the token on standard input, so that it stays out of the process list"))
			}
			v, err := f.verifier(e)
			if err != nil {
				return err
			}
			raw, err := e.readToken()
			if err != nil {
				return err
			}
			good, err := v.Verify(cmd.Context(), raw, f.audiences...)
			return e.verdict(good, err, raw)
		},
	}
	c.Flags().StringVar(&f.issuer, "issuer", "", "the issuer that the token must be of, exactly")
	c.Flags().StringArrayVar(&f.audiences, "audience", nil, "an audience that the token may be for, exactly; may be repeated (required)")
	c.Flags().StringVar(&f.jwks, "jwks", "", "the issuer's JWK set: a file, or a URL of https (http on loopback)")
	c.Flags().StringVar(&f.config, "config", "", "verify as this server's own ID token")
	c.Flags().StringSliceVar(&f.algorithms, "algorithms", nil, "algorithms that may be used (default RS256,PS256,ES256,ES384,EdDSA)")
	_ = c.MarkFlagRequired("audience") // fails only for a flag that is not there
	return c
}

func (f *verifyFlags) verifier(e *env) (*verifier.Verifier, error) {
	var algorithms []token.Algorithm
	for _, a := range f.algorithms {
		alg, err := token.ParseAlgorithm(a)
		if err != nil {
			return nil, misuse(fmt.Errorf("--algorithms: %w", err))
		}
		algorithms = append(algorithms, alg)
	}
	switch {
	case f.config != "" && (f.jwks != "" || f.issuer != ""):
		return nil, misuse(errors.New("--config names issuer and keys itself: leave --issuer and --jwks away"))
	case f.config != "":
		cfg, err := load(f.config)
		if err != nil {
			return nil, err
		}
		keys, err := federation.RemoteKeys(cfg.Issuer.URL+discovery.JWKSPath, nil, e.logger())
		if err != nil {
			return nil, failed(err)
		}
		return verifier.New(verifier.Config{Issuer: cfg.Issuer.URL, Keys: keys, Algorithms: algorithms, Rules: verifier.OwnRules(token.TypeID)})
	case f.jwks == "" || f.issuer == "":
		return nil, misuse(errors.New("needs --issuer and --jwks, or --config"))
	}
	var keys verifier.KeySource
	var err error
	if strings.Contains(f.jwks, "://") {
		if keys, err = federation.RemoteKeys(f.jwks, nil, e.logger()); err != nil {
			return nil, misuse(fmt.Errorf("--jwks: %w", err))
		}
	} else if keys, err = federation.ReadJWKS(f.jwks); err != nil {
		return nil, misuse(fmt.Errorf("--jwks: %w", err))
	}
	return verifier.New(verifier.Config{Issuer: f.issuer, Keys: keys, Algorithms: algorithms, Rules: verifier.ProviderRules()})
}

func (e *env) verdict(good *verifier.Verified, err error, raw string) error {
	if err == nil {
		return e.raw(good.Payload)
	}
	bad, ok := errors.AsType[*verifier.Error](err)
	if !ok || errors.Is(err, context.Canceled) {
		return failed(err)
	}
	why := ""
	if bad.Cause != nil {
		why = ": " + bad.Cause.Error()
	}
	if bad.Reason == verifier.KeysUnavailable {
		return failed(fmt.Errorf("%w%s", err, why))
	}
	if bad.Reason == verifier.Malformed {
		why += hint(raw)
	}
	return no(fmt.Errorf("%w%s", err, why))
}
