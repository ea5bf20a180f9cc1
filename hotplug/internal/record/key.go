package record

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// SystemKey is the path of the key of a host, or of all hosts of a cluster.
const SystemKey = "/etc/luksplug/record.key"

// DefaultKey returns the path of the key of this process's user: [SystemKey] for root, and
// a file in the user's configuration directory for another user.
func DefaultKey() (string, error) {
	if os.Geteuid() == 0 {
		return SystemKey, nil
	}
	dir, err := os.UserConfigDir()
	if err != nil {
		return "", fmt.Errorf("the path of the key that signs records: %w", err)
	}
	return filepath.Join(dir, "luksplug", "record.key"), nil
}

const keySize = 32

// Key signs records. It prints as a placeholder.
type Key struct{ secret [keySize]byte }

// String implements fmt.Stringer.
func (k *Key) String() string { return "[redacted]" }

// Format implements fmt.Formatter.
func (k *Key) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, k.String()) } // the state reports it

// mac returns the HMAC-SHA256 of a message for one purpose, its label.
func (k *Key) mac(label string, message []byte) []byte {
	h := hmac.New(sha256.New, k.secret[:])
	h.Write([]byte(label)) // a hash returns no error
	h.Write([]byte{0})
	h.Write(message)
	return h.Sum(nil)
}

// Fingerprint identifies the key without revealing it: two hosts with the same fingerprint
// have the same key.
func (k *Key) Fingerprint() string {
	return hex.EncodeToString(k.mac("luksplug record key fingerprint 1", nil)[:16])
}

var (
	// ErrNoKey reports that there is no key. It wraps [ErrUnverified].
	ErrNoKey = fmt.Errorf("%w: there is no key to verify it by", ErrUnverified)
	// ErrKeyFile reports a key file that cannot be trusted or is damaged. It wraps
	// [ErrUnverified].
	ErrKeyFile = fmt.Errorf("%w: the file of the key cannot be used", ErrUnverified)
)

// LoadKey reads a key. The error wraps [ErrNoKey] if there is no such file, and
// [ErrKeyFile] if it is a link, belongs to another user, has another mode than 0600 or
// another size, or is in a directory that other users can write to.
func LoadKey(path string) (*Key, error) {
	refuse := func(reason string, args ...any) error {
		return fmt.Errorf("%w: %s %s", ErrKeyFile, path, fmt.Sprintf(reason, args...))
	}
	f, err := fsutil.OpenRegular(nil, path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("%w (%s)", ErrNoKey, path)
	case errors.Is(err, fsutil.ErrNotRegular):
		return nil, refuse("is a link, or no regular file")
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	defer fsutil.CloseRead(f)
	var st, dir unix.Stat_t
	if err := errors.Join(unix.Fstat(int(f.Fd()), &st), unix.Stat(filepath.Dir(path), &dir)); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrKeyFile, err)
	}
	self := uint32(os.Geteuid())
	switch {
	case st.Uid != self:
		return nil, refuse("belongs to user %d, and must belong to user %d", st.Uid, self)
	case st.Mode&0o7777 != 0o600:
		return nil, refuse("has mode %04o, and must have 0600", st.Mode&0o7777)
	case st.Nlink != 1:
		return nil, refuse("has a second name")
	case st.Size != keySize:
		return nil, refuse("has %d bytes, and must have %d", st.Size, keySize)
	case dir.Mode&0o022 != 0 || dir.Uid != self && dir.Uid != 0:
		return nil, refuse("is in a directory that other users can write to")
	}
	k := &Key{}
	if _, err := io.ReadFull(f, k.secret[:]); err != nil {
		return nil, fmt.Errorf("%w: %s: %w", ErrKeyFile, path, err)
	}
	return k, nil
}

// MakeKey is [LoadKey] that makes the key if it is absent. made reports whether it did.
// Several processes may make it at a time: all return the same key.
func MakeKey(path string) (k *Key, made bool, err error) {
	if k, err = LoadKey(path); !errors.Is(err, ErrNoKey) {
		return k, false, err
	}
	failed := func(err error) (*Key, bool, error) {
		return nil, false, fmt.Errorf("make the key that signs the records of disks: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return failed(err)
	}
	var secret [keySize]byte
	defer clear(secret[:])
	_, _ = rand.Read(secret[:]) // it never fails
	temporary := path + "." + rand.Text()
	f, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return failed(err)
	}
	_, err = f.Write(secret[:])
	err = errors.Join(err, f.Chmod(0o600), f.Sync(), f.Close())
	if err == nil {
		// Unlike a rename, this does not replace a key that another process has made
		// meanwhile.
		err = fsutil.RenameNew(temporary, path)
	}
	made = err == nil
	if err != nil {
		err = errors.Join(ignoring(err, unix.EEXIST), os.Remove(temporary))
	}
	if err != nil {
		return failed(err)
	}
	if err := fsutil.SyncDir(nil, filepath.Dir(path)); err != nil {
		return failed(err)
	}
	k, err = LoadKey(path)
	return k, made, err
}

// ignoring returns err unless it is the given one.
func ignoring(err, one error) error {
	if errors.Is(err, one) {
		return nil
	}
	return err
}
