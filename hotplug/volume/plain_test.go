package volume_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
)

// TestPlain: an image without encryption is made with its mode, its size and the id of its re-encryption; a mark keeps every use away
// until it is removed.
func TestPlain(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	for _, format := range []blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2} {
		t.Run(string(format), func(t *testing.T) {
			t.Parallel()
			dir := t.TempDir()
			p := volume.Plain{Path: filepath.Join(dir, "disk.img"), Format: format, Size: oddSize, ID: "an id", Mode: 0o640}
			must.OK(t, volume.CheckPlain(p))
			if entries := must.Get(os.ReadDir(dir))(t); len(entries) != 0 {
				t.Errorf("the check has left %v", entries)
			}
			must.OK(t, volume.CreatePlain(t.Context(), p))
			info := must.Get(os.Stat(p.Path))(t)
			if info.Mode().Perm() != p.Mode || format == blockgraph.FormatRaw && info.Size() != oddSize {
				t.Errorf("made with the mode %v and %d bytes", info.Mode(), info.Size())
			}
			var st unix.Stat_t
			if must.OK(t, unix.Stat(p.Path, &st)); st.Blocks*512 >= oddSize {
				t.Errorf("%d bytes are allocated", st.Blocks*512)
			}
			wantPlain(t, p.Path, "an id", "")
			must.OK(t, volume.MarkPlain(p.Path, "an id"))
			must.OK(t, volume.MarkPlain(p.Path, "an id"))
			wantPlain(t, p.Path, "an id", "an id")
			if all, err := volume.List(t.Context(), volume.Search{Pools: []string{dir}}, time.Now()); err != nil || len(all) != 1 || !errors.Is(all[0].Err, volume.ErrIncomplete) {
				t.Errorf("listed: %+v, %v", all, err)
			}
			if _, err := volume.Inspect(t.Context(), p.Path, "", nil); !errors.Is(err, volume.ErrIncomplete) {
				t.Errorf("inspect: %v", err)
			}
			_, keys := keysIn(t)
			if _, err := volume.Create(t.Context(), volume.Request{Path: filepath.Join(dir, "over.qcow2"), Format: blockgraph.FormatQcow2, Backing: &volume.Backing{Path: p.Path, Format: string(format)}}, keys); !errors.Is(err, volume.ErrIncomplete) {
				t.Errorf("as a backing image: %v", err)
			}
			must.OK(t, volume.CompletePlain(p.Path))
			must.OK(t, volume.CompletePlain(p.Path))
			must.OK(t, volume.ReleasePlain(p.Path))
			wantPlain(t, p.Path, "", "")
			if _, err := volume.Inspect(t.Context(), p.Path, "", nil); !errors.Is(err, volume.ErrNoVolume) {
				t.Errorf("inspect: %v", err)
			}
			if err := volume.CreatePlain(t.Context(), p); !errors.Is(err, volume.ErrExists) {
				t.Errorf("over another file: %v", err)
			}
		})
	}
}

func wantPlain(t *testing.T, path, made, marked string) {
	t.Helper()
	if m, i, err := volume.PlainMarks(path); m != made || i != marked || err != nil {
		t.Errorf("the attributes are %q and %q (%v), want %q and %q", m, i, err, made, marked)
	}
}

// TestPlainFails: what cannot be made is refused, and a failure leaves nothing.
func TestPlainFails(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	dir := t.TempDir()
	good := volume.Plain{Path: filepath.Join(dir, "disk.img"), Format: blockgraph.FormatQcow2, Size: size, ID: "an id"}
	for name, c := range map[string]struct {
		change func(*volume.Plain)
		want   error
	}{
		"no id":            {func(p *volume.Plain) { p.ID = "" }, volume.ErrRequest},
		"no size":          {func(p *volume.Plain) { p.Size = 0 }, volume.ErrRequest},
		"a relative path":  {func(p *volume.Plain) { p.Path = "disk.img" }, volume.ErrRequest},
		"an odd size":      {func(p *volume.Plain) { p.Size = 1000 }, volume.ErrRequest},
		"options for raw":  {func(p *volume.Plain) { p.Format, p.Qcow2.LazyRefcounts = blockgraph.FormatRaw, true }, volume.ErrRequest},
		"no directory":     {func(p *volume.Plain) { p.Path = filepath.Join(dir, "none", "disk.img") }, os.ErrNotExist},
		"a label for none": {func(p *volume.Plain) { p.Label = strings.Repeat("x", 1<<17) }, volume.ErrLabel},
	} {
		p := good
		c.change(&p)
		if err := volume.CreatePlain(t.Context(), p); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	canceled, cancel := context.WithCancel(t.Context())
	cancel()
	if err := volume.CreatePlain(canceled, good); !errors.Is(err, context.Canceled) {
		t.Errorf("canceled: %v", err)
	}
	if entries := must.Get(os.ReadDir(dir))(t); len(entries) != 0 {
		t.Errorf("left behind: %v", entries)
	}
}
