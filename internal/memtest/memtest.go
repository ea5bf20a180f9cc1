// Package memtest tests that no copy of a secret is left in a process's memory. It runs
// the test in a new process, which knows the value only in a masked form, and searches
// that process's memory. Only tests may import it.
//
//	func TestNothingIsLeft(t *testing.T) {
//		if s := memtest.Child(); s != nil {
//			memtest.Store(t, s, store, ref)
//			return
//		}
//		v := memtest.NewValue()
//		// put v.Bytes into the store
//		v.Run(t, "NAME=what the process needs")
//	}
package memtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/wipe"
	"github.com/luksplug/luksplug/secrets"
)

// variable has the masked value in the environment of the new process.
const variable = "LUKSPLUG_MEMTEST"

// mask is xored with each byte of a value that must not be found.
const mask = 0xa5

// Value is a random value of printable characters.
type Value struct{ Bytes []byte }

// NewValue returns a new value. It is longer than a block of the usual hashes.
func NewValue() Value {
	const halves = 3 // of rand.Text's 26 characters
	var b []byte
	for range halves {
		b = append(b, rand.Text()...)
	}
	return Value{b}
}

// Run runs the test, of which t is one, in a new process with the variables in its
// environment. Child returns the value there. If the test fails there, Run tries again: Go
// may interrupt a goroutine at any moment and save the registers of the processor, which then
// hold some bytes of the value. A copy that the code leaves is found each time.
func (v Value) Run(t *testing.T, env ...string) {
	t.Helper()
	const attempts = 3
	var err error
	var out []byte
	for range attempts {
		if out, err = v.run(t, env); err == nil {
			return
		}
	}
	t.Errorf("in %d new processes: %v\n%s", attempts, err, out)
}

func (v Value) run(t *testing.T, env []string) ([]byte, error) {
	t.Helper()
	pattern := "^" + strings.ReplaceAll(t.Name(), "/", "$/^") + "$"
	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run="+pattern, "-test.count=1", "-test.v", "-test.timeout=5m")
	cmd.Env = append(append(os.Environ(), env...), variable+"="+hex.EncodeToString(masked(v.Bytes)))
	out, err := cmd.CombinedOutput()
	if err == nil && !bytes.Contains(out, []byte(nothingLeft)) {
		err = errors.New("it has not searched its memory")
	}
	return out, err
}

// nothingLeft is printed by a process that has searched its memory.
const nothingLeft = "only the control copy was found"

// Search searches the memory of this process.
type Search struct {
	value    []byte // masked
	patterns []pattern
	window   []byte // what is read, in pages of its own
}

// pattern is a masked text that betrays the value.
type pattern struct {
	name string
	text []byte
}

// Child returns the search of a process that Run has started, and nil in others.
func Child() *Search {
	text := os.Getenv(variable)
	if text == "" {
		return nil
	}
	value, err := hex.DecodeString(text)
	if err != nil {
		panic(err)
	}
	s := &Search{value: value}
	const windowLen = 4 << 20
	if s.window, err = unix.Mmap(-1, 0, windowLen, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_PRIVATE|unix.MAP_ANONYMOUS); err != nil {
		panic(err)
	}
	wipe.Stack(s.makePatterns) // a stack that grows would leave a piece of the value
	return s
}

// makePatterns makes the patterns of all pieces of the value.
func (s *Search) makePatterns() {
	const piece = 18 // divides into groups of base64
	value := s.value
	for at := 0; at+piece <= len(value); at += piece {
		plain := masked(value[at : at+piece])
		s.add(fmt.Sprintf("bytes %d to %d", at, at+piece), append([]byte(nil), plain...))
		s.add(fmt.Sprintf("bytes %d to %d in hex", at, at+piece), hex.AppendEncode(nil, plain))
		s.add(fmt.Sprintf("bytes %d to %d in HEX", at, at+piece), upper(hex.AppendEncode(nil, plain)))
		for shift := range 3 {
			s.add(fmt.Sprintf("bytes %d to %d in base64", at, at+piece), base64.StdEncoding.AppendEncode(nil, plain[shift:][:15]))
		}
		clear(plain)
	}
}

// add adds a pattern, and masks text.
func (s *Search) add(name string, text []byte) {
	s.patterns = append(s.patterns, pattern{name, masked(text)})
	clear(text[:cap(text)])
}

// upper changes letters to upper case in place: bytes.ToUpper would leave a copy.
func upper(b []byte) []byte {
	for i, c := range b {
		if 'a' <= c && c <= 'z' {
			b[i] = c - 'a' + 'A'
		}
	}
	return b
}

func masked(b []byte) []byte {
	out := make([]byte, len(b))
	for i := range b {
		out[i] = b[i] ^ mask
	}
	return out
}

// Is reports whether b is the value.
func (s *Search) Is(b []byte) bool {
	if len(b) != len(s.value) {
		return false
	}
	different := byte(0)
	for i := range b {
		different |= b[i] ^ s.value[i] ^ mask
	}
	return different == 0
}

// Copy returns a copy of the value, which the caller clears.
func (s *Search) Copy() []byte { return masked(s.value) }

// Nothing fails the test unless a copy of the value that it makes is found in the memory,
// and, once that is cleared, no other one.
func (s *Search) Nothing(t *testing.T, after string) {
	t.Helper()
	control := s.Copy()
	with := s.find(t)
	clear(control)
	if len(with) == 0 {
		t.Fatalf("%s: the search does not find the copy that is there", after)
	}
	for _, found := range s.find(t) {
		t.Errorf("%s: still in memory: %s", after, found)
	}
	if !t.Failed() {
		fmt.Printf("%s: %s (%d traces of it)\n", after, nothingLeft, len(with))
	}
}

// shadow is less than what the race detector maps, sparsely and without values of the program.
const shadow = 32 << 30

// find returns where the patterns are in writable memory.
func (s *Search) find(t *testing.T) (found []string) {
	t.Helper()
	maps, err := os.ReadFile("/proc/self/maps")
	if err != nil {
		t.Fatal(err)
	}
	mem, err := os.Open("/proc/self/mem")
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = mem.Close() }() // only read
	lines := bufio.NewScanner(bytes.NewReader(maps))
	for lines.Scan() {
		var from, to uintptr
		var permissions string
		if n, _ := fmt.Sscanf(lines.Text(), "%x-%x %s", &from, &to, &permissions); n != 3 || !strings.Contains(permissions, "w") {
			continue
		}
		if to-from > shadow {
			continue
		}
		found = append(found, s.findIn(mem, from, to, lines.Text())...)
	}
	clear(s.window)
	return found
}

// findIn searches one mapping, in windows that overlap by more than a pattern.
func (s *Search) findIn(mem *os.File, from, to uintptr, mapping string) (found []string) {
	const overlap = 256
	own := addressOf(s.window)
	for at := from; at < to; at += uintptr(len(s.window)) - overlap {
		n, err := mem.ReadAt(s.window[:min(uintptr(len(s.window)), to-at)], int64(at))
		if err != nil && n == 0 {
			continue // a guard page, or memory that was given back meanwhile
		}
		for _, p := range s.patterns {
			for _, i := range p.in(s.window[:n]) {
				address := at + uintptr(i)
				if address >= own && address < own+uintptr(len(s.window)) {
					continue
				}
				found = append(found, fmt.Sprintf("%s at %#x of %s", p.name, address, mapping))
			}
		}
	}
	return found
}

// in returns the places of p in b.
func (p pattern) in(b []byte) (found []int) {
	first := p.text[0] ^ mask
	for at := 0; ; at++ {
		next := bytes.IndexByte(b[at:], first)
		if next < 0 || at+next+len(p.text) > len(b) {
			return found
		}
		at += next
		different := byte(0)
		for i := range p.text {
			different |= b[at+i] ^ p.text[i] ^ mask
			if different != 0 {
				break
			}
		}
		if different == 0 {
			found = append(found, at)
		}
	}
}

// Store looks the value up in a store, as the secret that ref names, uses and wipes it, and
// searches the memory. If the store can be changed, it then does the same with setting the
// value.
func Store(t *testing.T, s *Search, store secrets.Store, ref secrets.Reference) {
	t.Helper()
	lookUp := func() *secrets.Secret {
		found, err := store.Lookup(context.Background(), ref)
		if err != nil {
			t.Fatal(err)
		}
		if err := found.Use(func(b []byte) error {
			if !s.Is(b) {
				t.Errorf("%d bytes that are not the value", len(b))
			}
			return nil
		}); err != nil {
			t.Fatal(err)
		}
		return found
	}
	lookUp().Wipe()
	s.Nothing(t, "after a look-up")
	keeper, is := store.(secrets.Keeper)
	if !is {
		return
	}
	found := lookUp()
	if err := keeper.Set(context.Background(), ref, found); err != nil {
		t.Fatal(err)
	}
	found.Wipe()
	s.Nothing(t, "after setting it")
}
