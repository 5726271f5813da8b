package audit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"sync"
)

// Sealer wraps period keys with a key that the log does not hold. Both methods
// must be safe for concurrent use and must not change their arguments.
type Sealer interface {
	// Seal encrypts and authenticates plaintext, and binds it to context.
	Seal(plaintext, context []byte) ([]byte, error)
	// Open undoes Seal; it fails if sealed or context differ in one bit.
	Open(sealed, context []byte) ([]byte, error)
}

// errNoKey says that a period's key is not here: deleted, or never asked for.
var errNoKey = errors.New("period key is not here")

// periodKey seals the payloads of one day. Random 96-bit nonces are good for 2^32
// records under one key (NIST SP 800-38D section 8.3): 49,000 a second, all day.
type periodKey struct {
	aead cipher.AEAD
	data []byte // additional data: origin and period
}

// keyring finds and makes period keys. It is safe for concurrent use.
type keyring struct {
	dir    string // the log's
	origin string
	sealer Sealer        // nil: no key can be had
	fs     filesystem    // nil: no key can be made
	busy   func() func() // is called as a key begins to be made, its result as that ends

	mu   sync.RWMutex
	keys map[uint32]*periodKey // guarded by mu
}

func newKeyring(dir, origin string, s Sealer, fs filesystem) *keyring {
	return &keyring{dir: dir, origin: origin, sealer: s, fs: fs, keys: map[uint32]*periodKey{}, busy: func() func() { return func() {} }}
}

// get returns the key of period n, or an error that is errNoKey.
func (k *keyring) get(n uint32) (*periodKey, error) {
	return k.find(n, k.read)
}

// ready reports whether the key of period n can be had without asking the disk.
func (k *keyring) ready(n uint32) bool {
	k.mu.RLock()
	defer k.mu.RUnlock()
	return k.keys[n] != nil
}

// make returns the key of period n and creates it if there is none. When it
// returns, the key survives a power cut.
func (k *keyring) make(n uint32) (*periodKey, error) {
	return k.find(n, func(n uint32) ([]byte, error) {
		key, err := k.read(n)
		if errors.Is(err, errNoKey) {
			return k.create(n)
		}
		if err != nil {
			return nil, err
		}
		// whoever created it may have died, or failed, before this
		return key, k.fs.SyncDir(filepath.Join(k.dir, periodsDir))
	})
}

func (k *keyring) find(n uint32, miss func(uint32) ([]byte, error)) (*periodKey, error) {
	k.mu.RLock()
	pk := k.keys[n]
	k.mu.RUnlock()
	if pk != nil {
		return pk, nil
	}
	k.mu.Lock()
	defer k.mu.Unlock()
	if pk := k.keys[n]; pk != nil {
		return pk, nil
	}
	key, err := miss(n)
	if err != nil {
		return nil, err
	}
	pk, err = newPeriodKey(key, k.origin, n)
	if err == nil {
		k.keys[n] = pk
	}
	return pk, err
}

func (k *keyring) read(n uint32) ([]byte, error) {
	if k.sealer == nil {
		return nil, errNoKey
	}
	sealed, err := os.ReadFile(k.path(n))
	if errors.Is(err, os.ErrNotExist) {
		return nil, errNoKey
	}
	if err != nil {
		return nil, fmt.Errorf("read period key %d: %w", n, err)
	}
	key, err := k.sealer.Open(sealed, k.context(n))
	if err != nil {
		return nil, fmt.Errorf("open period key %d: %w", n, err)
	}
	return key, nil
}

func (k *keyring) create(n uint32) ([]byte, error) {
	defer k.busy()()
	key := make([]byte, keySize)
	rand.Read(key) // never fails since Go 1.24
	sealed, err := k.sealer.Seal(key, k.context(n))
	if err != nil {
		return nil, fmt.Errorf("seal period key %d: %w", n, err)
	}
	if err := replaceFile(k.fs, k.path(n), sealed); err != nil {
		return nil, fmt.Errorf("write period key %d: %w", n, err)
	}
	return key, nil
}

func (k *keyring) path(n uint32) string {
	return filepath.Join(k.dir, periodsDir, strconv.FormatUint(uint64(n), 10))
}

func (k *keyring) context(n uint32) []byte {
	return fmt.Appendf(nil, "%s%s\n%d\n", keyContext, k.origin, n)
}

func newPeriodKey(key []byte, origin string, n uint32) (*periodKey, error) {
	if len(key) != keySize {
		return nil, fmt.Errorf("period key %d has %d bytes, want %d", n, len(key), keySize)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, err
	}
	return &periodKey{aead, binary.BigEndian.AppendUint32([]byte(origin), n)}, nil
}

// seal appends the sealed payload to dst.
func (p *periodKey) seal(dst []byte, n uint32, payload []byte) []byte {
	dst = binary.BigEndian.AppendUint32(dst, n)
	return p.aead.Seal(dst, nil, payload, p.data)
}

// open returns the JSON text of a sealed payload. The error is errNoKey if its
// key is not here.
func (k *keyring) open(sealed []byte) ([]byte, error) {
	pk, err := k.get(binary.BigEndian.Uint32(sealed))
	if err != nil {
		return nil, err
	}
	text, err := pk.aead.Open(nil, nil, sealed[periodHead:], pk.data)
	if err != nil {
		return nil, errDamaged
	}
	return text, nil
}

// errDamaged says that a payload is not what was once sealed.
var errDamaged = errors.New("payload does not open with its period's key")
