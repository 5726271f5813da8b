package cli

import (
	"fmt"
	"runtime"

	"github.com/spf13/cobra"
)

func versionCommand(e *env) *cobra.Command {
	return &cobra.Command{Use: "version", Short: "print the version", Args: takes(), RunE: func(*cobra.Command, []string) error {
		if e.output == "json" {
			return e.json(struct {
				Version string `json:"version"`
				Go      string `json:"go"`
			}{version(), runtime.Version()})
		}
		_, err := fmt.Fprintf(e.out, "sallyport %s (%s)\n", version(), runtime.Version())
		return err
	}}
}
