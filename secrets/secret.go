package secrets

import (
	"crypto/subtle"
	"errors"
	"fmt"
	"runtime"
	"sync"
)

// Redacted is what a [Secret] prints as, wherever it is printed.
const Redacted = "[redacted]"

// ErrWiped is returned by [Secret.Use] after [Secret.Wipe], and for a nil or
// zero Secret.
var ErrWiped = errors.New("the secret has already been wiped from memory")

// Secret is a byte string that must not be seen: a passphrase, a password, a
// key. Make one with [New], pass it by pointer, and call [Secret.Wipe] when done
// with it. All methods are safe for concurrent use.
//
// Any byte values are allowed, and so is a length of zero: whether an empty
// secret makes sense is for the caller to decide.
type Secret struct {
	// Behind a pointer, because fmt calls no methods on unexported fields:
	// where a Secret is one, all that is printed is this address.
	b *buffer
}

// buffer owns the bytes. It counts its users instead of holding a lock while
// they run, so that Use may be nested and Wipe may be called from within Use.
type buffer struct {
	mu    sync.Mutex
	users int
	wiped bool
	// A closure, because printers that go through pointers by reflection
	// (test diffs do) stop at a function.
	bytes func() []byte
	free  func()
}

// New returns a Secret with a copy of value in memory of its own, and zeroes
// value, so that the Secret holds the only copy.
//
// Locking the memory is best effort: under a small RLIMIT_MEMLOCK the Secret
// works all the same, but may be swapped out. The memory is zeroed and given
// back by [Secret.Wipe], or at the latest when the Secret is garbage collected.
func New(value []byte) *Secret {
	memory, release := allocate(len(value))
	copy(memory, value)
	clear(value)

	b := &buffer{bytes: func() []byte { return memory }}
	free := func() {
		clear(memory)
		release()
	}
	// A safety net for a Secret that was not wiped. The function must not
	// reach b, or b would never be collected.
	cleanup := runtime.AddCleanup(b, func(free func()) { free() }, free)
	b.free = func() {
		cleanup.Stop()
		free()
	}
	return &Secret{b: b}
}

// Use calls f with the secret's bytes and returns f's error. The slice is valid
// during the call only; f must not keep, change or print it: once the secret is
// wiped its memory is gone, and touching it ends the program. After [Secret.Wipe]
// f is not called and the error is [ErrWiped].
func (s *Secret) Use(f func(value []byte) error) error {
	b := s.acquire()
	if b == nil {
		return ErrWiped
	}
	defer b.release()
	value := b.bytes()
	// The capacity is cut, so that an append copies and does not write here.
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

// Equal reports whether both secrets hold the same bytes. The time it takes
// depends on the lengths only. A wiped secret equals nothing, not even itself.
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

// Wipe zeroes the bytes and gives the memory back. It does not block: bytes that
// a running [Secret.Use] is looking at are zeroed as soon as that returns, and
// no new Use can begin. Calling it again, or on nil, does nothing.
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

// acquire returns the buffer with one more user, or nil if there is nothing left
// to use.
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

// release ends one use; the last one out frees a buffer that was wiped
// meanwhile.
func (b *buffer) release() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.users--
	if b.wiped && b.users == 0 {
		b.free()
	}
}

// Format implements [fmt.Formatter] for every verb and flag. The receiver of
// this and of the next methods is a value, so that a Secret that is passed by
// value by mistake is redacted as well.
func (s Secret) Format(f fmt.State, _ rune) {
	// fmt.State never fails, and Format could not report it.
	_, _ = f.Write([]byte(Redacted))
}

// String returns [Redacted].
func (s Secret) String() string { return Redacted }

// GoString returns [Redacted].
func (s Secret) GoString() string { return Redacted }

// MarshalText returns [Redacted]: encoding/json, encoding/xml, log/slog and most
// other encoders ask for it.
func (s Secret) MarshalText() ([]byte, error) { return []byte(Redacted), nil }
