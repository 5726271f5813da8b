package keys

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// kekSize is the length of a key-encryption key in bytes: AES-256.
const kekSize = 32

// A KEK is the key-encryption key: it seals the other keys at rest, with
// AES-256-GCM and random nonces (at most 2^32 seals under one key, NIST SP
// 800-38D section 8.3; a server makes a few a day).
type KEK struct {
	aead cipher.AEAD
	id   string
}

// NewKEK returns the KEK of 32 secret bytes.
func NewKEK(secret []byte) (*KEK, error) {
	if len(secret) != kekSize {
		return nil, fmt.Errorf("a key-encryption key has %d bytes, this one %d", kekSize, len(secret))
	}
	block, err := aes.NewCipher(secret)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	sum := sha256.Sum256(append([]byte("sallyport key-encryption key id\x00"), secret...))
	return &KEK{aead, hex.EncodeToString(sum[:8])}, nil
}

// NewRandomKEK returns a throw-away KEK: what it seals is gone with the process.
func NewRandomKEK() (*KEK, error) {
	secret := make([]byte, kekSize)
	_, _ = rand.Read(secret) // never fails: crypto/rand.Read
	return NewKEK(secret)
}

// ReadKEK reads the KEK in file: 32 bytes in base64, readable by its owner only.
// A file that is not there is an error that wraps fs.ErrNotExist.
func ReadKEK(file string) (*KEK, error) {
	info, err := os.Stat(file)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	if info.Mode().Perm()&0o077 != 0 {
		return nil, fmt.Errorf("key-encryption key %s: mode %v lets others read it: chmod 600 it", file, info.Mode().Perm())
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("key-encryption key: %w", err)
	}
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(text)))
	if err != nil {
		return nil, fmt.Errorf("key-encryption key %s: not base64 (make one with: openssl rand -base64 32)", file)
	}
	return NewKEK(secret)
}

// OpenKEK is ReadKEK, and makes the file, mode 0600, when it is not there.
func OpenKEK(file string) (*KEK, error) {
	kek, err := ReadKEK(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return kek, err
	}
	secret := make([]byte, kekSize)
	_, _ = rand.Read(secret) // never fails: crypto/rand.Read
	if err := writeDurably(file, []byte(base64.StdEncoding.EncodeToString(secret)+"\n")); err != nil {
		return nil, fmt.Errorf("make key-encryption key: %w", err)
	}
	return ReadKEK(file)
}

// writeDurably makes file appear whole or not at all: losing this key loses all
// keys, and half a key is worse than none.
func writeDurably(file string, content []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), ".kek-*") // mode 0600
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	_, err = tmp.Write(content)
	err = errors.Join(err, tmp.Sync(), tmp.Close())
	if err != nil {
		return err
	}
	if err := os.Rename(tmp.Name(), file); err != nil {
		return err
	}
	dir, err := os.Open(filepath.Dir(file))
	if err != nil {
		return err
	}
	return errors.Join(dir.Sync(), dir.Close())
}

// ID names the KEK without telling anything of it: kept beside what it sealed.
func (k *KEK) ID() string { return k.id }

// Seal encrypts plaintext and binds it to context, which Open must be given too.
func (k *KEK) Seal(plaintext, context []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, plaintext, context), nil
}

// Open decrypts what Seal made. It fails when sealed or context was changed, or
// when another KEK sealed it.
func (k *KEK) Open(sealed, context []byte) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, context)
	if err != nil {
		return nil, errors.New("cannot be opened: it was changed, or sealed by another key-encryption key")
	}
	return plain, nil
}
