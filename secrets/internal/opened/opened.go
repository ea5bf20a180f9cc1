package opened

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

const (
	keyType = "user"
	// prefix begins the description of each key, which root sees in /proc/keys.
	prefix = "luksplug:"
	// maxName is less than the kernel's bound of a description, 4095 bytes.
	maxName = 4000
	// maxKey is the kernel's bound of a key of this type, in bytes, less the header.
	maxKey = 32767 - 256
	// ownerOnly lets processes with the owner's user id view, read, update, search, link
	// and set attributes of a key. Possessors, the group and others have no right. See
	// keyctl_setperm(3).
	ownerOnly = 0x003f0000
)

// Binding is the SHA-256 of what a key was made from.
type Binding [sha256.Size]byte

// Bind returns the binding to content.
func Bind(content *secrets.Secret) Binding {
	var b Binding
	// Use fails only for a wiped secret, whose binding no key has.
	_ = content.Use(func(bytes []byte) error { b = sha256.Sum256(bytes); return nil })
	return b
}

// Keep keeps a key under a name, which names the store, until the limit. It replaces the
// key of that name at once: a concurrent Find returns the old or the new one. It returns
// the time at which the key ends, zero for none; the kernel destroys it within two seconds.
func Keep(name string, key *secrets.Secret, b Binding, limit secrets.Limit) (time.Time, error) {
	if key.Len() > maxKey {
		return time.Time{}, fmt.Errorf("%w: the kernel keeps keys of at most %d bytes", secrets.ErrTooLong, maxKey)
	}
	h, err := newHeader(b, limit)
	if err != nil {
		return time.Time{}, err
	}
	err = key.Use(func(bytes []byte) error {
		payload := make([]byte, 0, len(bytes)+maxHeader)
		payload = append(h.append(payload), bytes...)
		defer clear(payload)
		// The key gets its permissions in a keyring that only this thread has.
		return hostproc.OnThread(func() error { return add(description(name), payload, limit) })
	})
	return h.until, refused(err)
}

// add adds a key to the user keyring.
func add(description string, payload []byte, limit secrets.Limit) error {
	id, err := unix.AddKey(keyType, description, payload, unix.KEY_SPEC_THREAD_KEYRING)
	if err != nil {
		return err
	}
	if limit.For > 0 {
		_, err = unix.KeyctlInt(unix.KEYCTL_SET_TIMEOUT, id, timeout(limit.For), 0, 0)
	}
	if err == nil {
		err = unix.KeyctlSetperm(id, ownerOnly)
	}
	if err == nil {
		// This replaces a key of the same description.
		_, err = unix.KeyctlInt(unix.KEYCTL_LINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	}
	_, clearErr := unix.KeyctlInt(unix.KEYCTL_CLEAR, unix.KEY_SPEC_THREAD_KEYRING, 0, 0, 0)
	return errors.Join(err, clearErr)
}

// timeout returns the kernel's time-out, in seconds, of a key that ends after d: not
// earlier, and the kernel counts from the begin of the present second. The header has the
// exact time.
func timeout(d time.Duration) int { return int((d+time.Second-1)/time.Second) + 1 }

// Check returns an error that wraps [secrets.ErrNoKeyring] if the kernel keeps no keys for
// this process.
func Check() error {
	const probe = prefix + "probe"
	return refused(hostproc.OnThread(func() error {
		_, err := unix.AddKey(keyType, probe, []byte{0}, unix.KEY_SPEC_THREAD_KEYRING)
		if err == nil {
			_, err = unix.KeyctlInt(unix.KEYCTL_CLEAR, unix.KEY_SPEC_THREAD_KEYRING, 0, 0, 0)
		}
		return err
	}))
}

// refused returns the error of a system call that adds or removes a key.
func refused(err error) error {
	switch {
	case errors.Is(err, unix.EPERM), errors.Is(err, unix.EACCES), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		return fmt.Errorf("%w: %w", secrets.ErrNoKeyring, err)
	case errors.Is(err, unix.EDQUOT):
		return fmt.Errorf("%w: %w: the user has as many keys as the kernel allows (/proc/sys/kernel/keys)", secrets.ErrNoKeyring, err)
	}
	return err
}

// Find returns the key of a name, which the caller wipes. Without a key, or if it does not
// count, it returns nil, and the state says why.
func Find(name string, b Binding) (*secrets.Secret, secrets.LockState) {
	payload, state := read(description(name))
	if payload == nil {
		return nil, state
	}
	var key *secrets.Secret
	defer payload.Wipe()
	// Use fails only for a wiped secret.
	_ = payload.Use(func(bytes []byte) error {
		h, rest, err := parseHeader(bytes)
		if err != nil {
			state.Ended = "it was kept by another version of luksplug"
			return nil
		}
		state.Until, state.Suspend = h.until, h.suspend
		if state.Ended = h.ended(b); state.Ended == "" {
			state.Unlocked = true
			key = secrets.New(append([]byte(nil), rest...))
		}
		return nil
	})
	return key, state
}

// read returns the payload of a key, nil for none. The kernel's refusal is the same as no
// key: then it cannot have been kept.
func read(description string) (*secrets.Secret, secrets.LockState) {
	state := secrets.LockState{Protected: true}
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, description, 0)
	if err != nil {
		if errors.Is(err, unix.EKEYEXPIRED) {
			state.Ended = expired
		}
		return nil, state
	}
	size, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, nil, 0)
	if err != nil {
		return nil, state
	}
	payload := make([]byte, size)
	n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, id, payload, 0)
	if err != nil || n != size { // it was removed or replaced meanwhile
		clear(payload)
		return nil, state
	}
	return secrets.New(payload), state
}

// Forget destroys the key of a name, and reports whether there was one.
func Forget(name string) (bool, error) {
	id, err := unix.KeyctlSearch(unix.KEY_SPEC_USER_KEYRING, keyType, description(name), 0)
	switch {
	case err == nil:
		return true, destroy(id)
	case isGone(err):
		return false, nil
	}
	// Without a keyring nothing was kept.
	if refused := refused(err); !errors.Is(refused, secrets.ErrNoKeyring) {
		return false, fmt.Errorf("find the key in the kernel: %w", refused)
	}
	return false, nil
}

// isGone reports whether err says that there is no key, or no longer.
func isGone(err error) bool {
	return errors.Is(err, unix.ENOKEY) || errors.Is(err, unix.EKEYEXPIRED) || errors.Is(err, unix.EKEYREVOKED)
}

// destroy wipes a key: the kernel frees and zeroes what it holds, also if a process has a
// reference.
func destroy(id int) error {
	_, err := unix.KeyctlInt(unix.KEYCTL_REVOKE, id, 0, 0, 0)
	if err != nil && !isGone(err) {
		return fmt.Errorf("destroy the key in the kernel: %w", err)
	}
	// The kernel removes a revoked key itself, later.
	_, _ = unix.KeyctlInt(unix.KEYCTL_UNLINK, id, unix.KEY_SPEC_USER_KEYRING, 0, 0)
	return nil
}

// ForgetAll destroys all keys of this user, or with suspend only those that a suspend of
// the host ends. It continues after a failure. It returns the names of the keys that it
// destroyed.
func ForgetAll(suspend bool) ([]string, error) {
	ids, err := list()
	if err != nil {
		return nil, err
	}
	var out []string
	var failed []error
	for _, id := range ids {
		text, err := unix.KeyctlString(unix.KEYCTL_DESCRIBE, id)
		if err != nil {
			continue // it has ended
		}
		// "type;uid;gid;perm;description", keyctl_describe(3)
		fields := strings.SplitN(text, ";", 5)
		if len(fields) != 5 || fields[0] != keyType || !strings.HasPrefix(fields[4], prefix) {
			continue
		}
		if suspend && !endsWithSuspend(fields[4]) {
			continue
		}
		if err := destroy(id); err != nil {
			failed = append(failed, err)
			continue
		}
		out = append(out, strings.TrimPrefix(fields[4], prefix))
	}
	return out, errors.Join(failed...)
}

// endsWithSuspend reports whether a suspend ends the key. One that cannot be read ends.
func endsWithSuspend(description string) bool {
	payload, _ := read(description)
	if payload == nil {
		return true
	}
	defer payload.Wipe()
	ends := true
	_ = payload.Use(func(bytes []byte) error { // fails only for a wiped secret
		h, _, err := parseHeader(bytes)
		ends = err != nil || h.suspend
		return nil
	})
	return ends
}

// list returns the keys in the user keyring.
func list() ([]int, error) {
	const idSize = 4
	for room := 64; ; {
		buffer := make([]byte, room*idSize)
		n, err := unix.KeyctlBuffer(unix.KEYCTL_READ, unix.KEY_SPEC_USER_KEYRING, buffer, 0)
		switch {
		case err != nil && errors.Is(refused(err), secrets.ErrNoKeyring):
			return nil, nil // nothing was kept
		case err != nil:
			return nil, fmt.Errorf("list the keys in the kernel: %w", err)
		case n > len(buffer):
			room = n/idSize + 1
			continue
		}
		return ids(buffer[:n]), nil
	}
}

// description returns the description of the key of a name.
func description(name string) string {
	if len(name) > maxName {
		sum := sha256.Sum256([]byte(name))
		name = name[:maxName-2*len(sum)] + hex.EncodeToString(sum[:])
	}
	return prefix + name
}
