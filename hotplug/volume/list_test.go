package volume_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/luks"
)

// storedIn returns the secrets of a store.
func storedIn(t *testing.T, store *dir.Store) []volume.Claim {
	t.Helper()
	var out []volume.Claim
	for _, d := range must.Get(store.List(t.Context()))(t) {
		out = append(out, volume.Claim{Store: store, Document: d})
	}
	return out
}

// byName returns the listed volumes by the names of their files.
func byName(t *testing.T, all []volume.Listed) map[string]volume.Listed {
	t.Helper()
	out := map[string]volume.Listed{}
	for _, l := range all {
		name := filepath.Base(l.Path)
		if _, twice := out[name]; twice {
			t.Errorf("%s is listed twice", name)
		}
		out[name] = l
	}
	return out
}

// TestList: the volumes of a directory, of a store and of attached disks, each once.
func TestList(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	store, keys := keysIn(t)
	pool := t.TempDir()
	at := func(name string) string { return filepath.Join(pool, name) }
	made := map[string]*volume.Volume{}
	for name, r := range map[string]volume.Request{
		"raw":            {},
		"luks2":          {LUKS: luks.Format{Version: 2}},
		"detached":       {Header: at("detached.header")},
		"attached":       {Header: at("attached.header")},
		"qcow2":          {Format: blockgraph.FormatQcow2},
		"qcow2-detached": {Format: blockgraph.FormatQcow2, Header: at("qcow2.header"), LUKS: luks.Format{Version: 2}},
	} {
		r.Path, r.Size = at(name), size
		made[name] = must.Get(volume.Create(t.Context(), r, keys))(t)
	}
	hostileFiles(t, pool)
	// A header that belongs to no volume here, and a secret of a volume that is gone.
	must.OK(t, os.WriteFile(at("alone"), must.Get(os.ReadFile(at("raw")))(t)[:2<<20], 0o600))
	lost := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: at("lost")}
	must.OK(t, store.Define(t.Context(), lost))
	search := volume.Search{Pools: []string{pool, pool}, Documents: storedIn(t, store), Uses: []hotplug.Use{
		{VM: "vm1", Target: "vdb", Payload: at("attached"), Header: at("attached.header"), Secrets: []secrets.Reference{made["attached"].Secret.Reference()}},
		{VM: "vm1", Target: "vdc", Payload: "rbd:pool/image"},
		{VM: "vm1", In: "its definition", Target: "vdd", Payload: at("elsewhere")},
	}}
	now := time.Now()
	listed := must.Get(volume.List(t.Context(), search, now))(t)
	if !slices.IsSortedFunc(listed, func(a, b volume.Listed) int { return strings.Compare(a.Path, b.Path) }) {
		t.Error("not sorted")
	}
	got := byName(t, listed)
	for name, v := range made {
		l := got[name]
		if l.Err != nil || l.LUKS == nil || l.LUKS.UUID != v.UUID || l.Header != v.Header || l.Size != size || l.HeaderAlone || !l.Birth.Time.Equal(v.Born) ||
			len(l.Secrets) != 1 || l.Secrets[0].Document != v.Secret {
			t.Errorf("%s: %+v", name, l)
		}
		delete(got, name)
	}
	for name, want := range map[string]volume.Layout{"raw": "raw", "luks2": "raw", "detached": "raw, detached", "qcow2": "qcow2", "qcow2-detached": "qcow2, detached"} {
		if l := byName(t, listed)[name]; l.Layout() != want || len(l.Attached) != 0 {
			t.Errorf("%s: %s, %v", name, l.Layout(), l.Attached)
		}
	}
	if l := byName(t, listed)["attached"]; len(l.Attached) != 1 || !slices.Equal(l.Sources, []volume.Source{volume.SourceAttached, volume.SourceKeyStore, volume.SourcePool}) {
		t.Errorf("attached: %v, %v", l.Attached, l.Sources)
	}
	wantLeft(t, got)
}

// hostileFiles makes files in a directory that are no volumes, or damaged ones.
func hostileFiles(t *testing.T, pool string) {
	t.Helper()
	at := func(name string) string { return filepath.Join(pool, name) }
	must.OK(t, unix.Mkfifo(at("pipe"), 0o600))
	must.OK(t, os.Mkdir(at("directory"), 0o700))
	for name, target := range map[string]string{"link": "raw", "zero": "/dev/zero", "dangling": "nothing", "loop": "loop", "to-directory": "directory"} {
		must.OK(t, os.Symlink(target, at(name)))
	}
	must.OK(t, os.Link(at("luks2"), at("second-name")))
	for name, content := range map[string]string{"empty": "", "noise": strings.Repeat("x", 1<<20), "cut": "LUKS\xba\xbe\x00\x01", "version": "LUKS\xba\xbe\x00\x09", "reencryption": "LUKS\xde\xad\x00\x01", "qcow": "QFI\xfb\x00\x00\x00\x09"} {
		must.OK(t, os.WriteFile(at(name), []byte(content), 0o600))
	}
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", at("plain.qcow2"), "1M")
}

// wantLeft checks what is listed of the files that are no volumes.
func wantLeft(t *testing.T, got map[string]volume.Listed) {
	t.Helper()
	for name, want := range map[string]error{
		"cut": luks.ErrDamaged, "version": luks.ErrUnsupported, "reencryption": luks.ErrUnsupported, "lost": fs.ErrNotExist, "image": nil, "qcow": nil, "loop": nil,
	} {
		l, ok := got[name]
		if !ok || l.Err == nil || want != nil && !errors.Is(l.Err, want) || !strings.Contains(l.Err.Error(), l.Path) || l.Birth.Known() {
			t.Errorf("%s: %v, %v", name, ok, l.Err)
		}
		delete(got, name)
	}
	if l, ok := got["alone"]; !ok || l.Err != nil || !l.HeaderAlone || l.Layout() != volume.LayoutHeader || l.Size != 0 {
		t.Errorf("alone: %+v", l)
	}
	delete(got, "alone")
	for name, l := range got {
		t.Errorf("%s is listed: %+v", name, l)
	}
}

// TestListPairs: a payload is paired with the header whose UUID its secret records, and with none of two copies.
func TestListPairs(t *testing.T) {
	t.Parallel()
	store, keys := keysIn(t)
	pool := t.TempDir()
	r := volume.Request{Path: filepath.Join(t.TempDir(), "payload"), Header: filepath.Join(pool, "header"), Size: size}
	must.Get(volume.Create(t.Context(), r, keys))(t)
	search := volume.Search{Pools: []string{pool}, Documents: storedIn(t, store)}
	if all := must.Get(volume.List(t.Context(), search, time.Now()))(t); len(all) != 1 || all[0].Header != r.Header || all[0].Err != nil {
		t.Errorf("%+v", all)
	}
	must.OK(t, os.WriteFile(filepath.Join(pool, "copy"), must.Get(os.ReadFile(r.Header))(t), 0o600))
	got := byName(t, must.Get(volume.List(t.Context(), search, time.Now()))(t))
	if len(got) != 3 || !errors.Is(got["payload"].Err, volume.ErrNoVolume) || !got["header"].HeaderAlone || !got["copy"].HeaderAlone {
		t.Errorf("with a copy: %+v", got)
	}
}

// TestListFails: a directory that cannot be read does not hide the others, and a run can be ended.
func TestListFails(t *testing.T) {
	t.Parallel()
	_, keys := keysIn(t)
	pool := t.TempDir()
	must.Get(volume.Create(t.Context(), volume.Request{Path: filepath.Join(pool, "a"), Size: size}, keys))(t)
	all, err := volume.List(t.Context(), volume.Search{Pools: []string{filepath.Join(pool, "missing"), filepath.Join(pool, "a"), pool}}, time.Now())
	if !errors.Is(err, fs.ErrNotExist) || !errors.Is(err, unix.ENOTDIR) || len(all) != 1 {
		t.Errorf("%v, %+v", err, all)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	if all, err := volume.List(ended, volume.Search{Pools: []string{pool}}, time.Now()); !errors.Is(err, context.Canceled) || all != nil {
		t.Errorf("%v, %+v", err, all)
	}
}

// TestListMany: a thousand volumes are listed soon, the oldest key first.
func TestListMany(t *testing.T) {
	t.Parallel()
	const n = 1000
	const uuidAt = 168 // in a LUKS1 header
	pool := t.TempDir()
	begin := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	f := luks.Format{PayloadOffset: 2 << 20}
	key, passphrase := must.Get(f.NewKey())(t), secrets.New([]byte("x"))
	defer key.Wipe()
	defer passphrase.Wipe()
	header := must.Get(f.Header(t.Context(), key, passphrase, f.MinimumCost()))(t)[:4096]
	var documents []volume.Claim
	for i := range n {
		id, path := uuid.NewString(), filepath.Join(pool, fmt.Sprint(i))
		copy(header[uuidAt:], id)
		must.OK(t, os.WriteFile(path, header, 0o600))
		must.OK(t, os.Truncate(path, f.PayloadOffset+size))
		d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: path}.WithKeyBirth(id, begin.Add(time.Duration(i*7%n)*time.Hour))
		documents = append(documents, volume.Claim{Document: d})
	}
	start := time.Now()
	all := must.Get(volume.List(t.Context(), volume.Search{Pools: []string{pool}, Documents: documents}, begin.Add(n*time.Hour)))(t)
	took := time.Since(start)
	t.Logf("%d volumes in %v", len(all), took)
	volume.SortByAge(all)
	if len(all) != n || took > 5*time.Second {
		t.Errorf("%d volumes in %v", len(all), took)
	}
	for i, l := range all {
		if !l.Birth.Time.Equal(begin.Add(time.Duration(i) * time.Hour)) {
			t.Fatalf("number %d was born at %s", i, l.Birth.Time)
		}
	}
}
