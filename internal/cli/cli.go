// Package cli is the command line: one file for each subcommand, listed in
// commands.
//
// Exit status: 0 yes, 1 the answer is no, 2 misuse, 3 the server could not be
// reached or failed.
package cli

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"os"
	"os/signal"
	"regexp"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"unicode/utf8"

	"github.com/go-json-experiment/json"
	"github.com/go-json-experiment/json/jsontext"
	"github.com/spf13/cobra"
)

// Exit statuses.
const (
	exitNo     = 1
	exitMisuse = 2
	exitFailed = 3
)

// commands are the subcommands; adding one is a file and a line here.
func commands() []func(*env) *cobra.Command {
	return []func(*env) *cobra.Command{serveCommand, devCommand, runCommand, runDoorCommand, tokenCommand, keysCommand, configCommand, policyCommand, sessionsCommand, revokeCommand,
		auditCommand, doctorCommand, versionCommand}
}

// env is what a command may touch outside itself.
type env struct {
	in       io.Reader
	out, err io.Writer
	output   string // "text" or "json", and what a command names in its annotation
	terminal bool   // out is one

	// release gives signals back what they did when this process began.
	release func()
}

// outputs is the annotation of a command that has other forms of output than text
// and json.
const outputs = "outputs"

// exit is an error that carries its exit status.
type exit struct {
	status int
	err    error
}

func (e exit) Error() string { return e.err.Error() }
func (e exit) Unwrap() error { return e.err }

func no(err error) error     { return exit{exitNo, err} }
func misuse(err error) error { return exit{exitMisuse, err} }
func failed(err error) error { return exit{exitFailed, err} }

// Main runs the command line in args and returns the exit status.
func Main(args []string, in io.Reader, out, errw io.Writer) int {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	e := &env{in: in, out: out, err: errw, terminal: isTerminal(out), release: stop}
	root := rootCommand(e)
	root.SetArgs(args)
	root.SetIn(in)
	root.SetOut(out)
	root.SetErr(errw)
	cmd, err := root.ExecuteContextC(ctx)
	if err == nil {
		return 0
	}
	x, ok := errors.AsType[exit](err)
	if !ok { // cobra's own: an unknown command or flag, or a missing one
		x = exit{exitMisuse, plainly(err)}
	}
	_, _ = fmt.Fprintf(errw, "sallyport: %s\n", visible(x.err.Error()))
	if x.status == exitMisuse {
		_, _ = fmt.Fprint(errw, cmd.UsageString())
	}
	return x.status
}

// visible takes what a terminal might obey out of a message, and leaves its lines.
func visible(message string) string {
	return strings.Map(func(r rune) rune {
		if r != '\n' && r != '\t' && obeyed(r) {
			return '\ufffd'
		}
		return r
	}, message)
}

var required = regexp.MustCompile(`^required flag\(s\) (.*) not set$`)

// plainly says in our words what cobra says of flags that are missing.
func plainly(err error) error {
	if m := required.FindStringSubmatch(err.Error()); m != nil {
		return errors.New("needs --" + strings.ReplaceAll(strings.ReplaceAll(m[1], `", "`, " and --"), `"`, ""))
	}
	return err
}

// takes are the arguments of a command: one for each of names.
func takes(names ...string) cobra.PositionalArgs {
	return func(_ *cobra.Command, args []string) error {
		switch {
		case len(args) < len(names):
			return errors.New("needs " + names[len(args)])
		case len(args) > len(names):
			return fmt.Errorf("%q is more than it takes", args[len(names)])
		}
		return nil
	}
}

const usageTemplate = `usage: {{.UseLine}}
{{if .HasAvailableSubCommands}}
commands:{{range .Commands}}{{if .IsAvailableCommand}}
  {{rpad .Name .NamePadding}} {{.Short}}{{end}}{{end}}
{{end}}{{if .HasAvailableLocalFlags}}
flags:
{{.LocalFlags.FlagUsages | trimTrailingWhitespaces}}
{{end}}`

func rootCommand(e *env) *cobra.Command {
	root := group("sallyport", "short-lived identity for every caller, checked in front of every service, proved afterwards")
	root.SilenceErrors, root.SilenceUsage = true, true
	root.SetUsageTemplate(usageTemplate)
	root.SetHelpTemplate("{{with (or .Long .Short)}}{{.}}\n\n{{end}}{{.UsageString}}")
	root.PersistentFlags().StringVar(&e.output, "output", "text", "text, or json: one object a line")
	root.PersistentPreRunE = func(c *cobra.Command, _ []string) error {
		forms := strings.Fields(cmp.Or(c.Annotations[outputs], "text json"))
		if !slices.Contains(forms, e.output) {
			last := len(forms) - 1
			return fmt.Errorf("--output %q: want %s or %s", e.output, strings.Join(forms[:last], ", "), forms[last])
		}
		return nil
	}
	for _, c := range commands() {
		root.AddCommand(c(e))
	}
	plainUsage(root)
	return root
}

// plainUsage keeps "[flags]" out of usage lines that name the flags themselves.
func plainUsage(c *cobra.Command) {
	c.DisableFlagsInUseLine = true
	for _, child := range c.Commands() {
		plainUsage(child)
	}
}

// group returns a command that only has subcommands: alone it is misuse.
func group(use, short string, children ...*cobra.Command) *cobra.Command {
	c := &cobra.Command{Use: use + " COMMAND", Short: short, Args: cobra.ArbitraryArgs, RunE: func(_ *cobra.Command, args []string) error {
		if len(args) > 0 {
			return misuse(fmt.Errorf("%q is not a command", args[0]))
		}
		return misuse(errors.New("name a command"))
	}}
	// "keys lst --data-dir D" lacks a command and no flag
	c.SetFlagErrorFunc(func(c *cobra.Command, err error) error {
		if args := c.Flags().Args(); c.HasSubCommands() && len(args) > 0 {
			return fmt.Errorf("%q is not a command", args[0])
		}
		return err
	})
	c.AddCommand(children...)
	return c
}

// isTerminal reports whether w shows what is written to a person.
func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	return err == nil && info.Mode()&os.ModeCharDevice != 0
}

// json writes v as one line.
func (e *env) json(v any) error {
	b, err := json.Marshal(v, json.Deterministic(true))
	if err != nil {
		return failed(fmt.Errorf("write JSON: %w", err))
	}
	if e.terminal { // JSON lets through some of what a terminal might obey, in texts
		var text []byte
		for _, r := range string(b) {
			if obeyed(r) {
				text = fmt.Appendf(text, `\u%04x`, r)
			} else {
				text = utf8.AppendRune(text, r)
			}
		}
		b = text
	}
	_, err = e.out.Write(append(b, '\n'))
	return err
}

// raw writes JSON text as one line.
func (e *env) raw(text []byte) error {
	v := jsontext.Value(text).Clone()
	if err := v.Compact(); err != nil {
		return failed(fmt.Errorf("write JSON: %w", err))
	}
	_, err := e.out.Write(append(v, '\n'))
	return err
}

// logger writes JSON lines for the server's own log.
func (e *env) logger() *slog.Logger { return slog.New(slog.NewJSONHandler(e.err, nil)) }

// built is set by the linker: what the source was.
var built string

// version returns what was built: the commit that the Makefile tells, else the
// module's version.
func version() string {
	if built != "" {
		return built
	}
	if info, ok := debug.ReadBuildInfo(); ok {
		return strings.Trim(info.Main.Version, "()")
	}
	return "unknown"
}

func unmarshal(text []byte, v any) error { return json.Unmarshal(text, v) }

func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }

// plain shows a JSON value without quotes where it is a string.
func plain(v jsontext.Value) string {
	if v.Kind() == '"' {
		if s, err := jsontext.AppendUnquote(nil, v); err == nil {
			return string(s)
		}
	}
	return string(v)
}
