package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"

	"github.com/go-json-experiment/json"
	"github.com/spf13/cobra"

	"github.com/sallyport-dev/sallyport/internal/app"
	"github.com/sallyport-dev/sallyport/internal/attest"
	"github.com/sallyport-dev/sallyport/internal/door"
	"github.com/sallyport-dev/sallyport/internal/door/metadata"
	"github.com/sallyport-dev/sallyport/internal/door/private"
	"github.com/sallyport-dev/sallyport/internal/gateway/httpproxy"
)

// doorPipe is the descriptor through which the door says that it is open.
const doorPipe = 3

// opened is what the door's process says through its pipe.
type opened struct {
	Address string `json:"address,omitzero"`
	Project string `json:"project,omitzero"`
	Error   string `json:"error,omitzero"`
	Status  int    `json:"status,omitzero"` // exit status that goes with Error
}

// startDoor starts a door for the program that this process is about to become, and
// returns its address, and the project that it tells of. The door is nobody's child: a
// program that waits for its children finds only its own.
func startDoor(socket, account string) (address, project string, err error) {
	self, err := os.Executable()
	if err != nil {
		return "", "", failed(err)
	}
	in, out, err := os.Pipe()
	if err != nil {
		return "", "", failed(err)
	}
	defer in.Close()
	cmd := exec.Command(self, doorArguments(socket, account, os.Getpid())...)
	cmd.Args[0] = os.Args[0] // by the name that it was called
	cmd.ExtraFiles = []*os.File{out}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true} // the terminal's signals are the program's
	err = cmd.Run()
	_ = out.Close()
	if err != nil {
		return "", "", failed(fmt.Errorf("start the door: %w", err))
	}
	text, err := io.ReadAll(io.LimitReader(in, maxAnswer))
	var o opened
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	switch {
	case err != nil:
		return "", "", failed(errors.New("the door did not open"))
	case o.Error != "":
		return "", "", exit{o.Status, errors.New(o.Error)}
	}
	return o.Address, o.Project, nil
}

// become makes this process the program; it returns only when that fails.
func become(path string, args, environment []string) error {
	return syscall.Exec(path, args, environment)
}

func doorArguments(socket, account string, pid int) []string {
	return []string{doorUse, "--socket", socket, "--as", account, "--for", strconv.Itoa(pid)}
}

// doorConnections is how many connections a door has at most: a quarter of the files that
// it may have open. Who holds the most loses them to who holds fewer.
func doorConnections() int { return min(1024, app.Descriptors()/4) }

func runDoorCommand(e *env) *cobra.Command {
	var socket, account string
	var pid int
	var orphan bool
	c := &cobra.Command{
		Use: doorUse, Short: "the door of `sallyport run`", Hidden: true, Args: takes(),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if !orphan {
				return leaveOrphan(socket, account, pid)
			}
			return openDoor(cmd.Context(), socket, account, pid)
		},
	}
	c.Flags().StringVar(&socket, "socket", "", "the server's workload.sock")
	c.Flags().StringVar(&account, "as", "", "the service account")
	c.Flags().IntVar(&pid, "for", 0, "the program")
	c.Flags().BoolVar(&orphan, "orphan", false, "be the door")
	return c
}

// leaveOrphan starts the door and ends, so that the door is no child of the program.
func leaveOrphan(socket, account string, pid int) error {
	self, err := os.Executable()
	if err != nil {
		return failed(err)
	}
	cmd := exec.Command(self, append(doorArguments(socket, account, pid), "--orphan")...)
	cmd.Args[0] = os.Args[0]
	cmd.ExtraFiles = []*os.File{os.NewFile(doorPipe, "pipe")}
	cmd.Dir = "/" // keeps no folder busy
	if err := cmd.Start(); err != nil {
		return failed(err)
	}
	return cmd.Process.Release()
}

// openDoor serves the program pid and its descendants until it ends.
func openDoor(ctx context.Context, socket, account string, pid int) error {
	pipe := os.NewFile(doorPipe, "pipe")
	o := opened{}
	server, l, kin, err := makeDoor(ctx, socket, account, pid)
	if err == nil {
		o.Project, err = mayRun(ctx, socket, account)
	}
	if err != nil {
		o.Error, o.Status = err.Error(), exitFailed
		if x, ok := errors.AsType[exit](err); ok {
			o.Status = x.status
		}
	} else {
		o.Address = l.Addr().String()
	}
	text, merr := json.Marshal(o)
	if merr == nil {
		_, merr = pipe.Write(text)
	}
	if err := errors.Join(err, merr, pipe.Close()); err != nil {
		return err
	}
	go func() {
		_ = kin.Wait() // whatever ends it, there is nobody left to serve
		_ = server.Close()
	}()
	if err := server.Serve(l); !errors.Is(err, http.ErrServerClosed) {
		return failed(err)
	}
	return nil
}

func makeDoor(ctx context.Context, socket, account string, pid int) (*http.Server, net.Listener, *attest.Kin, error) {
	kin, err := attest.NewKin(pid)
	if err != nil {
		return nil, nil, nil, failed(err)
	}
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, nil, nil, failed(fmt.Errorf("open the door: %w", err))
	}
	return &http.Server{
		Handler:     private.New(l.Addr().String(), socket, account, kin),
		ConnContext: door.ConnContext, ReadHeaderTimeout: httpproxy.ReadHeaderTimeout, IdleTimeout: httpproxy.IdleTimeout,
		MaxHeaderBytes: httpproxy.MaxHeaderBytes, DisableGeneralOptionsHandler: true,
	}, door.Listen(l, nil, door.NewShares(0, doorConnections())), kin, nil
}

// mayRun asks the server once, so that a refusal is told before the program starts, and
// returns the project.
func mayRun(ctx context.Context, socket, account string) (project string, err error) {
	ask := func(path string) (int, string, error) {
		resp, text, err := newDial(socket).metadata(ctx, private.Prefix+url.PathEscape(account)+metadata.Base+path)
		if err != nil {
			return 0, "", err
		}
		return resp.StatusCode, strings.TrimSpace(text), nil
	}
	status, text, err := ask("instance/service-accounts/default/email")
	if err == nil && status == http.StatusOK {
		status, text, err = ask("project/project-id")
	}
	switch {
	case err != nil:
		return "", err
	case status == http.StatusOK:
		return text, nil
	case status >= http.StatusInternalServerError || status == http.StatusTooManyRequests:
		return "", failed(errors.New("the server cannot decide now: " + printable(text)))
	}
	return "", no(fmt.Errorf("user %s may not run as %s: %s", strconv.Itoa(os.Getuid()), account, printable(text)+owners(text, socket)))
}
