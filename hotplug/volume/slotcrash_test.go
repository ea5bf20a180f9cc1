package volume

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"iter"
	"maps"
	"os"
	"slices"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/crashdisk"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// crashStore is a key store whose changes are recorded, in order with the writes to the disks of a host.
type crashStore struct {
	mu        sync.Mutex
	host      *crashdisk.Host
	documents map[uuid.UUID]secrets.Document
	values    map[uuid.UUID]string
}

// kept is what a store has.
type kept struct {
	documents map[uuid.UUID]secrets.Document
	values    map[uuid.UUID]string
}

func (s *crashStore) String() string { return "crash:" }

func (s *crashStore) fail(ref secrets.Reference, err error) error {
	return &secrets.StoreError{Store: s.String(), Ref: ref, Err: err}
}

func (s *crashStore) Lookup(_ context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	value, ok := s.values[ref.UUID]
	switch _, defined := s.documents[ref.UUID]; {
	case !defined:
		return nil, s.fail(ref, secrets.ErrNotFound)
	case !ok:
		return nil, s.fail(ref, secrets.ErrNoValue)
	}
	return secrets.New([]byte(value)), nil
}

func (s *crashStore) List(context.Context) ([]secrets.Document, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Collect(maps.Values(s.documents)), nil
}

// record records the store as it is, after a change.
func (s *crashStore) record() {
	if s.host != nil {
		s.host.Record(kept{maps.Clone(s.documents), maps.Clone(s.values)})
	}
}

func (s *crashStore) Define(_ context.Context, d secrets.Document) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.documents[d.UUID] = d
	s.record()
	return nil
}

func (s *crashStore) Set(_ context.Context, ref secrets.Reference, value *secrets.Secret) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.documents[ref.UUID]; !ok {
		return s.fail(ref, secrets.ErrNotFound)
	}
	defer s.record()
	return value.Use(func(b []byte) error { s.values[ref.UUID] = string(b); return nil })
}

func (s *crashStore) Remove(_ context.Context, ref secrets.Reference) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.documents[ref.UUID]; !ok {
		return s.fail(ref, secrets.ErrNotFound)
	}
	// The value first, which may be durable before the document is gone.
	delete(s.values, ref.UUID)
	s.record()
	delete(s.documents, ref.UUID)
	s.record()
	return nil
}

// crashTest is a volume whose header is on a disk that crashes, and its key store.
type crashTest struct {
	host   *crashdisk.Host
	disk   *crashdisk.Disk
	first  []byte // the header before
	store  *crashStore
	before kept
	secret secrets.Document
	opened map[[sha256.Size]byte]map[string]bool
}

const slotPassphrase = "the first passphrase"

// newCrashTest returns a volume with one passphrase, and with a second one if that is not "".
func newCrashTest(t *testing.T, version int, second string) *crashTest {
	t.Helper()
	f := luks.Format{Version: version, KeyBytes: 32}
	if version == 2 {
		f.PayloadOffset = must.Get(luks.Format{Version: 2, KeyBytes: 32, PayloadOffset: 16 << 20}.HeaderSize())(t)
	}
	key := must.Get(f.NewKey())(t)
	defer key.Wipe()
	first := secrets.New([]byte(slotPassphrase))
	defer first.Wipe()
	content := make([]byte, must.Get(f.HeaderSize())(t))
	copy(content, must.Get(f.Header(t.Context(), key, first, f.MinimumCost()))(t))
	c := &crashTest{host: crashdisk.New(), secret: secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "/volume"}, opened: map[[sha256.Size]byte]map[string]bool{}}
	c.before = kept{map[uuid.UUID]secrets.Document{c.secret.UUID: c.secret}, map[uuid.UUID]string{c.secret.UUID: slotPassphrase}}
	if second != "" {
		passphrase := secrets.New([]byte(second))
		defer passphrase.Wipe()
		s := crashdisk.New().Disk("made", content)
		opened := must.Get((&held{Storage: s}).unlock(t.Context(), first, nil))(t)
		defer opened.Wipe()
		must.Get(luks.AddSlot(t.Context(), s, opened, passphrase, f.MinimumCost()))(t).Wipe()
		must.Get(s.ReadAt(content, 0))(t)
	}
	c.store = c.storeOf(c.before, c.host)
	c.first, c.disk = content, c.host.Disk("header", content)
	return c
}

func (c *crashTest) storeOf(k kept, host *crashdisk.Host) *crashStore {
	return &crashStore{host: host, documents: maps.Clone(k.documents), values: maps.Clone(k.values)}
}

// opener returns what opens a header in s.
func openerOf(s luks.Storage) opener {
	return func(_ context.Context, l Location) (*held, error) { return &held{l, s, func() {}}, nil }
}

// wiped ends the test unless all sectors of the first key slot's material have been overwritten.
func (c *crashTest) wiped(t *testing.T, r io.ReaderAt) {
	t.Helper()
	h := must.Get(luks.ReadHeader(bytes.NewReader(c.first)))(t)
	at, length := int64(0), int64(0)
	if h.LUKS1 != nil {
		at, length = int64(h.LUKS1.Slots[0].MaterialSectors)*luks.SectorSize, h.LUKS1.MaterialSize()
	} else {
		at, length = h.LUKS2.KeySlots[0].Offset, int64(h.LUKS2.KeySlots[0].KeyBytes)*luks.Stripes
	}
	now := make([]byte, luks.SectorSize)
	for end := at + length; at < end; at += luks.SectorSize {
		if must.Get(r.ReadAt(now, at))(t); bytes.Equal(now, c.first[at:at+luks.SectorSize]) {
			t.Fatalf("the key material at byte %d is that of the old passphrase", at)
		}
	}
}

// storeAt returns what the store has in a state.
func (c *crashTest) storeAt(s crashdisk.State) kept {
	if len(s.Records) == 0 {
		return c.before
	}
	return s.Records[len(s.Records)-1].(kept)
}

// opens reports whether a passphrase opens a header. The result depends on the digest, and on salt and material of the key
// slots in use, and is kept for them.
func (c *crashTest) opens(t *testing.T, r io.ReaderAt, passphrase string) bool {
	t.Helper()
	h, err := luks.ReadHeader(r)
	if err != nil {
		t.Fatalf("the header cannot be read: %v", err)
	}
	hash := sha256.New()
	for _, slot := range h.ActiveSlots() {
		at, length := int64(0), int64(0)
		if h.LUKS1 != nil {
			k := h.LUKS1.Slots[slot]
			at, length = int64(k.MaterialSectors)*luks.SectorSize, h.LUKS1.MaterialSize()
			must.Get(fmt.Fprintf(hash, "%d %x %d ", slot, k.Salt, k.Iterations))(t)
		} else {
			k := h.LUKS2.KeySlots[slices.IndexFunc(h.LUKS2.KeySlots, func(k luks.LUKS2KeySlot) bool { return k.ID == slot })]
			at, length = k.Offset, int64(k.KeyBytes)*luks.Stripes
			must.Get(fmt.Fprintf(hash, "%+v %+v ", k, h.LUKS2.Digests))(t)
		}
		must.Get(io.Copy(hash, io.NewSectionReader(r, at, length)))(t)
	}
	sum := [sha256.Size]byte(hash.Sum(nil))
	if c.opened[sum] == nil {
		c.opened[sum] = map[string]bool{}
	}
	known, ok := c.opened[sum][passphrase]
	if !ok {
		key, err := luks.Unlocker{Slots: h.ActiveSlots()}.Unlock(t.Context(), h, []byte(passphrase))
		if err != nil && !errors.Is(err, luks.ErrWrongPassphrase) && !errors.Is(err, luks.ErrNoKeySlot) {
			t.Fatal(err)
		}
		key.Wipe()
		known = err == nil
		c.opened[sum][passphrase] = known
	}
	return known
}

// generated is about how many states there are of each operation.
const generated = 24_000

// states yields the states of an operation that are tried, numbered from 1: without LUKSPLUG_LONG one of skipped, which is no
// divisor of how many there are of each moment.
func (c *crashTest) states(seed uint64, skipped int) iter.Seq2[int, crashdisk.State] {
	long := os.Getenv("LUKSPLUG_LONG") != ""
	return func(yield func(int, crashdisk.State) bool) {
		n, tried := 0, 0
		for state := range c.host.States(seed, generated) {
			if n++; !long && n%skipped != 0 {
				continue
			}
			if tried++; !yield(tried, state) {
				return
			}
		}
	}
}

// again calls f for a sample of the states, with a storage and a key store that go on from each.
func (c *crashTest) again(t *testing.T, s crashdisk.State, n int, f func(t *testing.T, s luks.Storage, store *crashStore)) {
	t.Helper()
	const oneOf = 53
	if n%oneOf != 0 {
		return
	}
	f(t, crashdisk.New().Disk("header", s.Bytes("header")), c.storeOf(c.storeAt(s), nil))
	if t.Failed() {
		t.Fatalf("after %d events", s.Event)
	}
}

// TestChangeSurvivesCrashes: wherever a change ends, a passphrase that the store has opens the volume, and the change, made
// again, finishes.
func TestChangeSurvivesCrashes(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("LUKS%d", version), func(t *testing.T) {
			t.Parallel()
			c := newCrashTest(t, version, "")
			change := func(t *testing.T, s luks.Storage, store *crashStore) *Changed {
				t.Helper()
				r := Change{Volumes: []Location{{Path: "/volume"}}, Stored: &Stored{store, c.secret}}
				return must.Get(r.run(t.Context(), openerOf(s)))(t)
			}
			finished := func(t *testing.T, s luks.Storage, store *crashStore) {
				t.Helper()
				now := store.values[c.secret.UUID]
				if len(store.documents) != 1 || len(store.values) != 1 || now == slotPassphrase {
					t.Errorf("the store has %v", store.documents)
				}
				h := must.Get(luks.ReadHeader(s))(t)
				if !c.opens(t, s, now) || c.opens(t, s, slotPassphrase) || len(h.ActiveSlots()) != 1 {
					t.Errorf("the header: %s", h)
				}
				if left := must.Get(luks.FinishWipes(s))(t); len(left) > 0 {
					t.Errorf("not finished: %d", left)
				}
				c.wiped(t, s)
			}
			if out := change(t, c.disk, c.store); out.Resumed || !out.Replaced || !out.Volumes[0].Added || !slices.Equal(out.Volumes[0].Wiped, []int{0}) {
				t.Errorf("%+v", out)
			}
			finished(t, c.disk, c.store)
			states, oldOnly, newOnly := 0, 0, 0
			for n, state := range c.states(1, 17) {
				states = n
				values := c.storeAt(state).values
				opens := map[bool]bool{}
				for _, value := range values {
					if c.opens(t, state.Disk("header"), value) {
						opens[value == slotPassphrase] = true
					}
				}
				if len(opens) == 0 {
					t.Fatalf("after %d events the volume is lost: the store has %d values", state.Event, len(values))
				}
				main := values[c.secret.UUID]
				if !c.opens(t, state.Disk("header"), main) {
					t.Fatalf("after %d events the value of the secret does not open the volume", state.Event)
				}
				if opens[true] && !opens[false] {
					oldOnly++
				} else if !opens[true] {
					newOnly++
				}
				c.again(t, state, states, func(t *testing.T, s luks.Storage, store *crashStore) {
					t.Helper()
					change(t, s, store)
					finished(t, s, store)
				})
			}
			t.Logf("%d states of %d events: the old passphrase alone opens %d, the new one alone %d; 0 are lost", states, c.host.Events(), oldOnly, newOnly)
			if oldOnly == 0 || newOnly == 0 || os.Getenv("LUKSPLUG_LONG") != "" && states < 20_000 {
				t.Error("too few states were tried, or not both kinds")
			}
		})
	}
}

// TestAddAndRemoveSurviveCrashes: wherever an addition or a removal ends, the known passphrase opens the volume. A removal,
// made again, finishes.
func TestAddAndRemoveSurviveCrashes(t *testing.T) {
	t.Parallel()
	const known = "a known passphrase"
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("LUKS%d added", version), func(t *testing.T) {
			t.Parallel()
			c := newCrashTest(t, version, "")
			passphrase := secrets.New([]byte(slotPassphrase))
			defer passphrase.Wipe()
			a := Addition{Known: passphrase, Secret: secrets.Document{UUID: uuid.New()}}
			keys := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
				return c.store, c.store.Define(ctx, d)
			}
			must.Get(a.run(t.Context(), keys, openerOf(c.disk)))(t)
			added, states := c.store.values[a.Secret.UUID], 0
			for n, state := range c.states(2, 61) {
				states = n
				if !c.opens(t, state.Disk("header"), slotPassphrase) {
					t.Fatalf("after %d events the volume is lost", state.Event)
				}
				if c.opens(t, state.Disk("header"), added) && c.storeAt(state).values[a.Secret.UUID] != added {
					t.Fatalf("after %d events a passphrase that no store has opens the volume", state.Event)
				}
			}
			t.Logf("%d states of %d events, 0 are lost", states, c.host.Events())
		})
		t.Run(fmt.Sprintf("LUKS%d removed", version), func(t *testing.T) {
			t.Parallel()
			c := newCrashTest(t, version, known)
			passphrase := secrets.New([]byte(known))
			defer passphrase.Wipe()
			remove := func(t *testing.T, s luks.Storage, store *crashStore) {
				t.Helper()
				document, ok := store.documents[c.secret.UUID]
				if _, hasValue := store.values[c.secret.UUID]; !ok || !hasValue {
					return // done
				}
				r := Removal{Known: passphrase, Stored: &Stored{store, document}}
				must.Get(r.run(t.Context(), openerOf(s)))(t)
				if c.opens(t, s, slotPassphrase) || !c.opens(t, s, known) || len(store.documents) > 0 {
					t.Errorf("not removed: %v", store.documents)
				}
				if left := must.Get(luks.FinishWipes(s))(t); len(left) > 0 {
					t.Errorf("not finished: %d", left)
				}
				c.wiped(t, s)
			}
			remove(t, c.disk, c.store)
			states := 0
			for n, state := range c.states(3, 61) {
				states = n
				if !c.opens(t, state.Disk("header"), known) {
					t.Fatalf("after %d events the volume is lost", state.Event)
				}
				c.again(t, state, states, remove)
			}
			t.Logf("%d states of %d events, 0 are lost", states, c.host.Events())
		})
	}
}
