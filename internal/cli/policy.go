package cli

import (
	"fmt"
	"net/http"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/admin"
	"github.com/sallyport-dev/sallyport/internal/policy"
)

func policyCommand(e *env) *cobra.Command {
	return group("policy", "check and apply policies, and explain decisions", policyCheck(e), policyApply(e), policyExplain(e))
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

func policyApply(e *env) *cobra.Command {
	var p place
	var accept bool
	c := &cobra.Command{
		Use: "apply", Short: "let a running server read its file again; exit 1 if it is not put in force",
		Long: "Let a running server read its file again and put it in force. It does so by itself when the file changes, and on\n" +
			"SIGHUP; a file that is wrong, that needs a restart, or that would end more live sessions than\n" +
			"policy.max_session_loss is held, and what ran before stays in force. --accept lets it end them.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			var done admin.Applied
			if err := administer(cmd.Context(), &p, askTimeout, http.MethodPost, admin.ApplyPath, admin.Apply{Accept: accept}, &done); err != nil {
				return err
			}
			if e.output == "json" {
				return e.json(done)
			}
			_, err := fmt.Fprintf(e.out, "revision %s is in force: %d of %d live sessions ended\n", done.Revision, done.Ends, done.Live)
			return err
		},
	}
	c.Flags().BoolVar(&accept, "accept", false, "that live sessions end which the new file does not allow, however many")
	p.flags(c)
	return c
}
