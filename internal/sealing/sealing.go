// Package sealing holds key-encryption keys: what the other keys, and the log's
// payloads, are sealed with at rest. They come from a file or from the environment;
// what they sealed is the business of internal/keys and internal/audit.
package sealing

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

// keySize is the length of a key-encryption key in bytes: AES-256.
const keySize = 32

// A Key is a key-encryption key: it seals other keys at rest, with AES-256-GCM and
// random nonces (at most 2^32 seals under one key, NIST SP 800-38D section 8.3; a
// server makes a few a day).
type Key struct {
	aead cipher.AEAD
	id   string
}

// New returns the Key of 32 secret bytes.
func New(secret []byte) (*Key, error) {
	if len(secret) != keySize {
		return nil, fmt.Errorf("a key-encryption key has %d bytes, this one %d", keySize, len(secret))
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
	return &Key{aead, hex.EncodeToString(sum[:8])}, nil
}

// NewRandom returns a throw-away Key: what it seals is gone with the process.
func NewRandom() (*Key, error) {
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand.Read
	return New(secret)
}

// Read reads the Key in file: 32 bytes in base64, readable by its owner only.
// A file that is not there is an error that wraps fs.ErrNotExist.
func Read(file string) (*Key, error) {
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
	k, err := parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("key-encryption key %s: %w", file, err)
	}
	return k, nil
}

func parse(text string) (*Key, error) {
	secret, err := base64.StdEncoding.DecodeString(strings.TrimSpace(text))
	if err != nil {
		return nil, errors.New("not base64 (make one with: openssl rand -base64 32)")
	}
	return New(secret)
}

// ReadOrMake is Read, and makes the file, mode 0600, when it is not there.
func ReadOrMake(file string) (*Key, error) {
	kek, err := Read(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return kek, err
	}
	secret := make([]byte, keySize)
	_, _ = rand.Read(secret) // never fails: crypto/rand.Read
	if err := writeDurably(file, []byte(base64.StdEncoding.EncodeToString(secret)+"\n")); err != nil {
		return nil, fmt.Errorf("make key-encryption key: %w", err)
	}
	return Read(file)
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

// ID names the key without telling anything of it: kept beside what it sealed.
func (k *Key) ID() string { return k.id }

// Seal encrypts plaintext and binds it to context, which Open must be given too.
func (k *Key) Seal(plaintext, context []byte) ([]byte, error) {
	return k.aead.Seal(nil, nil, plaintext, context), nil
}

// Open decrypts what Seal made. It fails when sealed or context was changed, or
// when another key sealed it.
func (k *Key) Open(sealed, context []byte) ([]byte, error) {
	plain, err := k.aead.Open(nil, nil, sealed, context)
	if err != nil {
		return nil, errors.New("cannot be opened: it was changed, or sealed by another key-encryption key")
	}
	return plain, nil
}
