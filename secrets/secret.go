package secrets

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"sync"

	"github.com/luksplug/luksplug/internal/wipe"
)

// Redacted is the text that is printed in place of a [Secret].
const Redacted = "[redacted]"

// ErrWiped is returned by [Secret.Use] after [Secret.Wipe], and for a nil or
// zero Secret.
var ErrWiped = errors.New("the secret has already been wiped from memory")

// Secret is a confidential byte string: a passphrase, a password or a key. Make
// one with [New], pass it by pointer, and call [Secret.Wipe] when done with it.
// All methods are safe for concurrent use.
//
// All byte values are allowed, and so is a length of zero: the caller decides
// whether to accept an empty secret.
type Secret struct {
	// A pointer, because fmt calls no methods on unexported fields: for a
	// Secret in such a field fmt prints only this address.
	b *buffer
}

// buffer owns the bytes. It counts running calls of Use instead of holding a lock
// during them, so that Use may be nested and Wipe may be called from within Use.
type buffer struct {
	mu    sync.Mutex
	users int
	wiped bool
	// A closure, because printers that follow pointers by reflection (such as
	// test diffs) stop at a function.
	bytes func() []byte
	free  func()
}

// New returns a Secret with a copy of value in memory of its own, and zeroes
// value, so that the Secret holds the only copy.
//
// Locking the memory is best effort: with a small RLIMIT_MEMLOCK the Secret
// works but may be swapped out. [Secret.Wipe], or at the latest the garbage
// collection of the Secret, zeroes and frees the memory.
func New(value []byte) *Secret {
	memory, release := allocate(len(value))
	copy(memory, value)
	clear(value)
	wipe.Registers()

	b := &buffer{bytes: func() []byte { return memory }}
	free := func() {
		clear(memory)
		release()
	}
	// Frees a Secret that was not wiped. The function must not reference b,
	// or b would never be collected.
	cleanup := runtime.AddCleanup(b, func(free func()) { free() }, free)
	b.free = func() {
		cleanup.Stop()
		free()
	}
	return &Secret{b: b}
}

// Use calls f with the secret's bytes and returns f's error. The slice is valid
// only during the call; f must not keep, change or print it: Wipe unmaps the
// memory, and a later access crashes the program. After [Secret.Wipe], Use does
// not call f and returns [ErrWiped].
func (s *Secret) Use(f func(value []byte) error) error {
	b := s.acquire()
	if b == nil {
		return ErrWiped
	}
	defer b.release()
	defer wipe.Registers()
	value := b.bytes()
	// The capacity is limited, so that append copies instead of writing here.
	return f(value[:len(value):len(value)])
}

// Len returns the number of bytes; 0 after [Secret.Wipe].
func (s *Secret) Len() int {
	b := s.acquire()
	if b == nil {
		return 0
	}
	defer b.release()
	return len(b.bytes())
}

// Equal reports whether both secrets have the same bytes. Its duration depends
// only on the lengths. A wiped secret equals no secret, not even itself.
func (s *Secret) Equal(o *Secret) bool {
	a := s.acquire()
	if a == nil {
		return false
	}
	defer a.release()
	b := o.acquire()
	if b == nil {
		return false
	}
	defer b.release()
	return subtle.ConstantTimeCompare(a.bytes(), b.bytes()) == 1
}

// Wipe zeroes the bytes and frees the memory. It does not block: if a [Secret.Use]
// is running, the bytes are zeroed when the last one returns, and no new Use can
// begin. Calling it again, or on nil, does nothing.
func (s *Secret) Wipe() {
	if s == nil || s.b == nil {
		return
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wiped {
		return
	}
	b.wiped = true
	if b.users == 0 {
		b.free()
	}
}

// acquire increments the number of users and returns the buffer, or nil if it was
// wiped.
func (s *Secret) acquire() *buffer {
	if s == nil || s.b == nil {
		return nil
	}
	b := s.b
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.wiped {
		return nil
	}
	b.users++
	return b
}

// release decrements the number of users, and frees a wiped buffer when none is
// left.
func (b *buffer) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users--
	if b.wiped && b.users == 0 {
		b.free()
	}
}

// Format implements [fmt.Formatter] for every verb and flag. This and the following
// methods have a value receiver, so that a Secret passed by value by mistake is
// redacted as well.
func (s Secret) Format(f fmt.State, _ rune) {
	// fmt.State never fails, and Format could not report it.
	_, _ = f.Write([]byte(Redacted))
}

// String returns [Redacted].
func (s Secret) String() string { return Redacted }

// GoString returns [Redacted].
func (s Secret) GoString() string { return Redacted }

// MarshalText returns [Redacted]. encoding/json, encoding/xml, log/slog and most
// other encoders call it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
