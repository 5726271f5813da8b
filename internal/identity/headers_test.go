package identity_test

import (
	"testing"

	"github.com/sallyport-dev/sallyport/internal/identity"
)

func TestNamesCaller(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]bool{
		"Remote-User": true, "REMOTE_USER": true, "x.remote.user": true, "X-Forwarded-Client-Cert": true, "X-Webauth-Email": true, "X-Webauth-Groups": true,
		"X-Endpoint-API-Userinfo": true, "X-Apigateway-Api-Userinfo": true, "X-Authentik-Username": true, "X-Consumer-Username": true, "X-Auth-User": true,
		"X-Authenticated-Userid": true, "X-Serverless-Authorization": true, "X-Ms-Client-Principal-Name": true, "X-Forwarded-Tls-Client-Cert-Info": true,
		"X!Forwarded!User": true, "X~remote~user": true, "Oidc_claim_sub": true, "Mellon-Name-Id": true, "X-Userinfo": true, "X-Auth-Email": true, "X-Proxy-User": true,
		"X-Client-Subject-Dn": true, "X-Ssl-Subject": true, "X-Arr-Clientcert": true, "X-Amzn-Mtls-Clientcert-Subject": true, "Impersonate-User": true, "SM_USER": true, "Iv-User": true, "X-Rh-Identity": true, "X-SSL-Cert": true, "Shib-Identity-Provider": true, "X-Ms-Token-Aad-Id-Token": true,
		"X-Forwarded-For": false, "X-Request-Id": false, "Authorization": false, "X-Sallyport-Assertion": false, "X-Consumer": false, "": false,
	} {
		if got := identity.NamesCaller(identity.Fold(name)); got != want {
			t.Errorf("%s: got %v", name, got)
		}
	}
}
