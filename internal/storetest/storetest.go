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

// Fixture is an empty store, and what the suite does to it by other means than its methods. The functions call t.Fatal
// if they fail. The tests of one that is nil are skipped.
type Fixture struct {
	Store secrets.Store
	// Put makes value the secret that ref names. It may be nil for a
	// [secrets.Keeper], which the suite then fills itself.
	Put func(t *testing.T, ref secrets.Reference, value []byte)
	// Deny makes the store refuse ref, which was Put before, to this caller.
	Deny func(t *testing.T, ref secrets.Reference)
	// Lock locks the store, so that a look-up gets ErrLocked.
	Lock func(t *testing.T)
	// Break makes the store unreachable.
	Break func(t *testing.T)
	// Hang makes the server accept connections and never answer. The store's own time-out must be a second at most.
	Hang func(t *testing.T)
	// Reopen returns the same place, as another process sees it.
	Reopen func(t *testing.T) secrets.Store
	// Damage spoils what is stored of ref, which was Put before.
	Damage func(t *testing.T, ref secrets.Reference)
	// Reboot does to the store what a reboot of the host does.
	Reboot func(t *testing.T)
	// Holds reports whether the store can hold a reference; nil for all that a Document can have, and with Put for all.
	Holds func(ref secrets.Reference) bool
	// NoLocks: two callers that define the same usage at the same moment may both succeed.
	NoLocks bool
	// Persistent: the store refuses ephemeral secrets, as it outlives a reboot.
	Persistent bool
}

// Run runs the suite. Every test gets a fixture of its own from factory; the
// tests run in parallel. What a store can do beside looking up (see
// [secrets.Lister] and [secrets.Keeper]) is tested too.
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

// holds reports whether the place can hold what ref names.
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
		t.Skip("this store denies nobody")
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
		t.Skip("this store waits for nobody")
	}
	ref := ByUUID()
	f.put(t, ref, []byte("confidential"))
	f.Hang(t)
	const bound = 5 * time.Second // loosely: the machine may be busy
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
		t.Skip("in this store nothing can be damaged")
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
		return // what is damaged is the value
	}
	if !errors.Is(err, secrets.ErrDamaged) || !strings.Contains(err.Error(), ref.UUID.String()) {
		t.Errorf("the list's error does not tell what is damaged: %v", err)
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

// Fails checks that the store finds nothing, with an error that wraps want and says text.
func Fails(t *testing.T, store secrets.Store, ref secrets.Reference, want error, text string) {
	t.Helper()
	found, err := store.Lookup(t.Context(), ref)
	if found != nil || !errors.Is(err, want) || !strings.Contains(err.Error(), text) {
		t.Errorf("%s %s: got %v, want %v with %q", ref.Type, ref, err, want, text)
	}
}

// expect checks that a look-up fails as it should: with want and none of the
// other answers, as a StoreError, and without saying a stored value.
func expect(t *testing.T, store secrets.Store, ref secrets.Reference, want error) {
	t.Helper()
	secret, err := store.Lookup(t.Context(), ref)
	if secret != nil {
		t.Errorf("%s: a secret beside an error", ref)
	}
	check(t, store, ref, err, want)
}

// check checks an error: that it is want and none of the other answers, a
// StoreError, and says no stored value.
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
		t.Errorf("%s: the error says the secret", ref)
	}
}
