package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// Fixture is a store that is empty, and what the suite does to it behind its
// back. The functions call t.Fatal where they fail.
type Fixture struct {
	Store secrets.Store
	// Put makes value the secret that ref names.
	Put func(t *testing.T, ref secrets.Reference, value []byte)
	// Deny, if not nil, makes the store refuse ref, which was Put before, to
	// this caller.
	Deny func(t *testing.T, ref secrets.Reference)
	// Break, if not nil, makes the store impossible to reach.
	Break func(t *testing.T)
}

// Run runs the suite. Every test gets a fixture of its own from factory; the
// tests run in parallel.
func Run(t *testing.T, factory func(t *testing.T) Fixture) {
	tests := []struct {
		name string
		run  func(t *testing.T, f Fixture)
	}{
		{"bytes are exact", testBytes},
		{"references are kept apart", testReferences},
		{"not found", testNotFound},
		{"invalid reference", testInvalid},
		{"denied", testDenied},
		{"unreachable", testUnreachable},
		{"cancelled", testCancelled},
		{"secrets belong to the caller", testOwnership},
		{"concurrent", testConcurrent},
		{"name", testName},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			test.run(t, factory(t))
		})
	}
}

// ByUUID returns a reference by a random uuid.
func ByUUID() secrets.Reference {
	return secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}
}

// ByUsage returns a reference to a passphrase by usage.
func ByUsage(usage string) secrets.Reference {
	return secrets.Reference{Type: secrets.Passphrase, Usage: usage}
}

func testBytes(t *testing.T, f Fixture) {
	all := make([]byte, 256)
	for i := range all {
		all[i] = byte(i)
	}
	random := make([]byte, 64)
	_, _ = rand.Read(random) // never fails, see crypto/rand
	for _, value := range [][]byte{
		all, random,
		[]byte("trailing newline\n"), []byte("\r\n  spaces \t"), {0}, []byte("a\x00b"),
		[]byte("c2VjcmV0"), []byte("0x00ff"), []byte("%41"), // look encoded, are not
		bytes.Repeat([]byte{0xff}, 4096),
	} {
		ref := ByUUID()
		f.Put(t, ref, bytes.Clone(value))
		if got := lookup(t, f.Store, ref); !bytes.Equal(got, value) {
			t.Errorf("stored %q, found %q", value, got)
		}
	}
}

func testReferences(t *testing.T, f Fixture) {
	refs := []secrets.Reference{
		ByUUID(), ByUUID(),
		ByUsage("/var/lib/images/vm1.img"), ByUsage("/var/lib/images/vm1.img2"), ByUsage("var/lib/images/vm1.img"),
		ByUsage("%2Fvar"), ByUsage("/var"), ByUsage("."), ByUsage(".."), ByUsage("../etc"), ByUsage("with space"),
		ByUsage("käse\n\xff"), ByUsage("*"), ByUsage("Upper"), ByUsage("upper"),
		{Type: secrets.Ceph, Usage: "/var"}, {Type: secrets.ISCSI, Usage: "/var"}, {Type: secrets.TLS, Usage: "/var"},
	}
	for _, ref := range refs {
		f.Put(t, ref, []byte(string(ref.Type)+" "+ref.String()))
	}
	for _, ref := range refs {
		if got, want := string(lookup(t, f.Store, ref)), string(ref.Type)+" "+ref.String(); got != want {
			t.Errorf("%s %s: found the secret of %s", ref.Type, ref, got)
		}
	}
}

func testNotFound(t *testing.T, f Fixture) {
	f.Put(t, ByUUID(), []byte("another"))
	f.Put(t, ByUsage("known"), []byte("another"))
	for _, ref := range []secrets.Reference{
		ByUUID(), ByUsage("unknown"), ByUsage("know"), ByUsage("known/"), {Type: secrets.Ceph, Usage: "known"},
		ByUsage(strings.Repeat("/long", 1000)),
	} {
		expect(t, f.Store, ref, secrets.ErrNotFound)
	}
}

func testInvalid(t *testing.T, f Fixture) {
	both := ByUUID()
	both.Usage = "/x"
	for _, ref := range []secrets.Reference{
		{}, {Type: secrets.Passphrase}, both, {Type: "password", UUID: uuid.New()}, ByUsage("a\x00b"),
	} {
		expect(t, f.Store, ref, secrets.ErrInvalidReference)
	}
}

func testDenied(t *testing.T, f Fixture) {
	if f.Deny == nil {
		t.Skip("this store denies nobody")
	}
	for _, ref := range []secrets.Reference{ByUUID(), ByUsage("/x")} {
		f.Put(t, ref, []byte("confidential"))
		f.Deny(t, ref)
		expect(t, f.Store, ref, secrets.ErrDenied)
	}
}

func testUnreachable(t *testing.T, f Fixture) {
	if f.Break == nil {
		t.Skip("this store can always be reached")
	}
	ref := ByUUID()
	f.Put(t, ref, []byte("confidential"))
	f.Break(t)
	expect(t, f.Store, ref, secrets.ErrUnreachable)
}

func testCancelled(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.Put(t, ref, []byte("confidential"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	secret, err := f.Store.Lookup(ctx, ref)
	if secret != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", secret, err)
	}
}

func testOwnership(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.Put(t, ref, []byte("confidential"))
	first, err := f.Store.Lookup(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	first.Wipe()
	if got := lookup(t, f.Store, ref); string(got) != "confidential" {
		t.Errorf("wiping one answer changed the next: %q", got)
	}
}

func testConcurrent(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.Put(t, ref, []byte("confidential"))
	var wg sync.WaitGroup
	for range 8 {
		wg.Go(func() {
			secret, err := f.Store.Lookup(t.Context(), ref)
			if err != nil {
				t.Error(err)
				return
			}
			defer secret.Wipe()
			if secret.Len() != len("confidential") {
				t.Errorf("found %d bytes", secret.Len())
			}
		})
	}
	wg.Wait()
}

func testName(t *testing.T, f Fixture) {
	name := f.Store.String()
	if scheme, _, found := strings.Cut(name, ":"); !found || scheme == "" {
		t.Errorf("%q is not a URI", name)
	}
	ref := ByUUID()
	_, err := f.Store.Lookup(t.Context(), ref)
	if err == nil {
		t.Fatal("found in an empty store")
	}
	for _, want := range []string{name, ref.UUID.String()} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("the error does not name %s: %v", want, err)
		}
	}
}

// lookup returns a copy of the secret's bytes.
func lookup(t *testing.T, store secrets.Store, ref secrets.Reference) []byte {
	t.Helper()
	secret, err := store.Lookup(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	defer secret.Wipe()
	var value []byte
	if err := secret.Use(func(v []byte) error { value = bytes.Clone(v); return nil }); err != nil {
		t.Fatal(err)
	}
	return value
}

// expect checks that a look-up fails as it should: with want and none of the
// other answers, as a StoreError, and without saying a stored value.
func expect(t *testing.T, store secrets.Store, ref secrets.Reference, want error) {
	t.Helper()
	secret, err := store.Lookup(t.Context(), ref)
	if secret != nil {
		t.Errorf("%s: a secret beside an error", ref)
	}
	for _, answer := range []error{secrets.ErrNotFound, secrets.ErrDenied, secrets.ErrUnreachable, secrets.ErrInvalidReference} {
		if errors.Is(err, answer) != errors.Is(want, answer) {
			t.Errorf("%s: got %v, want %v", ref, err, want)
			return
		}
	}
	var storeError *secrets.StoreError
	if !errors.As(err, &storeError) || storeError.Ref != ref || storeError.Store != store.String() {
		t.Errorf("%s: not a StoreError of this store and reference: %v", ref, err)
	}
	if strings.Contains(err.Error(), "confidential") {
		t.Errorf("%s: the error says the secret", ref)
	}
}
