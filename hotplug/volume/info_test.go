package volume_test

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

func TestInspect(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	for name, r := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, r)
			_, keys := keysIn(t)
			v := must.Get(volume.Create(t.Context(), r, keys))(t)
			link := filepath.Join(t.TempDir(), "link")
			must.OK(t, os.Symlink(r.Path, link))
			uses := []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: link}, {VM: "vm2", Target: "vdb", Payload: "/dev/null"}}
			i := must.Get(volume.Inspect(t.Context(), r.Path, r.Header, uses))(t)
			format := r.Format
			if format == "" {
				format = blockgraph.FormatRaw
			}
			if i.Format != string(format) || i.Size != size || i.LUKS.UUID != v.UUID || i.Inside != (format == blockgraph.FormatQcow2 && r.Header == "") {
				t.Errorf("%+v", i)
			}
			if i.Stored <= 0 && r.Header == "" || i.Stored >= size {
				t.Errorf("%d bytes are allocated", i.Stored)
			}
			if i.Problem != nil || (i.QEMU == nil) != (r.LUKS.Version != 2) || len(i.Slots) != 1 {
				t.Errorf("problem %v, for QEMU %v, key slots %+v", i.Problem, i.QEMU, i.Slots)
			}
			if len(i.Attached) != 1 || i.Attached[0].VM != "vm1" {
				t.Errorf("attached to %+v", i.Attached)
			}
		})
	}
}

func TestInspectRefuses(t *testing.T) {
	t.Parallel()
	plain := must.File(t, make([]byte, 1<<20))
	for what, c := range map[string]struct {
		path, header string
		want         error
	}{
		"no file":       {filepath.Join(t.TempDir(), "none"), "", fs.ErrNotExist},
		"no header":     {plain, filepath.Join(t.TempDir(), "none"), fs.ErrNotExist},
		"plain data":    {plain, "", volume.ErrNoVolume},
		"a header file": {plain, plain, luks.ErrNotLUKS},
	} {
		if _, err := volume.Inspect(t.Context(), c.path, c.header, nil); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
}
