package cli

import (
	"fmt"
	"net"
	"os"
)

// notifyReady tells systemd, if that started us, that we serve (sd_notify(3)): what
// is ordered after the unit then finds the doors open.
func notifyReady() error {
	address := os.Getenv("NOTIFY_SOCKET")
	if address == "" {
		return nil
	}
	c, err := net.Dial("unixgram", address)
	if err != nil {
		return fmt.Errorf("tell systemd that we are ready: %w", err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("READY=1")); err != nil {
		return fmt.Errorf("tell systemd that we are ready: %w", err)
	}
	return nil
}
