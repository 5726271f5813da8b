package cli

import (
	"fmt"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/policy"
)

func policyCommand(e *env) *cobra.Command {
	return group("policy", "check policies, and explain decisions", policyCheck(e), policyExplain(e))
}

func policyCheck(e *env) *cobra.Command {
	var file string
	c := &cobra.Command{Use: "check --config FILE", Short: "type-check the policies of a file; exit 1 if one is wrong", Args: takes(), RunE: func(*cobra.Command, []string) error {
		cfg, err := load(file)
		if err != nil {
			return err
		}
		s, err := policy.Compile(cfg.Config, cfg.World())
		if err != nil {
			return failed(err) // load has compiled them before
		}
		var shadow, off int
		for _, r := range cfg.Policies {
			switch r.Mode {
			case "shadow":
				shadow++
			case "off":
				off++
			}
		}
		if e.output == "json" {
			return e.json(struct {
				OK       bool     `json:"ok"`
				Enforced int      `json:"enforced"`
				Shadow   int      `json:"shadow"`
				BuiltIn  []string `json:"built_in"`
				Revision string   `json:"revision"`
			}{true, len(cfg.Policies) - shadow - off, shadow, cfg.BuiltIns(), s.Revision()})
		}
		_, err = fmt.Fprintf(e.out, "%s: ok: %d policies enforced, %d in shadow, %d built-in, revision %s\n",
			file, len(cfg.Policies)-shadow-off, shadow, len(cfg.BuiltIns()), s.Revision())
		return err
	}}
	configFlag(c, &file)
	return c
}
