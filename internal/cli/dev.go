package cli

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"text/template"

	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/config"
)

func devCommand(e *env) *cobra.Command {
	var demo bool
	var dataDir string
	c := &cobra.Command{
		Use: "dev", Short: "run everything on loopback with an example, to try it",
		Long: "Run an issuer, a metadata door for each of two example accounts, and a gateway in front of a demo service,\n" +
			"all on loopback with throw-away keys, and print lines to paste. With --demo, run the walk-through itself on\n" +
			"free ports, print the records it made, and exit 1 if any answer is not the expected one.",
		Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			d, err := newDev(dataDir, demo)
			if err != nil {
				return failed(err)
			}
			defer d.remove()
			if demo {
				return e.demo(cmd.Context(), d)
			}
			return e.dev(cmd.Context(), d)
		},
	}
	c.Flags().BoolVar(&demo, "demo", false, "run the walk-through and exit")
	c.Flags().StringVar(&dataDir, "data-dir", "", "keep keys and log here (default: a temporary folder, removed at the end)")
	return c
}

func currentUID() uint32 { return uint32(os.Getuid()) }

// dev is a dev mode that is ready to start.
type dev struct {
	config    *config.Config
	addresses config.DevAddresses
	listeners map[string]net.Listener
	dataDir   string
	temporary bool
}

// newDev opens the listeners first: on free ports, their numbers are part of the
// configuration.
func newDev(dataDir string, free bool) (*dev, error) {
	d := &dev{addresses: config.DefaultDevAddresses(), listeners: map[string]net.Listener{}, dataDir: dataDir, temporary: dataDir == ""}
	a := &d.addresses
	for _, addr := range []*string{&a.Issuer, &a.Orders, &a.Reports, &a.Gateway, &a.Telemetry, &a.Demo} {
		if free {
			*addr = "127.0.0.1:0"
		}
		l, err := net.Listen("tcp", *addr)
		if err != nil {
			d.remove()
			return nil, fmt.Errorf("%w (is another `sallyport dev` running?)", err)
		}
		*addr = l.Addr().String()
		d.listeners[*addr] = l
	}
	if d.temporary {
		dir, err := os.MkdirTemp("", "sallyport-dev-")
		if err != nil {
			d.remove()
			return nil, err
		}
		d.dataDir = dir
	}
	abs, err := filepath.Abs(d.dataDir)
	if err != nil {
		d.remove()
		return nil, err
	}
	d.dataDir = abs
	d.config = config.Dev(d.addresses, d.dataDir, currentUID())
	if !d.temporary { // a log that is kept needs the keys that signed and sealed it
		d.config.Store.URL = "sqlite:"
	}
	return d, nil
}

func (d *dev) remove() {
	for _, l := range d.listeners {
		_ = l.Close()
	}
	if d.temporary && d.dataDir != "" {
		_ = os.RemoveAll(d.dataDir)
	}
}

// listen hands out the listeners that are open already.
func (d *dev) listen(addr string) (net.Listener, error) {
	l, ok := d.listeners[addr]
	if !ok {
		return nil, fmt.Errorf("%s is no address of dev mode", addr)
	}
	return l, nil
}

// start completes the configuration and returns the app, and the demo service
// that the gateway protects.
func (d *dev) start(ctx context.Context, e *env) (*app.App, *app.Demo, error) {
	if err := d.config.Complete(d.dataDir); err != nil {
		return nil, nil, err
	}
	a, err := app.New(ctx, d.config, app.Options{Version: version(), Logger: e.logger(), Listen: d.listen, Dev: true})
	if err != nil {
		return nil, nil, err
	}
	return a, app.StartDemo(d.listeners[d.addresses.Demo], d.config), nil
}

func (e *env) dev(ctx context.Context, d *dev) error {
	a, demo, err := d.start(ctx, e)
	if err != nil {
		return failed(err)
	}
	defer demo.Close()
	exe, err := os.Executable()
	if err != nil {
		exe = "sallyport"
	}
	if err := lines.Execute(e.out, map[string]any{"A": d.addresses, "Audience": config.DevAudience, "Dir": d.dataDir, "Exe": exe, "Temporary": d.temporary, "Linux": runtime.GOOS == "linux"}); err != nil {
		return failed(err)
	}
	if err := a.Run(ctx); err != nil {
		return failed(err)
	}
	return nil
}

// lines is what a new user pastes; the documentation shows the same.
var lines = template.Must(template.New("dev").Parse(`
Sallyport runs on loopback with throw-away keys. In another terminal:

  # no token: 401
  curl -si http://{{.A.Gateway}}/v1/hello

  # the right token: 200, and the service is told who called
  TOKEN=$(curl -s -H 'Metadata-Flavor: Google' 'http://{{.A.Orders}}/computeMetadata/v1/instance/service-accounts/default/identity?audience={{.Audience}}')
  curl -si -H "Authorization: Bearer $TOKEN" http://{{.A.Gateway}}/v1/hello

  # a token for another audience: 401
  OTHER=$(curl -s -H 'Metadata-Flavor: Google' 'http://{{.A.Orders}}/computeMetadata/v1/instance/service-accounts/default/identity?audience=https://other.example')
  curl -si -H "Authorization: Bearer $OTHER" http://{{.A.Gateway}}/v1/hello

  # a caller without permission: 403
  REPORTS=$(curl -s -H 'Metadata-Flavor: Google' 'http://{{.A.Reports}}/computeMetadata/v1/instance/service-accounts/default/identity?audience={{.Audience}}')
  curl -si -H "Authorization: Bearer $REPORTS" http://{{.A.Gateway}}/v1/hello

  # a program of yours that was written for Google Cloud, unchanged
  {{if .Linux}}{{.Exe}} run --data-dir {{.Dir}} --as orders --{{else}}GCE_METADATA_HOST={{.A.Orders}}{{end}} your-program

  # who called what, and that nobody changed it
  {{.Exe}} audit tail --data-dir {{.Dir}}
  {{.Exe}} audit verify --data-dir {{.Dir}}

{{if .Linux}}  # withdraw trust: new calls are refused, and live ones end
  {{.Exe}} revoke --data-dir {{.Dir}} --service-account orders --reason 'laptop lost'
  {{.Exe}} revoke list --data-dir {{.Dir}}

{{end}}  # the configuration behind this, to start your own from
  {{.Exe}} config print --dev
{{if .Temporary}}
{{.Dir}} is removed at the end; --data-dir DIR keeps it. {{end}}Ctrl-C ends it.
`))
