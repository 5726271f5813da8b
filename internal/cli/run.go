package cli

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/door/actions"
	"github.com/sallyport-dev/sallyport/internal/identity"
)

// Exit statuses of a program that could not be started, as shells have them.
const (
	exitNotExecutable = 126
	exitNotFound      = 127
)

// doorUse is the hidden command that is the door of `run`: first as a parent that
// ends at once, then as its orphan.
const doorUse = "run-door"

// runner is one `sallyport run`.
type runner struct {
	endpoint
	as string
}

func runCommand(e *env) *cobra.Command {
	var r runner
	c := &cobra.Command{
		Use:   "run --as ACCOUNT -- CMD [ARG...]",
		Short: "run a program as a service account, if policy allows it",
		Long: "Run CMD with a metadata door of its own that gives the tokens of ACCOUNT to CMD and its descendants, and to\n" +
			"nobody else. Policy must allow the user workload.run on serviceAccount:ACCOUNT; each token is decided anew.\n\n" +
			"CMD takes the place of this command: it has its process, its terminal and its signals, and its exit status is\n" +
			"CMD's. What Google's libraries, gcloud and tools for GitHub Actions look for is in its environment. The door\n" +
			"is a process beside it, which ends with it. A descendant whose own parent has ended is none any more.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("needs a program to run, after --")
			}
			return nil
		},
		RunE: func(_ *cobra.Command, args []string) error {
			if err := checkAs(r.as); err != nil {
				return misuse(err)
			}
			e.release() // they are CMD's: one that comes before CMD ends us, and one that is ignored stays so
			return e.run(&r, args)
		},
	}
	r.flags(c)
	c.Flags().StringVar(&r.as, "as", "", "the service account (required)")
	c.Flags().SetInterspersed(false) // what follows CMD is CMD's
	_ = c.MarkFlagRequired("as")     // fails only for a flag that is not there
	return c
}

// checkAs says what is wrong with the name of an account to act as.
func checkAs(name string) error {
	if !identity.ValidName(name) {
		return fmt.Errorf("--as %q: want the name of a service account in the server's file, such as orders, and not its address", name)
	}
	return nil
}

func (e *env) run(r *runner, args []string) error {
	socket, err := r.path()
	if err != nil {
		return err
	}
	path, err := exec.LookPath(args[0])
	switch {
	case errors.Is(err, fs.ErrPermission) || errors.Is(err, syscall.EISDIR):
		return exit{exitNotExecutable, err}
	case err != nil && !errors.Is(err, exec.ErrDot):
		return exit{exitNotFound, err}
	}
	if socket, err = filepath.Abs(socket); err != nil { // the door is in another folder
		return failed(err)
	}
	address, project, err := startDoor(socket, r.as)
	if err != nil {
		return err
	}
	environment, hints := runEnvironment(os.Environ(), address, project, os.Getenv("HOME"))
	for _, h := range hints {
		_, _ = fmt.Fprintln(e.err, "sallyport: "+h)
	}
	return exit{exitNotExecutable, fmt.Errorf("run %s: %w", path, become(path, args, environment))}
}

// runEnvironment returns the environment of a program that finds its door at address
// (contract google-clients, 1.1), and what its user should know.
func runEnvironment(environ []string, address, project, home string) (out, hints []string) {
	is := map[string]string{}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		is[name] = value
	}
	set := map[string]string{
		"GCE_METADATA_HOST": address, "GCE_METADATA_IP": address, "GCE_METADATA_ROOT": address, // Go, Java, Node; Python's ping; gcloud
		"METADATA_SERVER_DETECTION":        "assume-present", // Node asks no BIOS
		"ACTIONS_ID_TOKEN_REQUEST_URL":     "http://" + address + actions.Path + "?" + actions.Query,
		"ACTIONS_ID_TOKEN_REQUEST_TOKEN":   "attested", // any text: the kernel says who asks
		"CLOUDSDK_CORE_CHECK_GCE_METADATA": "true",
		// or Node starts gcloud, which would ask for tokens and keep them
		"GOOGLE_CLOUD_PROJECT": cmp.Or(is["GOOGLE_CLOUD_PROJECT"], project),
		// Node sends even loopback requests to a proxy; libraries read one of the two names
		"NO_PROXY": noProxy(cmp.Or(is["NO_PROXY"], is["no_proxy"])),
		"no_proxy": noProxy(cmp.Or(is["no_proxy"], is["NO_PROXY"])),
	}
	drop := map[string]string{
		"NO_GCE_CHECK":                   "it would hide the door from Python and Java",
		"GOOGLE_APPLICATION_CREDENTIALS": "with it the program would not be the account",
	}
	for _, kv := range environ {
		name, value, _ := strings.Cut(kv, "=")
		why, dropped := drop[name]
		if _, ours := set[name]; !ours && !dropped {
			out = append(out, kv)
		}
		if dropped && value != "" {
			hints = append(hints, name+" is not handed on: "+why)
		}
	}
	for _, name := range sortedKeys(set) {
		out = append(out, name+"="+set[name])
	}
	file := filepath.Join(home, ".config", "gcloud", "application_default_credentials.json")
	if _, err := os.Stat(file); err == nil && home != "" {
		hints = append(hints, file+" is there, and Google's libraries take it before the door: remove it, or give the program another HOME")
	}
	return out, hints
}

// noProxy returns what no proxy is for, with the door's address.
func noProxy(hosts string) string {
	switch hosts {
	case "":
		return "127.0.0.1,localhost"
	case "*": // every host, and beside another name it would be none
		return hosts
	}
	return hosts + ",127.0.0.1"
}
