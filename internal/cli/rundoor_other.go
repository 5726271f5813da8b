//go:build !linux

package cli

import (
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// runDoorCommand is the door of `run`, on Linux.
func runDoorCommand(*env) *cobra.Command { return &cobra.Command{Use: doorUse, Hidden: true} }

func startDoor(string, string) (address, project string, err error) {
	return "", "", failed(attest.ErrUnsupported)
}

func become(string, []string, []string) error { return attest.ErrUnsupported }
