package cli

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"runtime/debug"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/config"
)

func serveCommand(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "serve --config FILE", Short: "run the issuer, the metadata doors and the gateway", Args: takes(), RunE: func(cmd *cobra.Command, _ []string) error {
		cfg, err := load(file)
		if err != nil {
			return err
		}
		log := e.logger()
		if os.Getenv("GOGC") == "" {
			debug.SetGCPercent(gcPercent)
		}
		for _, w := range cfg.Warnings() {
			log.Warn(w)
		}
		a, err := app.New(cmd.Context(), cfg, app.Options{Version: version(), Logger: log, Ready: notifyReady, File: file, Hangup: hangups()})
		if err != nil {
			return refusedFile(err)
		}
		for _, at := range app.Exchangeable(cfg.DataDir) {
			log.Warn("others can put another folder in the place of data_dir", "data_dir", cfg.DataDir, "by", at)
		}
		if err := a.Run(cmd.Context()); err != nil {
			return failed(err)
		}
		return nil
	}}
	configFlag(c, &file)
	return c
}

// gcPercent lets the heap grow to four times of what lives in it before it is collected:
// little lives here, and requests leave much. $GOGC says otherwise.
const gcPercent = 300

// hangups tells of each SIGHUP: to read the file again.
func hangups() <-chan os.Signal {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGHUP)
	return c
}

func configFlag(c *cobra.Command, file *string) {
	c.Flags().StringVar(file, "config", "", "the configuration file (required)")
	_ = c.MarkFlagRequired("config") // fails only for a flag that is not there
	_ = c.MarkFlagFilename("config", "yaml", "yml")
}

// load reads the configuration: a file that is wrong is a no, one that is not
// there is misuse.
func load(file string) (*config.Config, error) {
	cfg, err := config.Load(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, misuse(err)
	case err != nil:
		return nil, refusedFile(err)
	}
	return cfg, nil
}

// refusedFile tells a file that is wrong, or that cannot be served here, from
// everything else that can fail.
func refusedFile(err error) error {
	m, ok := errors.AsType[config.Mistakes](err)
	if !ok {
		return failed(err)
	}
	count := fmt.Sprintf("%d mistakes", len(m))
	if len(m) == 1 {
		count = "a mistake"
	}
	return no(fmt.Errorf("the configuration has %s:\n%w", count, err))
}
