package volume_test

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// wantBirth checks that the birth of the data key is recorded in the store, and with LUKS2 in the header.
func wantBirth(t *testing.T, store secrets.Lister, v *volume.Volume) {
	t.Helper()
	now := time.Now()
	listed := must.Get(secrets.Find(must.Get(store.List(t.Context()))(t), v.Secret.Reference()))(t)
	if listed != v.Secret {
		t.Errorf("the store has %+v, not %+v", listed, v.Secret)
	}
	birth := volume.BirthOf(v.LUKS, []secrets.Document{listed}, now)
	if !birth.Time.Equal(v.Born) || birth.From != volume.BirthInStore || birth.Age(now) < 0 || birth.Age(now) > time.Minute || v.Unrecorded != nil {
		t.Errorf("born %+v, not %s: %v", birth, v.Born, v.Unrecorded)
	}
	claimed := volume.BirthOf(v.LUKS, nil, now)
	if v.LUKS.Version == 2 && (!claimed.Time.Equal(v.Born) || claimed.From != volume.BirthInHeader) || v.LUKS.Version == 1 && claimed.Known() {
		t.Errorf("the header of LUKS%d claims %+v", v.LUKS.Version, claimed)
	}
}

func TestBirthOf(t *testing.T) {
	t.Parallel()
	born := time.Date(2026, 11, 30, 0, 2, 39, 0, time.UTC)
	now := born.Add(time.Hour)
	const id = "7b00deeb-1c2f-4f5e-8d0b-3c8f6f1e2a4d"
	h := &luks.Header{Version: 1, UUID: id}
	recorded := func(at time.Time) secrets.Document { return secrets.Document{}.WithKeyBirth(id, at) }
	for name, test := range map[string]struct {
		documents []secrets.Document
		want      volume.Birth
	}{
		"no record":           {nil, volume.Birth{}},
		"of another volume":   {[]secrets.Document{secrets.Document{}.WithKeyBirth(uuid.NewString(), born)}, volume.Birth{}},
		"the first":           {[]secrets.Document{{}, recorded(born), recorded(born.Add(time.Minute))}, volume.Birth{Time: born, From: volume.BirthInStore}},
		"in the future":       {[]secrets.Document{recorded(now.Add(time.Second))}, volume.Birth{}},
		"one from the future": {[]secrets.Document{recorded(now.Add(time.Second)), recorded(born)}, volume.Birth{Time: born, From: volume.BirthInStore}},
	} {
		if got := volume.BirthOf(h, test.documents, now); got != test.want {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// TestBirthWithExistingSecret: a secret that serves several volumes has a record of each, and a failed creation takes its
// own away.
func TestBirthWithExistingSecret(t *testing.T) {
	t.Parallel()
	store, _ := keysIn(t)
	existing := secrets.Document{UUID: uuid.New(), Description: "all of vm1"}
	must.OK(t, store.Define(t.Context(), existing))
	passphrase := secrets.New([]byte("correct horse"))
	defer passphrase.Wipe()
	must.OK(t, store.Set(t.Context(), existing.Reference(), passphrase))
	dir := t.TempDir()
	make := func(name string, edit func(*volume.Request)) (*volume.Volume, error) {
		r := volume.Request{Path: filepath.Join(dir, name), Size: size, Secret: existing, Existing: store, Passphrase: passphrase, Unlock: time.Millisecond}
		edit(&r)
		return volume.Create(t.Context(), r, nil)
	}
	var made []*volume.Volume
	for name, version := range map[string]int{"a": 1, "b": 2, "c": 1} {
		made = append(made, must.Get(make(name, func(r *volume.Request) { r.LUKS.Version = version }))(t))
	}
	description := func() string { return must.Get(store.List(t.Context()))(t)[0].Description }
	for _, v := range made {
		if !strings.HasPrefix(description(), "all of vm1\n") || !strings.Contains(description(), "data key of LUKS "+v.UUID+": "+v.Born.Format(time.RFC3339)) || v.Unrecorded != nil {
			t.Errorf("%s: %q, %v", v.UUID, description(), v.Unrecorded)
		}
	}
	before := description()
	if _, err := make("nowhere/d", func(*volume.Request) {}); err == nil || description() != before {
		t.Errorf("%v; %q", err, description())
	}
	v := must.Get(make("e", func(r *volume.Request) { r.Existing = nil }))(t)
	if v.Unrecorded == nil || description() != before {
		t.Errorf("without a store: %v, %q", v.Unrecorded, description())
	}
	v = must.Get(make("f", func(r *volume.Request) { r.Existing = unchangeable{store} }))(t)
	if !errors.Is(v.Unrecorded, secrets.ErrDenied) || description() != before {
		t.Errorf("with a store that refuses: %v, %q", v.Unrecorded, description())
	}
}

// unchangeable is a store that this caller may not change, such as libvirt's by a read-only connection.
type unchangeable struct{ secrets.Keeper }

func (unchangeable) Define(context.Context, secrets.Document) error { return secrets.ErrDenied }
