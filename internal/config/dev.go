package config

import (
	"fmt"

	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/gateway"
	"github.com/sallyport-dev/sallyport/internal/gateway/all"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy/upstream"
	"github.com/sallyport-dev/sallyport/internal/issuer"
	"github.com/sallyport-dev/sallyport/internal/policy"
	"github.com/sallyport-dev/sallyport/internal/store"
)

// DevAddresses are where the parts of dev mode listen, as HOST:PORT.
type DevAddresses struct {
	Issuer, Orders, Reports, Gateway, Telemetry, Demo string
}

// DefaultDevAddresses returns the addresses that the documentation uses.
func DefaultDevAddresses() DevAddresses {
	return DevAddresses{"127.0.0.1:8400", "127.0.0.1:8401", "127.0.0.1:8403", "127.0.0.1:8443", "127.0.0.1:8402", "127.0.0.1:8404"}
}

// DevAudience is the audience of dev mode's example service.
const DevAudience = "https://invoices.dev.internal"

// Dev returns the configuration of `sallyport dev`: everything on loopback, keys
// in memory, the log in dataDir, two example accounts that are both the user uid,
// each with a metadata door of its own, and a demo service that one of them may
// read. It still has to be completed.
func Dev(a DevAddresses, dataDir string, uid uint32) *Config {
	me := []attest.Rule{{UID: &uid}}
	project := metadata.Project{ID: "sallyport-dev", Number: 100000000001}
	return &Config{
		TrustDomain: "dev.internal",
		Replica:     "dev",
		DataDir:     dataDir,
		Store:       store.Config{URL: "sqlite::memory:"},
		Telemetry:   Telemetry{Listen: a.Telemetry},
		Issuer:      issuer.Config{URL: "http://" + a.Issuer, Listen: a.Issuer, Audiences: []string{"*"}},
		Metadata: []metadata.Config{
			{Listen: a.Orders, ServiceAccounts: []string{"orders"}, Project: project},
			{Listen: a.Reports, ServiceAccounts: []string{"reports"}, Project: project},
		},
		ServiceAccounts: []ServiceAccount{
			{Account: attest.Account{Name: "orders", Attest: me}},
			{Account: attest.Account{Name: "reports", Attest: me}},
		},
		Gateway: gateway.Config{Listen: a.Gateway},
		Services: []all.Service{{
			Service: gateway.Service{Name: "invoices", Audiences: []string{DevAudience}},
			HTTP: &httpproxy.Config{
				Hosts:           []string{"127.0.0.1", "localhost", "invoices.localhost"},
				Config:          upstream.Config{Upstream: "http://" + a.Demo},
				IdentityHeaders: map[string]string{"X-Forwarded-User": "principal.name"},
			},
		}},
		Config: policy.Config{
			Roles: map[string]policy.Role{"reader": {Actions: []string{"http.get", "http.head"}}},
			Policies: []policy.Rule{{
				Name: "orders-read-invoices", Allow: []string{"serviceAccount:orders"}, To: []string{"invoices"},
				Role: "reader", When: `under(request.path, "/v1")`,
			}, {
				Name: "we-may-run-as-both", Allow: []string{fmt.Sprintf("user:local/%d", uid)},
				To: []string{"serviceAccount:orders", "serviceAccount:reports"}, Actions: []string{"workload.run"},
			}},
		},
	}
}
