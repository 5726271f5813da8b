package witness

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/mod/sumdb/note"
	"golang.org/x/mod/sumdb/tlog"

	"github.com/sallyport-dev/sallyport/internal/audit"
)

// A Log is what checkpoints are taken from.
type Log interface {
	// SignedHead returns the last checkpoint and how many entries it covers.
	SignedHead() (note []byte, size uint64)
	// ConsistencyProof proves that the first old entries begin the first size ones.
	ConsistencyProof(old, size uint64) ([]tlog.Hash, error)
}

const (
	timeout    = 10 * time.Second // of one question
	lastTime   = 5 * time.Second  // of all of them at shutdown
	maxAnswer  = 64 << 10         // bytes
	roundEvery = time.Minute      // of witnesses
)

// CosignedFile is where, in a log directory, the newest checkpoint lies that enough
// witnesses have signed.
const CosignedFile = "cosigned"

// A Publisher takes checkpoints outside.
type Publisher struct {
	log     Log
	dir     string // the log's
	logger  *slog.Logger
	places  []*place
	asked   []*asked
	quorum  int
	every   time.Duration // of witnesses
	signed  atomic.Uint64 // entries of the newest cosigned checkpoint
	trouble sync.Map      // what fails now, by place
}

type place struct {
	Place
	client *http.Client
	size   uint64 // that was published; owned by its goroutine
}

type asked struct {
	Witness
	verifier note.Verifier
	client   *http.Client
	size     uint64 // that the witness has seen; owned by the round
}

// New returns a Publisher; c is complete. It fails if a file that c names cannot be read.
func New(c Config, l Log, dir string, logger *slog.Logger) (*Publisher, error) {
	p := &Publisher{log: l, dir: dir, logger: logger, quorum: c.Quorum, every: roundEvery}
	for i, pl := range c.Publish {
		client, err := client(pl.CAFile)
		if err != nil {
			return nil, fmt.Errorf("audit.publish[%d].ca_file: %w", i, err)
		}
		p.places = append(p.places, &place{Place: pl, client: client})
	}
	for i, w := range c.Witnesses {
		client, err := client(w.CAFile)
		if err != nil {
			return nil, fmt.Errorf("audit.witnesses[%d].ca_file: %w", i, err)
		}
		v, err := NewVerifier(w.Key)
		if err != nil {
			return nil, fmt.Errorf("audit.witnesses[%d].key: %w", i, err)
		}
		p.asked = append(p.asked, &asked{Witness: w, verifier: v, client: client})
	}
	return p, nil
}

func client(caFile string) (*http.Client, error) {
	t := &http.Transport{Proxy: http.ProxyFromEnvironment, TLSClientConfig: &tls.Config{MinVersion: tls.VersionTLS12}, IdleConnTimeout: time.Minute}
	if caFile != "" {
		pem, err := os.ReadFile(caFile)
		if err != nil {
			return nil, err
		}
		if t.TLSClientConfig.RootCAs = x509.NewCertPool(); !t.TLSClientConfig.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%s holds no certificate", caFile)
		}
	}
	// a redirect would be followed with our credentials, to whoever it names
	return &http.Client{Transport: t, Timeout: timeout, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }}, nil
}

// Any reports whether there is anybody outside at all.
func (p *Publisher) Any() bool { return len(p.places)+len(p.asked) > 0 }

// Cosigned returns how many entries the newest checkpoint covers that enough witnesses
// have signed.
func (p *Publisher) Cosigned() uint64 { return p.signed.Load() }

// Health returns what fails outside now, nil if nothing does. It is no reason to refuse
// anything: the log itself is well.
func (p *Publisher) Health() error {
	var all []error
	p.trouble.Range(func(_, v any) bool { all = append(all, v.(error)); return true })
	return errors.Join(all...)
}

// Run publishes until ctx ends. One place that is slow delays no other.
func (p *Publisher) Run(ctx context.Context) {
	var all sync.WaitGroup
	for _, pl := range p.places {
		all.Go(func() { p.repeat(ctx, pl.Every, func(ctx context.Context) { p.publish(ctx, pl) }) })
	}
	if len(p.asked) > 0 {
		all.Go(func() { p.repeat(ctx, p.every, p.round) })
	}
	all.Wait()
}

func (p *Publisher) repeat(ctx context.Context, every time.Duration, do func(context.Context)) {
	for {
		do(ctx)
		wait := every
		if note, _ := p.log.SignedHead(); note == nil {
			wait = min(every, time.Second) // for the first
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// Last publishes the last checkpoint of a log that is closed, for five seconds at most.
func (p *Publisher) Last() {
	ctx, cancel := context.WithTimeout(context.Background(), lastTime)
	defer cancel()
	var all sync.WaitGroup
	for _, pl := range p.places {
		all.Go(func() { p.publish(ctx, pl) })
	}
	if len(p.asked) > 0 {
		all.Go(func() { p.round(ctx) })
	}
	all.Wait()
}

// tell notes how something outside went, and speaks up when that is news.
func (p *Publisher) tell(ctx context.Context, where string, err error) {
	if err == nil {
		if _, was := p.trouble.LoadAndDelete(where); was {
			p.logger.Info("audit log: checkpoints go out again", "to", where)
		}
		return
	}
	if errors.Is(ctx.Err(), context.Canceled) {
		return // we are the ones who stop
	}
	if was, had := p.trouble.Swap(where, fmt.Errorf("%s: %w", where, err)); !had || was.(error).Error() != where+": "+err.Error() {
		p.logger.Error("audit log: a checkpoint does not go out; it is tried again", "to", where, "error", err.Error())
	}
}

func (p *Publisher) publish(ctx context.Context, pl *place) {
	note, size := p.log.SignedHead()
	if size == pl.size || note == nil {
		return
	}
	var err error
	if pl.File != "" {
		err = appendTo(pl.File, note)
	} else {
		err = pl.put(ctx, note, size)
	}
	if err == nil {
		pl.size = size
	}
	p.tell(ctx, pl.File+pl.URL, err)
}

// appendTo puts a checkpoint behind what the file has, on a line of its own: a full disk,
// or a power cut, may have left a part of one.
func appendTo(name string, note []byte) error {
	f, err := os.OpenFile(name, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return err
	}
	if endsMidLine(f) {
		note = append([]byte("\n"), note...)
	}
	_, err = f.Write(note)
	if err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// endsMidLine reports whether a file's last line has no end, as far as it may be read.
func endsMidLine(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || !info.Mode().IsRegular() || info.Size() == 0 {
		return false
	}
	in, err := os.Open(f.Name())
	if err != nil {
		return false
	}
	defer in.Close()
	var last [1]byte
	_, err = in.ReadAt(last[:], info.Size()-1)
	return err == nil && last[0] != '\n'
}

func (pl *place) put(ctx context.Context, note []byte, size uint64) error {
	target := strings.TrimSuffix(pl.URL, "/") + "/" + strconv.FormatUint(size, 10)
	status, _, err := pl.do(ctx, http.MethodPut, target, note)
	if err != nil {
		return err
	}
	switch {
	case status/100 == 2:
		return nil
	case status == http.StatusPreconditionFailed || status == http.StatusConflict:
		// somebody has put one there before: we ourselves, or another log
		status, there, err := pl.do(ctx, http.MethodGet, target, nil)
		if err == nil && status == http.StatusOK && bytes.Equal(there, note) {
			return nil
		}
		return fmt.Errorf("%s already holds another checkpoint over %d entries, or cannot be read: this log was rewritten, or two write there", target, size)
	}
	return fmt.Errorf("%s answers %d", target, status)
}

func (pl *place) do(ctx context.Context, method, target string, body []byte) (status int, answer []byte, err error) {
	req, err := http.NewRequestWithContext(ctx, method, target, bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	if method == http.MethodPut {
		req.Header.Set("Content-Type", "text/plain; charset=utf-8")
		req.Header.Set("If-None-Match", "*")
	}
	if pl.AuthorizationFile != "" {
		text, err := os.ReadFile(pl.AuthorizationFile)
		if err != nil {
			return 0, nil, err
		}
		req.Header.Set("Authorization", strings.TrimSpace(string(text)))
	}
	return ask(pl.client, req)
}

func ask(c *http.Client, req *http.Request) (status int, answer []byte, err error) {
	resp, err := c.Do(req)
	if err != nil {
		return 0, nil, err
	}
	defer resp.Body.Close()
	answer, err = io.ReadAll(io.LimitReader(resp.Body, maxAnswer+1))
	if err == nil && len(answer) > maxAnswer {
		err = fmt.Errorf("the answer is over %d bytes", maxAnswer)
	}
	return resp.StatusCode, answer, err
}

// round asks every witness to sign the same checkpoint.
func (p *Publisher) round(ctx context.Context) {
	checkpoint, size := p.log.SignedHead()
	if checkpoint == nil || size == p.signed.Load() {
		return
	}
	var mu sync.Mutex
	cosigned, n := checkpoint, 0
	var all sync.WaitGroup
	for _, a := range p.asked {
		all.Go(func() {
			answer, err := p.cosign(ctx, a, checkpoint, size)
			mu.Lock()
			defer mu.Unlock()
			if err == nil {
				var more []byte
				if more, err = merge(cosigned, answer, a.verifier); err == nil {
					cosigned, n = more, n+1
				}
			}
			p.tell(ctx, "witness "+a.verifier.Name(), err)
		})
	}
	all.Wait()
	if n < p.quorum {
		return
	}
	err := audit.ReplaceFile(filepath.Join(p.dir, CosignedFile), cosigned)
	if err == nil {
		p.signed.Store(size)
	}
	p.tell(ctx, CosignedFile, err)
}

// cosign asks one witness, twice if it has seen another size than we thought.
func (p *Publisher) cosign(ctx context.Context, a *asked, checkpoint []byte, size uint64) (string, error) {
	for try := 0; ; try++ {
		status, answer, err := p.submit(ctx, a, checkpoint, size)
		if err != nil {
			return "", err
		}
		switch status {
		case http.StatusOK:
			a.size = size
			return string(answer), nil
		case http.StatusConflict:
			seen, err := strconv.ParseUint(strings.TrimSuffix(string(answer), "\n"), 10, 63)
			switch {
			case err != nil:
				return "", errors.New("it answers 409 and no size")
			case seen > size:
				return "", fmt.Errorf("it has seen %d entries of this log, which has %d: THE LOG WAS SET BACK; compare it with what you kept", seen, size)
			case try > 0:
				return "", fmt.Errorf("it answers 409 although it was told the size that it says, %d", seen)
			}
			a.size = seen
			continue
		case http.StatusUnprocessableEntity:
			return "", fmt.Errorf("it does not take the proof that the log only grew since %d entries: THE LOG WAS REWRITTEN; compare it with what you kept", a.size)
		case http.StatusNotFound:
			return "", errors.New("it does not know this log: give its operator the line of log/checkpoint.pub")
		case http.StatusForbidden:
			return "", errors.New("it does not know this log, or knows it by another key: give its operator the line of log/checkpoint.pub")
		}
		return "", fmt.Errorf("it answers %d", status)
	}
}

func (p *Publisher) submit(ctx context.Context, a *asked, checkpoint []byte, size uint64) (status int, answer []byte, err error) {
	proof, err := p.log.ConsistencyProof(min(a.size, size), size)
	if err != nil {
		return 0, nil, err
	}
	body := fmt.Appendf(nil, "old %d\n", min(a.size, size))
	for _, h := range proof {
		body = base64.StdEncoding.AppendEncode(body, h[:])
		body = append(body, '\n')
	}
	body = append(append(body, '\n'), checkpoint...)
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, strings.TrimSuffix(a.URL, "/")+"/add-checkpoint", bytes.NewReader(body))
	if err != nil {
		return 0, nil, err
	}
	return ask(a.client, req)
}
