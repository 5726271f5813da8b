package audit_test

import (
	"bufio"
	"crypto/aes"
	"crypto/cipher"
	crand "crypto/rand"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/mod/sumdb/note"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// victim is the variable that makes this test binary a process to be killed: it says
// where its log is, and the log's keys.
const victim = "SALLYPORT_TEST_VICTIM"

func TestMain(m *testing.M) {
	if args := os.Getenv(victim); args != "" {
		if err := die(strings.Fields(args)); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	os.Exit(m.Run())
}

// die appends records from several goroutines and tells of each that was acknowledged,
// until somebody kills it.
func die(args []string) error {
	o, err := victimOptions(args)
	if err != nil {
		return err
	}
	l, err := audit.Open(o)
	if err != nil {
		return err
	}
	fmt.Printf("open %d %d\n", l.Size(), l.Lost())
	var writers sync.WaitGroup
	for w := range 4 {
		writers.Go(func() {
			for i := 0; ; i++ {
				d := audit.Written
				if w == 3 {
					d = audit.Buffered
				}
				principal := fmt.Sprintf("p%d-%d-%d", os.Getpid(), w, i)
				seq, err := l.Append(&audit.Record{Kind: audit.Admit, Decision: audit.Allow, Payload: audit.Payload{Principal: principal}}, d)
				if err != nil {
					fmt.Fprintln(os.Stderr, err)
					os.Exit(1)
				}
				_, _ = os.Stdout.WriteString(fmt.Sprintf("%s %d %s\n", d, seq, principal)) // one write(2): it is told or not
			}
		})
	}
	writers.Wait()
	return nil
}

func victimOptions(args []string) (audit.Options, error) {
	signer, err := note.NewSigner(args[1])
	if err != nil {
		return audit.Options{}, err
	}
	block, err := aes.NewCipher([]byte(args[3]))
	if err != nil {
		return audit.Options{}, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	o := audit.Options{Dir: args[0], Origin: origin, Sealer: kek{aead}, Signer: signer, VerifierKey: args[2], Checkpoint: 100 * time.Millisecond}
	o.SetSegment(512)
	return o, err
}

// told is what the victims told of one log.
type told struct {
	written map[uint64]string
	given   map[uint64]string // to buffered records, which may be lost
}

// kill starts a victim and kills it at a random moment.
func (k *told) kill(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = append(os.Environ(), victim+"="+strings.Join(args, " "))
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := bufio.NewScanner(out)
	after := rand.IntN(400)
	for n := 0; lines.Scan(); n++ {
		if n == after { // in the middle of whatever it does
			_ = cmd.Process.Kill()
		}
		f := strings.Fields(lines.Text())
		if f[0] == "open" || len(f) != 3 {
			continue
		}
		seq, err := strconv.ParseUint(f[1], 10, 64)
		if err != nil {
			t.Fatalf("the victim said %q", lines.Text())
		}
		if was := k.written[seq] + k.given[seq]; was != "" {
			t.Errorf("number %d was given to %s and %s", seq, was, f[2])
		}
		if f[0] == "written" {
			k.written[seq] = f[2]
		} else {
			k.given[seq] = f[2]
		}
	}
	_ = cmd.Process.Kill()
	_ = cmd.Wait()
	if stderr.Len() > 0 {
		t.Fatalf("the victim failed before it was killed: %s", stderr.String())
	}
}

// kill -9 at 200 random moments under load: what was acknowledged as written is there
// under its number, and no number of a buffered record is another's.
func TestKilledAtTwoHundredMoments(t *testing.T) {
	t.Parallel()
	const logs, kills = 10, 20
	for range logs {
		o := newOptions(t)
		skey, vkey, err := note.GenerateKey(crand.Reader, origin)
		if err != nil {
			t.Fatal(err)
		}
		args := []string{o.Dir, skey, vkey, strings.Repeat("k", 16)}
		if o, err = victimOptions(args); err != nil {
			t.Fatal(err)
		}
		k := &told{map[uint64]string{}, map[uint64]string{}}
		for range kills {
			k.kill(t, args)
			verified(t, o) // as it lies
		}
		mustClose(t, open(t, o)) // after a last recovery
		rep := verified(t, o)
		all := readAll(t, o)
		lost := 0
		for seq, principal := range k.written {
			if seq >= uint64(len(all)) || all[seq].Payload == nil || all[seq].Payload.Principal != principal {
				t.Errorf("%d of %s was acknowledged and is not there", seq, principal)
			}
		}
		for seq, principal := range k.given {
			switch {
			case seq >= uint64(len(all)):
				t.Errorf("number %d was given out and is not in the log", seq)
			case all[seq].Kind == audit.Gap:
				lost++
			case all[seq].Payload.Principal != principal:
				t.Errorf("number %d was given to %s and is %s", seq, principal, all[seq].Payload.Principal)
			}
		}
		if len(k.written) < 10*kills {
			t.Errorf("only %d records were acknowledged: no load", len(k.written))
		}
		t.Logf("%d written, %d buffered of which %d lost, %d entries, %d gaps", len(k.written), len(k.given), lost, rep.Entries, rep.Gaps)
	}
}
