package attest_test

import (
	"os"
	"strconv"
	"strings"
	"testing"

	"github.com/sallyport-dev/sallyport/internal/attest"
)

// Who counts as a program or its descendant: each check by itself, since on the way
// through `sallyport run` one stands behind the other.
func TestKin(t *testing.T) {
	t.Parallel()
	privileged(t)
	exe := program(t, "caller")
	for _, tt := range []struct {
		name    string
		uid     int
		actions []string
		us      bool   // kin of this process, from which every caller descends; else of the caller itself
		want    string // part of the error; "" for none
	}{
		{name: "the program", uid: os.Getuid()},
		{name: "a child", uid: os.Getuid(), us: true},
		{name: "a child beside the program", uid: os.Getuid(), actions: []string{"fork"}},
		{name: "a descendant of another uid", uid: otherUID, us: true, want: "the caller's uid is 4711"},
		{name: "one that was ours when it connected", uid: os.Getuid(), us: true, actions: []string{"setuid 4711"}, want: "has uid 4711"},
		{name: "a stranger who was handed the socket", uid: os.Getuid(), actions: []string{"pass"}, want: "does not descend"},
		{name: "a socket that nobody holds", uid: os.Getuid(), us: true, actions: []string{"park", "close"}, want: "no process that we can look into"},
		{name: "a socket that is closed", uid: os.Getuid(), us: true, actions: []string{"close"}, want: "TCP state"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			c := connect(t, "tcp", exe, tt.uid, "")
			root := c.cmd.Process.Pid
			if tt.us {
				root = os.Getpid()
			}
			kin, err := attest.NewKin(root)
			if err != nil {
				t.Fatal(err)
			}
			for _, action := range tt.actions {
				if action == "pass" {
					action += " " + keep(t, "", os.Getuid())
				}
				c.do(action)
			}
			err = kin.Check(t.Context(), c.conn)
			if (err == nil) != (tt.want == "") || err != nil && !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
	stranger := connect(t, "tcp", exe, otherUID, "")
	if _, err := attest.NewKin(stranger.cmd.Process.Pid); err == nil || !strings.Contains(err.Error(), "it is of uid "+strconv.Itoa(otherUID)) {
		t.Errorf("a program of another user: %v", err)
	}
}
