package storetest

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// Fixture is an empty store, with functions that change it by other means than its methods. The functions call t.Fatal
// if they fail. If a function is nil, the suite skips the tests that need it.
type Fixture struct {
	Store secrets.Store
	// Put makes value the secret that ref names. It may be nil for a
	// [secrets.Keeper], which the suite then fills itself.
	Put func(t *testing.T, ref secrets.Reference, value []byte)
	// Deny makes the store deny this caller access to ref, which was Put before.
	Deny func(t *testing.T, ref secrets.Reference)
	// Lock locks the store, so that Lookup returns ErrLocked.
	Lock func(t *testing.T)
	// Break makes the store unreachable.
	Break func(t *testing.T)
	// Hang makes the server accept connections and never reply. The store's own time-out must be at most one second.
	Hang func(t *testing.T)
	// Reopen returns the same store as another process would open it.
	Reopen func(t *testing.T) secrets.Store
	// Damage corrupts the stored data of ref, which was Put before.
	Damage func(t *testing.T, ref secrets.Reference)
	// Reboot simulates a reboot of the host.
	Reboot func(t *testing.T)
	// Holds reports whether the store can hold a secret with that reference. nil means every reference that a Document
	// can have, or with Put every reference.
	Holds      func(ref secrets.Reference) bool
	NoLocks    bool // two callers that define the same usage at the same moment may both succeed
	Persistent bool // the store refuses ephemeral secrets, as it outlives a reboot
}

// Run runs the suite. Every test gets a fixture of its own from factory; the
// tests run in parallel. If the store is a [secrets.Lister] or [secrets.Keeper],
// those methods are tested as well.
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
		{"locked", testLocked},
		{"unreachable", testUnreachable},
		{"hanging", testHanging},
		{"damaged", testDamaged},
		{"cancelled", testCancelled},
		{"secrets belong to the caller", testOwnership},
		{"concurrent", testConcurrent},
		{"name", testName},
		{"keeper: list", testList},
		{"keeper: documents", testDocuments},
		{"keeper: define again", testRedefine},
		{"keeper: births of data keys", testKeyBirths},
		{"keeper: conflicts", testConflicts},
		{"keeper: invalid", testKeeperInvalid},
		{"keeper: no value yet", testNoValue},
		{"keeper: set again", testSetAgain},
		{"keeper: wrong type", testWrongType},
		{"keeper: remove", testRemove},
		{"keeper: ephemeral", testEphemeral},
		{"keeper: lasting", testLasting},
		{"keeper: concurrent", testKeeperConcurrent},
		{"keeper: failures", testKeeperFailures},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			t.Parallel()
			f := factory(t)
			if _, ok := f.Store.(secrets.Keeper); !ok && strings.HasPrefix(test.name, "keeper:") {
				t.Skip("this store cannot be changed")
			}
			test.run(t, f)
		})
	}
}

// put makes value the secret that ref names.
func (f *Fixture) put(t *testing.T, ref secrets.Reference, value []byte) {
	t.Helper()
	if f.Put != nil {
		f.Put(t, ref, value)
		return
	}
	keeper, ok := f.Store.(secrets.Keeper)
	if !ok {
		t.Fatal("the fixture needs a Put: its store cannot be changed")
	}
	d := document(ref)
	must.OK(t, keeper.Define(t.Context(), d))
	secret := secrets.New(value)
	defer secret.Wipe()
	must.OK(t, keeper.Set(t.Context(), ref, secret))
}

// holds reports whether the store can hold the secret that ref names.
func (f *Fixture) holds(ref secrets.Reference) bool {
	if f.Holds != nil {
		return f.Holds(ref)
	}
	return f.Put != nil || secrets.IsText(ref.Usage)
}

// document returns a document that ref names.
func document(ref secrets.Reference) secrets.Document {
	d := secrets.Document{UUID: ref.UUID, Usage: ref.Usage}
	if d.UUID == uuid.Nil {
		d.UUID = uuid.New()
	}
	if d.Usage != "" {
		d.UsageType = ref.Type.UsageType()
	}
	return d
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
		f.put(t, ref, bytes.Clone(value))
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
	refs = slices.DeleteFunc(refs, func(ref secrets.Reference) bool { return !f.holds(ref) })
	for _, ref := range refs {
		f.put(t, ref, []byte(string(ref.Type)+" "+ref.String()))
	}
	for _, ref := range refs {
		if got, want := string(lookup(t, f.Store, ref)), string(ref.Type)+" "+ref.String(); got != want {
			t.Errorf("%s %s: found the secret of %s", ref.Type, ref, got)
		}
	}
}

func testNotFound(t *testing.T, f Fixture) {
	f.put(t, ByUUID(), []byte("another"))
	f.put(t, ByUsage("known"), []byte("another"))
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
		t.Skip("this store denies no caller")
	}
	for _, ref := range []secrets.Reference{ByUUID(), ByUsage("/x")} {
		f.put(t, ref, []byte("confidential"))
		f.Deny(t, ref)
		expect(t, f.Store, ref, secrets.ErrDenied)
	}
}

func testUnreachable(t *testing.T, f Fixture) {
	if f.Break == nil {
		t.Skip("this store can always be reached")
	}
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	f.Break(t)
	expect(t, f.Store, ref, secrets.ErrUnreachable)
}

func testLocked(t *testing.T, f Fixture) {
	if f.Lock == nil {
		t.Skip("this store cannot be locked")
	}
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	f.Lock(t)
	expect(t, f.Store, ref, secrets.ErrLocked)
}

func testHanging(t *testing.T, f Fixture) {
	if f.Hang == nil {
		t.Skip("this store waits for no server")
	}
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	f.Hang(t)
	const bound = 5 * time.Second // generous: the machine may be busy
	begin := time.Now()
	expect(t, f.Store, ref, secrets.ErrUnreachable)
	if took := time.Since(begin); took > bound {
		t.Errorf("its own time-out came after %s", took)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	begin = time.Now()
	if secret, err := f.Store.Lookup(ctx, ref); secret != nil || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v, %v", secret, err)
	}
	if took := time.Since(begin); took > bound {
		t.Errorf("the context's end was noticed after %s", took)
	}
}

func testDamaged(t *testing.T, f Fixture) {
	if f.Damage == nil {
		t.Skip("this store cannot be damaged")
	}
	ref, other := ByUUID(), ByUUID()
	f.put(t, ref, []byte("confidential"))
	f.put(t, other, []byte("another"))
	f.Damage(t, ref)
	expect(t, f.Store, ref, secrets.ErrDamaged)
	Finds(t, f.Store, other, "another")
	lister, ok := f.Store.(secrets.Lister)
	if !ok {
		return
	}
	documents, err := lister.List(t.Context())
	if _, err := secrets.Find(documents, other); err != nil {
		t.Errorf("the other secret is not listed any more: %v", err)
	}
	if err == nil {
		return // only the value is damaged
	}
	if !errors.Is(err, secrets.ErrDamaged) || !strings.Contains(err.Error(), ref.UUID.String()) {
		t.Errorf("the list's error does not name the damaged secret: %v", err)
	}
}

func testCancelled(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	secret, err := f.Store.Lookup(ctx, ref)
	if secret != nil || !errors.Is(err, context.Canceled) {
		t.Errorf("got %v, %v", secret, err)
	}
}

func testOwnership(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	first := must.Get(f.Store.Lookup(t.Context(), ref))(t)
	first.Wipe()
	Finds(t, f.Store, ref, "confidential")
}

func testConcurrent(t *testing.T, f Fixture) {
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
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
	secret := must.Get(store.Lookup(t.Context(), ref))(t)
	defer secret.Wipe()
	return must.Use(t, secret)
}

// Finds checks that the store finds the value.
func Finds(t *testing.T, store secrets.Store, ref secrets.Reference, value string) {
	t.Helper()
	if got := string(lookup(t, store, ref)); got != value {
		t.Errorf("%s %s: found %q, want %q", ref.Type, ref, got, value)
	}
}

// Fails checks that Lookup of ref fails with an error that wraps want and contains text.
func Fails(t *testing.T, store secrets.Store, ref secrets.Reference, want error, text string) {
	t.Helper()
	found, err := store.Lookup(t.Context(), ref)
	if found != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s %s: got %v, want %v with %q", ref.Type, ref, err, want, text)
	}
}

// expect checks that Lookup fails with want and with no other error of package
// secrets, as a StoreError, and with no stored value in its text.
func expect(t *testing.T, store secrets.Store, ref secrets.Reference, want error) {
	t.Helper()
	secret, err := store.Lookup(t.Context(), ref)
	if secret != nil {
		t.Errorf("%s: both a secret and an error were returned", ref)
	}
	check(t, store, ref, err, want)
}

// check checks that err wraps want and no other error of package secrets, is a
// StoreError, and has no stored value in its text.
func check(t *testing.T, store secrets.Store, ref secrets.Reference, err, want error) {
	t.Helper()
	for _, answer := range []error{
		secrets.ErrNotFound, secrets.ErrNoValue, secrets.ErrWrongType, secrets.ErrDenied, secrets.ErrLocked, secrets.ErrUnreachable,
		secrets.ErrDamaged, secrets.ErrInvalidReference, secrets.ErrInvalidDocument, secrets.ErrConflict, secrets.ErrPersistent,
	} {
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
		t.Errorf("%s: the error contains the secret", ref)
	}
}
