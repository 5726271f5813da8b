package identity

import "strings"

// namesCaller are header fields in which proxies tell the service behind them who
// calls, in folded form: their words for it, without a signature.
var namesCaller = map[string]bool{
	"remote-user": true, "remote-groups": true, "remote-email": true, "remote-name": true,
	"x-user": true, "x-user-id": true, "x-user-name": true, "x-user-email": true, "x-username": true, "x-email": true,
	"x-forwarded-user": true, "x-forwarded-email": true, "x-forwarded-groups": true, "x-forwarded-preferred-username": true,
	"x-forwarded-client-cert": true, "x-amzn-oidc-identity": true, "x-vouch-user": true, "x-userinfo": true, "x-proxy-user": true,
	"x-endpoint-api-userinfo": true, "x-apigateway-api-userinfo": true,
	"client-cert": true, "client-cert-chain": true, "x-client-verify": true, "x-arr-clientcert": true,
	"x-serverless-authorization": true, // Cloud Run's second credential, which nobody judged
}

// namesCallerFamilies begin such fields.
var namesCallerFamilies = []string{
	"x-remote-", "x-webauth-", "x-auth-request-", "x-auth-user", "x-auth-email", "x-auth-name", "x-auth-groups", "oidc-claim-", "mellon-", "shib-", "impersonate-", "sm-user", "iv-", "x-rh-identity", "x-jwt-payload", "x-ms-token-", "x-authenticated-", "x-authentik-", "x-consumer-", "x-credential-",
	"x-goog-authenticated-", "x-ms-client-principal", "x-pomerium-claim-", "cf-access-authenticated-", "tailscale-",
	"x-forwarded-tls-client-cert", "x-amzn-mtls-", "x-client-cert", "x-client-dn", "x-client-subject", "ssl-client-", "x-ssl-client-", "x-ssl-subject", "x-ssl-cert", "x-tls-client-",
}

// NamesCaller reports whether a header field, by its folded name, says who calls in
// plain text: a caller's own must never reach a service that believes it.
func NamesCaller(folded string) bool {
	if namesCaller[folded] {
		return true
	}
	for _, p := range namesCallerFamilies {
		if strings.HasPrefix(folded, p) {
			return true
		}
	}
	return false
}

// Fold returns what a header field's name becomes in servers that map it to a variable:
// without case, and with one separator for all.
func Fold(name string) string {
	return strings.Map(func(r rune) rune {
		switch {
		case r >= 'A' && r <= 'Z':
			return r + 'a' - 'A'
		case r >= 'a' && r <= 'z' || r >= '0' && r <= '9':
			return r
		}
		return '-' // CGI's "_": servers differ in which characters become it
	}, name)
}
