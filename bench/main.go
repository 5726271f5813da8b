// Command bench reads the output of `go test -bench` and prints each path that a
// user waits on as a ratio to its floor, measured in the same run: bare times say
// more about the machine than about the code.
package main

import (
	"bufio"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A row is one path and the floor it is held against.
type row struct{ path, floor, what string }

// rows are what `make bench` prints. A name that no benchmark has is an error: a
// row that vanished must not look like one that passed.
func rows() []row {
	return []row{
		{"VerifyCold/verify", "VerifyCold/raw", "verify a token never seen before / one raw RS256 verification"},
		{"VerifyCached", "VerifyCold/raw", "use a token seen before / one raw RS256 verification"},
		{"Decide", "VerifyCold/raw", "one policy decision with a condition / one raw RS256 verification"},
		{"Decide100k", "Decide", "the same with 100,000 policies / with few"},
		{"AppendWritten", "VerifyCold/raw", "one record written / one raw RS256 verification"},
		{"AppendWrittenParallel", "VerifyCold/raw", "the same from many goroutines at once / one raw RS256 verification"},
		{"LongLog/principal-hour", "LongLog/read-hour", "find one of a hundred principals' last hour in the long log / read that hour without an index"},
		{"AdmitWithRecord", "VerifyCold/raw", "admit: token seen before, decision, written record / one raw RS256 verification"},
		{"ProxiedRequest/admitted", "ProxiedRequest/bare", "one proxied request / the bare reverse proxy"},
		{"Door/static", "Door/cached", "tokens a second from a metadata door, minted before / answers of a static handler (budget 0.5)"},
		{"Door/signed-RS256", "Door/minted-RS256", "RS256 tokens minted a second, recorded and synced / net/http and the signature alone"},
		{"Door/signed-ES256", "Door/minted-ES256", "the same for ES256 (budget 0.7)"},
		{"NewConnection/uid", "NewConnection/static", "the first token on a connection, by an entry with uid / a static handler's first answer"},
		{"NewConnection/executable", "NewConnection/static", "the same by an entry with executable, which looks at every process twice"},
	}
}

var line = regexp.MustCompile(`^Benchmark(\S+?)(-\d+)?\s+\d+\s+([0-9.]+) ns/op`)

func run(in io.Reader, out io.Writer) error {
	times := map[string][]float64{}
	s := bufio.NewScanner(in)
	for s.Scan() {
		_, _ = fmt.Fprintln(out, s.Text())
		if m := line.FindStringSubmatch(s.Text()); m != nil {
			ns, err := strconv.ParseFloat(m[3], 64)
			if err != nil {
				return fmt.Errorf("%q: %w", s.Text(), err)
			}
			times[m[1]] = append(times[m[1]], ns)
		}
		if strings.HasPrefix(s.Text(), "FAIL") || strings.HasPrefix(s.Text(), "--- FAIL") {
			return fmt.Errorf("a benchmark failed: %s", s.Text())
		}
	}
	if err := s.Err(); err != nil {
		return err
	}
	_, _ = fmt.Fprintln(out, "\nmedians of this run, as ratios:")
	for _, r := range rows() {
		a, b := median(times[r.path]), median(times[r.floor])
		if a == 0 || b == 0 {
			return fmt.Errorf("no benchmark gave %s and %s", r.path, r.floor)
		}
		_, _ = fmt.Fprintf(out, "%8.3f  %s (%.1f us / %.1f us)\n", a/b, r.what, a/1000, b/1000)
	}
	return nil
}

func median(v []float64) float64 {
	if len(v) == 0 {
		return 0
	}
	slices.Sort(v)
	return v[len(v)/2]
}
