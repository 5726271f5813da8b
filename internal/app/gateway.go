package app

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/gateway"
)

// Bounds of HTTP/2 at the gateway.
const (
	gatewayStreams = 250              // of one connection at a time
	gatewayPing    = 30 * time.Second // of silence, before a client is asked whether it is there
	gatewayPong    = 15 * time.Second // it has to answer
	gatewayWrite   = 60 * time.Second // nothing that is to be written could be
)

// listenGateway listens for the services: with gateway.tls HTTP/1.1 and HTTP/2 by ALPN,
// without it HTTP/1.1 and HTTP/2 with prior knowledge (RFC 9113 section 3.3) on the same
// port.
func (a *App) listenGateway(h http.Handler) error {
	l, err := a.o.Listen(a.c.Gateway.Listen)
	if err != nil {
		return fmt.Errorf("listen for gateway: %w", CannotListen(err))
	}
	listener := a.c.Gateway.TrustedProxies.Listen(door.Listen(l, nil, a.shares.gateway))
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	if len(a.c.Gateway.TLS) > 0 {
		certificates, err := gateway.OpenCertificates(a.c.Gateway.TLS, a.o.Logger, nil)
		if err != nil {
			_ = l.Close()
			return a.c.Mistaken(fmt.Errorf("gateway.tls: %w", err))
		}
		c := certificates.TLS()
		asks := c.Clone()
		// nobody is asked for a certificate whom none would help: browsers ask people then.
		// It is verified with the request, by the providers that its service accepts.
		asks.ClientAuth = tls.RequestClientCert
		c.GetConfigForClient = func(*tls.ClientHelloInfo) (*tls.Config, error) {
			if a.ruling.certificates.Load() {
				return asks, nil
			}
			return nil, nil
		}
		listener = tls.NewListener(listener, c)
		protocols.SetHTTP2(true)
	} else {
		protocols.SetUnencryptedHTTP2(true)
	}
	s := a.serve("gateway", listener, h)
	s.http.Protocols = protocols
	s.http.HTTP2 = &http.HTTP2Config{MaxConcurrentStreams: gatewayStreams, SendPingTimeout: gatewayPing, PingTimeout: gatewayPong, WriteByteTimeout: gatewayWrite}
	s.http.ConnContext = func(ctx context.Context, c net.Conn) context.Context {
		return door.ConnContext(ctx, gateway.Bare(c))
	}
	return nil
}
