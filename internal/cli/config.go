package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/config"
)

func configCommand(e *env) *cobra.Command {
	return group("config", "check or print a configuration file", configCheck(e), configPrint(e))
}

func configCheck(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "check --config FILE", Short: "report every mistake in a file; exit 1 if there is one", Args: takes(), RunE: func(*cobra.Command, []string) error {
		cfg, err := load(file)
		if err != nil {
			return err
		}
		if e.output == "json" {
			return e.json(struct {
				OK       bool     `json:"ok"`
				Warnings []string `json:"warnings"`
			}{true, cfg.Warnings()})
		}
		for _, w := range cfg.Warnings() {
			_, _ = fmt.Fprintln(e.err, "warning: "+w)
		}
		_, err = fmt.Fprintf(e.out, "%s: ok\n", file)
		return err
	}}
	configFlag(c, &file)
	return c
}

func configPrint(e *env) *cobra.Command {
	var file string
	var dev bool
	c := &cobra.Command{Use: "print --config FILE | --dev", Short: "print a file with its defaults filled in", Args: takes(), RunE: func(*cobra.Command, []string) error {
		var cfg *config.Config
		var err error
		switch {
		case dev == (file != ""):
			return misuse(fmt.Errorf("print needs --config FILE or --dev, one of them"))
		case dev:
			cfg = config.Dev(config.DefaultDevAddresses(), "/tmp/sallyport-dev", currentUID())
			err = cfg.Complete("/")
		default:
			cfg, err = load(file)
		}
		if err != nil {
			return err
		}
		text, err := cfg.Print()
		if err != nil {
			return failed(err)
		}
		_, err = e.out.Write(text)
		return err
	}}
	c.Flags().StringVar(&file, "config", "", "the configuration file")
	c.Flags().BoolVar(&dev, "dev", false, "print what 'sallyport dev' runs: a file to start from")
	return c
}
