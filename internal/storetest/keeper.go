package storetest

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// The tests in this file run only for stores that can be changed.

func keeper(f Fixture) secrets.Keeper { return f.Store.(secrets.Keeper) }

// full returns a document with every field set.
func full() secrets.Document {
	id := uuid.New()
	return secrets.Document{
		UUID: id, Private: true, Description: "Disk of <vm1> & \"käse\",\nsecond line",
		UsageType: secrets.UsageVolume, Usage: "/var/lib/images/" + id.String() + " 'ö'.img",
	}
}

func define(t *testing.T, k secrets.Keeper, d secrets.Document) {
	t.Helper()
	must.OK(t, k.Define(t.Context(), d))
}

func set(t *testing.T, k secrets.Keeper, ref secrets.Reference, value string) {
	t.Helper()
	secret := secrets.New([]byte(value))
	defer secret.Wipe()
	must.OK(t, k.Set(t.Context(), ref, secret))
	if secret.Len() != len(value) {
		t.Error("Set has wiped the caller's secret")
	}
}

// wantList checks that the store lists exactly the documents want.
func wantList(t *testing.T, store secrets.Store, want ...secrets.Document) {
	t.Helper()
	got := must.Get(store.(secrets.Lister).List(t.Context()))(t)
	order := func(a, b secrets.Document) int { return strings.Compare(a.UUID.String(), b.UUID.String()) }
	slices.SortFunc(got, order)
	want = slices.SortedFunc(slices.Values(want), order)
	if !slices.Equal(got, want) {
		t.Errorf("listed:\n%+v\nwant:\n%+v", got, want)
	}
}

func testList(t *testing.T, f Fixture) {
	wantList(t, f.Store)
	plain, d := secrets.Document{UUID: uuid.New()}, full()
	define(t, keeper(f), plain)
	define(t, keeper(f), d)
	wantList(t, f.Store, plain, d)
	set(t, keeper(f), d.Reference(), "confidential")
	wantList(t, f.Store, plain, d)
}

func testDocuments(t *testing.T, f Fixture) {
	var all []secrets.Document
	for _, usage := range []secrets.UsageType{secrets.UsageVolume, secrets.UsageCeph, secrets.UsageISCSI, secrets.UsageTLS, secrets.UsageVTPM} {
		d := full()
		d.UsageType, d.Private = usage, usage == secrets.UsageCeph
		define(t, keeper(f), d)
		set(t, keeper(f), d.Reference(), string(usage))
		all = append(all, d)
	}
	wantList(t, f.Store, all...)
	for _, d := range all {
		byUsage := secrets.Reference{Type: d.UsageType.Type(), Usage: d.Usage}
		for _, ref := range []secrets.Reference{d.Reference(), byUsage} {
			Finds(t, f.Store, ref, string(d.UsageType))
		}
	}
}

func testRedefine(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	set(t, keeper(f), d.Reference(), "confidential")
	define(t, keeper(f), d) // repeated, as after a time-out
	d.Description = "another"
	define(t, keeper(f), d)
	wantList(t, f.Store, d)
	Finds(t, f.Store, d.Reference(), "confidential")
}

func testConflicts(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	same := full()
	same.Usage = d.Usage
	otherUsage, public := d, d
	otherUsage.Usage += "2"
	public.Private = false
	for _, c := range []secrets.Document{same, otherUsage, public} {
		check(t, f.Store, c.Reference(), keeper(f).Define(t.Context(), c), secrets.ErrConflict)
	}
	wantList(t, f.Store, d)
	same.UsageType = secrets.UsageTLS // another name space
	define(t, keeper(f), same)
	wantList(t, f.Store, d, same)
}

func testKeeperInvalid(t *testing.T, f Fixture) {
	noUUID, unknown, half, control := full(), full(), full(), full()
	noUUID.UUID = uuid.Nil
	unknown.UsageType = "passphrase"
	half.UsageType = secrets.UsageNone
	control.Description = "\x01"
	for _, d := range []secrets.Document{noUUID, unknown, half, control, {}} {
		check(t, f.Store, d.Reference(), keeper(f).Define(t.Context(), d), secrets.ErrInvalidDocument)
	}
	wantList(t, f.Store)
	value := secrets.New([]byte("confidential"))
	check(t, f.Store, secrets.Reference{}, keeper(f).Set(t.Context(), secrets.Reference{}, value), secrets.ErrInvalidReference)
	check(t, f.Store, secrets.Reference{}, keeper(f).Remove(t.Context(), secrets.Reference{}), secrets.ErrInvalidReference)
	for _, ref := range []secrets.Reference{ByUUID(), ByUsage("/unknown")} {
		check(t, f.Store, ref, keeper(f).Set(t.Context(), ref, value), secrets.ErrNotFound)
		check(t, f.Store, ref, keeper(f).Remove(t.Context(), ref), secrets.ErrNotFound)
	}
	wantList(t, f.Store)
}

func testNoValue(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	expect(t, f.Store, d.Reference(), secrets.ErrNoValue)
	expect(t, f.Store, ByUsage(d.Usage), secrets.ErrNoValue)
}

func testSetAgain(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	for _, value := range []string{"first, which is longer", "second", "second"} {
		for _, ref := range []secrets.Reference{d.Reference(), ByUsage(d.Usage)} {
			set(t, keeper(f), ref, value)
			for _, found := range []secrets.Reference{d.Reference(), ByUsage(d.Usage)} {
				Finds(t, f.Store, found, value)
			}
		}
	}
}

func testWrongType(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	set(t, keeper(f), d.Reference(), "confidential")
	value := secrets.New([]byte("another"))
	for _, wrong := range []secrets.Type{secrets.Ceph, secrets.ISCSI, secrets.TLS, secrets.VTPM} {
		ref := secrets.Reference{Type: wrong, UUID: d.UUID}
		expect(t, f.Store, ref, secrets.ErrWrongType)
		check(t, f.Store, ref, keeper(f).Set(t.Context(), ref, value), secrets.ErrWrongType)
		check(t, f.Store, ref, keeper(f).Remove(t.Context(), ref), secrets.ErrWrongType)
		expect(t, f.Store, secrets.Reference{Type: wrong, Usage: d.Usage}, secrets.ErrNotFound)
	}
	Finds(t, f.Store, d.Reference(), "confidential")
	anything := secrets.Document{UUID: uuid.New()}
	define(t, keeper(f), anything)
	set(t, keeper(f), anything.Reference(), "without a usage")
	Finds(t, f.Store, secrets.Reference{Type: secrets.Ceph, UUID: anything.UUID}, "without a usage")
}

func testRemove(t *testing.T, f Fixture) {
	stays, byUUID, byUsage, empty := full(), full(), full(), full()
	for _, d := range []secrets.Document{stays, byUUID, byUsage, empty} {
		define(t, keeper(f), d)
		if d != empty {
			set(t, keeper(f), d.Reference(), "confidential")
		}
	}
	for _, ref := range []secrets.Reference{byUUID.Reference(), ByUsage(byUsage.Usage), empty.Reference()} {
		must.OK(t, keeper(f).Remove(t.Context(), ref))
		expect(t, f.Store, ref, secrets.ErrNotFound)
		check(t, f.Store, ref, keeper(f).Remove(t.Context(), ref), secrets.ErrNotFound)
	}
	expect(t, f.Store, byUsage.Reference(), secrets.ErrNotFound)
	wantList(t, f.Store, stays)
	// A new definition does not restore the old value.
	define(t, keeper(f), byUUID)
	expect(t, f.Store, byUUID.Reference(), secrets.ErrNoValue)
}

func testEphemeral(t *testing.T, f Fixture) {
	d, lasting := full(), full()
	d.Ephemeral = true
	define(t, keeper(f), lasting)
	if f.Persistent {
		check(t, f.Store, d.Reference(), keeper(f).Define(t.Context(), d), secrets.ErrPersistent)
		lasting.Ephemeral = true
		check(t, f.Store, lasting.Reference(), keeper(f).Define(t.Context(), lasting), secrets.ErrPersistent)
		lasting.Ephemeral = false
		wantList(t, f.Store, lasting)
		return
	}
	define(t, keeper(f), d)
	set(t, keeper(f), d.Reference(), "confidential")
	wantList(t, f.Store, d, lasting)
	Finds(t, f.Store, d.Reference(), "confidential")
	if f.Reboot == nil {
		return // the whole store is lost with the host's memory
	}
	f.Reboot(t)
	expect(t, f.Store, d.Reference(), secrets.ErrNotFound)
}

func testLasting(t *testing.T, f Fixture) {
	if f.Reopen == nil {
		t.Skip("this store cannot be reopened by another process")
	}
	d := full()
	define(t, keeper(f), d)
	set(t, keeper(f), d.Reference(), "confidential")
	other := f.Reopen(t)
	wantList(t, other, d)
	Finds(t, other, d.Reference(), "confidential")
	must.OK(t, other.(secrets.Keeper).Remove(t.Context(), d.Reference()))
	expect(t, f.Store, d.Reference(), secrets.ErrNotFound)
}

// testKeeperConcurrent changes a store from many goroutines at once: no change is
// lost, no reader sees a partial value, and each usage goes to one secret only.
func testKeeperConcurrent(t *testing.T, f Fixture) {
	const writers = 6
	open := func() secrets.Keeper {
		if f.Reopen != nil {
			return f.Reopen(t).(secrets.Keeper)
		}
		return keeper(f)
	}
	shared, contended := full(), full()
	define(t, keeper(f), shared)
	set(t, keeper(f), shared.Reference(), strings.Repeat("0", 100))
	var mu sync.Mutex
	var want []secrets.Document
	var won int
	var wg sync.WaitGroup
	for n := range writers {
		k := open()
		wg.Go(func() {
			own := full()
			if err := k.Define(t.Context(), own); err != nil {
				t.Error(err)
				return
			}
			value := secrets.New([]byte(strings.Repeat(fmt.Sprint(n), 100*(n+1))))
			defer value.Wipe()
			if err := k.Set(t.Context(), shared.Reference(), value); err != nil {
				t.Error(err)
			}
			if found, err := k.Lookup(t.Context(), shared.Reference()); err != nil || found.Len()%100 != 0 || !uniform(found) {
				t.Errorf("found a partial value, error %v", err)
			}
			rival := full()
			rival.Usage = contended.Usage
			err := k.Define(t.Context(), rival)
			mu.Lock()
			defer mu.Unlock()
			want = append(want, own)
			switch {
			case err == nil:
				won++
				want = append(want, rival)
			case !errors.Is(err, secrets.ErrConflict):
				t.Error(err)
			}
		})
	}
	wg.Wait()
	if won != 1 && (won == 0 || !f.NoLocks) {
		t.Errorf("one usage went to %d secrets", won)
	}
	wantList(t, f.Store, append(want, shared)...)
}

// uniform reports whether all bytes are the same.
func uniform(s *secrets.Secret) bool {
	defer s.Wipe()
	same := true
	err := s.Use(func(value []byte) error {
		for _, c := range value {
			same = same && c == value[0]
		}
		return nil
	})
	return err == nil && same
}

func testKeeperFailures(t *testing.T, f Fixture) {
	d := full()
	define(t, keeper(f), d)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	value := secrets.New([]byte("confidential"))
	all := func(ctx context.Context) map[string]error {
		_, list := keeper(f).List(ctx)
		return map[string]error{
			"list": list, "define": keeper(f).Define(ctx, d), "set": keeper(f).Set(ctx, d.Reference(), value), "remove": keeper(f).Remove(ctx, d.Reference()),
		}
	}
	for name, err := range all(ctx) {
		if !errors.Is(err, context.Canceled) {
			t.Errorf("%s, cancelled: %v", name, err)
		}
	}
	wantList(t, f.Store, d)
	if f.Break == nil {
		return
	}
	f.Break(t)
	for name, err := range all(t.Context()) {
		ref := d.Reference()
		if name == "list" {
			ref = secrets.Reference{}
		}
		t.Run(name, func(t *testing.T) { check(t, f.Store, ref, err, secrets.ErrUnreachable) })
	}
}

// testKeyBirths: a store keeps the births of data keys that the description records, and the value with them.
func testKeyBirths(t *testing.T, f Fixture) {
	d := full()
	d.Private = false // some stores show no private value
	define(t, keeper(f), d)
	set(t, keeper(f), d.Reference(), "confidential")
	born := map[string]time.Time{}
	for i := range 2 { // Barbican keeps 255 characters
		id := uuid.NewString()
		born[id] = time.Date(2026, 11, 30, i, 2, 39, 0, time.UTC)
		d = d.WithKeyBirth(id, born[id])
		define(t, keeper(f), d)
	}
	for id, want := range born {
		listed := must.Get(secrets.Find(must.Get(keeper(f).List(t.Context()))(t), d.Reference()))(t)
		if got, ok := listed.KeyBirth(id); !ok || !got.Equal(want) {
			t.Errorf("the birth of %s in %q: %s, %v", id, listed.Description, got, ok)
		}
	}
	wantList(t, f.Store, d)
	Finds(t, f.Store, d.Reference(), "confidential")
}
