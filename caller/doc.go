// Package caller gives a Go program the identity it runs under: ID tokens for one
// service, fetched from a Sallyport metadata door, kept while they are good and
// renewed before they end.
//
// A [Source] stands for one audience. [Source.Token] is for whoever carries tokens
// by other means, such as gRPC metadata; [Source.Transport] is for HTTP:
//
//	source, err := caller.New(caller.Config{Audience: "https://invoices.acme.internal"})
//	if err != nil {
//		return err
//	}
//	client := &http.Client{Transport: source.Transport(nil)}
//	resp, err := client.Get("https://invoices.acme.internal/v1/invoices")
//
// # What it refuses to send
//
// A bearer token is whoever holds it. The transport sends it to the host that the
// audience names, or to those in [Config.Hosts], over TLS, and to nobody else: not
// to another host that a redirect points to, not to another port, not over plain
// HTTP (loopback addresses that are listed excepted, for development). Such a
// request fails with [ErrDestination] and nothing of it is sent.
//
// # What it does not do
//
// It does not verify: the door is trusted as far as the machine is, and whether a
// token is good is for the service to say (package verifier). It asks for ID
// tokens of the account "default" only. It does not retry requests.
//
// Sources: RFC 6750, RFC 9110; the GCE metadata server's protocol.
package caller
