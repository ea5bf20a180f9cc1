package volume_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// lookup returns the passphrase of a volume, as a resize takes it.
func lookup(store secrets.Store, v *volume.Volume) func(context.Context) (*secrets.Secret, error) {
	return func(ctx context.Context) (*secrets.Secret, error) { return store.Lookup(ctx, v.Secret.Reference()) }
}

// openable returns how qemu-io opens a volume: through QEMU's own driver, or, for LUKS2, as the ciphertext.
func openable(t *testing.T, v *volume.Volume, key string) (object, options string, at int64) {
	t.Helper()
	if v.LUKS.Version == 1 {
		object, options = node(t, v, key)
		return object, options, 0
	}
	return "secret,id=s,file=" + key, `json:{"driver":"raw","file":{"driver":"file","filename":"` + v.Path + `"}}`, v.LUKS.PayloadOffset()
}

// TestResize: every layout keeps its last sectors, and has the new ones, also with sizes that are no multiple of a cluster, a
// page or a MiB.
func TestResize(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io")
	all := layouts(t)
	delete(all, "qcow2 aes-cbc 0640") // qemu-img takes seconds for each
	for name, r := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, keys := keysIn(t)
			r.Size = size + 1536
			v := must.Get(volume.Create(t.Context(), r, keys))(t)
			object, options, at := openable(t, v, value(t, store, v))
			write := func(pattern byte, end int64) {
				must.Run(t, "", "qemu-io", "--object", object, "-c", fmt.Sprintf("write -P %d %d 1024", pattern, at+end-1024), options)
			}
			read := func(pattern byte, end int64) {
				if out := must.Run(t, "", "qemu-io", "--object", object, "-c", fmt.Sprintf("read -P %d %d 1024", pattern, at+end-1024), options); strings.Contains(out, "fail") {
					t.Errorf("at %d: %s", end, out)
				}
			}
			write(1, r.Size)
			header := ""
			if v.Header != "" {
				header = string(must.Get(os.ReadFile(v.Header))(t))
			}
			resizing := volume.Resizing{Path: v.Path, Header: v.Header, Passphrase: lookup(store, v), Size: hotplug.NewSize{Bytes: 3<<20 + 512, Added: true}, DryRun: true}
			grown := r.Size + 3<<20 + 512
			out := must.Get(volume.Resize(t.Context(), resizing))(t)
			if got := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t).Size; got != r.Size || out.Old != r.Size || out.New != grown {
				t.Fatalf("after a dry run the size is %d: %+v", got, out)
			}
			resizing.DryRun = false
			if v.Header == "" && v.Format == blockgraph.FormatQcow2 {
				wantPassphrase(t, resizing)
			}
			must.Get(volume.Resize(t.Context(), resizing))(t)
			if got := must.Get(volume.Inspect(t.Context(), v.Path, v.Header, nil))(t).Size; got != grown {
				t.Fatalf("the size is %d, and not %d", got, grown)
			}
			read(1, r.Size)
			write(2, grown)
			read(2, grown)

			resizing.Size = hotplug.NewSize{Bytes: r.Size}
			if _, err := volume.Resize(t.Context(), resizing); !errors.Is(err, volume.ErrShrink) {
				t.Errorf("a smaller size: %v", err)
			}
			resizing.Shrink = true
			must.Get(volume.Resize(t.Context(), resizing))(t)
			read(1, r.Size)
			if v.Header != "" && string(must.Get(os.ReadFile(v.Header))(t)) != header {
				t.Error("the header was changed")
			}
			wantFiles(t, filepath.Dir(v.Path), v.Path, v.Header)
		})
	}
}

// wantPassphrase checks that qemu-img needs the passphrase, and the right one.
func wantPassphrase(t *testing.T, r volume.Resizing) {
	t.Helper()
	r.Passphrase = nil
	if _, err := volume.Resize(t.Context(), r); !errors.Is(err, volume.ErrPassphrase) {
		t.Errorf("without the passphrase: %v", err)
	}
	r.Passphrase = func(context.Context) (*secrets.Secret, error) { return secrets.New([]byte("wrong")), nil }
	if _, err := volume.Resize(t.Context(), r); !errors.Is(err, volume.ErrWrongPassphrase) {
		t.Errorf("with a wrong passphrase: %v", err)
	}
}

func TestResizeRefuses(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "cryptsetup")
	all := layouts(t)
	store, keys := keysIn(t)
	v := must.Get(volume.Create(t.Context(), all["raw"], keys))(t)
	whole := must.Get(os.ReadFile(v.Path))(t)
	try := func(what string, want error, r volume.Resizing) {
		t.Helper()
		if r.Path == "" {
			r.Path = v.Path
		}
		if _, err := volume.Resize(t.Context(), r); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	bytes := func(n int64) hotplug.NewSize { return hotplug.NewSize{Bytes: n} }
	try("no sector", volume.ErrSize, volume.Resizing{Size: bytes(size + 5)})
	try("nothing", volume.ErrSize, volume.Resizing{Size: bytes(0), Shrink: true})
	try("too much", volume.ErrSize, volume.Resizing{Size: hotplug.NewSize{Bytes: 1<<63 - 512, Added: true}})
	try("attached", volume.ErrAttached, volume.Resizing{Size: bytes(2 * size), Attached: []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: v.Path}}})
	try("more than the file system", unix.EFBIG, volume.Resizing{Size: bytes(1 << 61)})
	try("more than is free", unix.ENOSPC, volume.Resizing{Size: bytes(1 << 50), Allocate: true})
	ended, end := context.WithCancel(t.Context())
	end()
	if _, err := volume.Resize(ended, volume.Resizing{Path: v.Path, Size: bytes(2 * size)}); !errors.Is(err, context.Canceled) {
		t.Errorf("interrupted: %v", err)
	}
	if string(must.Get(os.ReadFile(v.Path))(t)) != string(whole) {
		t.Error("a refusal has changed the image")
	}

	key := value(t, store, v)
	fixed := must.File(t, make([]byte, 32<<20))
	must.Run(t, "", "cryptsetup", "luksFormat", "-q", "--type", "luks2", "--pbkdf", "pbkdf2", "--pbkdf-force-iterations", "1000", "--sector-size", "4096", "--key-file", key, fixed)
	try("no sector of 4096", volume.ErrSize, volume.Resizing{Path: fixed, Size: bytes(64<<20 + 512)})
	must.Get(volume.Resize(t.Context(), volume.Resizing{Path: fixed, Size: bytes(64<<20 + 4096)}))(t)

	overlay := filepath.Join(t.TempDir(), "overlay")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", v.Path, overlay)
	d := must.Get(volume.Create(t.Context(), all["qcow2 detached"], keys))(t)
	try("an image that names another", volume.ErrFixedSize, volume.Resizing{Path: overlay, Header: d.Header, Size: bytes(64 << 20)})
}

// TestResizeAllocates: the new space is reserved, and the old data stay.
func TestResizeAllocates(t *testing.T) {
	t.Parallel()
	_, keys := keysIn(t)
	v := must.Get(volume.Create(t.Context(), layouts(t)["raw"], keys))(t)
	before := must.Get(volume.Inspect(t.Context(), v.Path, "", nil))(t).Stored
	var last volume.Progress
	must.Get(volume.Resize(t.Context(), volume.Resizing{Path: v.Path, Size: hotplug.NewSize{Bytes: 2 * size}, Allocate: true, Report: func(p volume.Progress) { last = p }}))(t)
	i := must.Get(volume.Inspect(t.Context(), v.Path, "", nil))(t)
	if i.Stored-before < size || i.Size != 2*size || last != (volume.Progress{Done: size, Total: size}) {
		t.Errorf("%d bytes are allocated, and were %d; progress %+v", i.Stored, before, last)
	}
	if _, err := luks.ReadHeader(must.Get(os.Open(v.Path))(t)); err != nil {
		t.Error(err)
	}
}

// TestGrowthIsUndone: a file that was grown gets its size back unless something was written beyond it.
func TestGrowthIsUndone(t *testing.T) {
	t.Parallel()
	for _, how := range []image.Space{image.Sparse, image.Allocated} {
		path := must.File(t, []byte("old data that are no multiple of a sector"))
		g := must.Get(image.OpenSize(path, 1<<20))(t)
		defer g.Close()
		must.OK(t, g.Grow(t.Context(), how, nil), g.Undo())
		if got := must.Get(os.ReadFile(path))(t); string(got) != "old data that are no multiple of a sector" {
			t.Errorf("%q", got)
		}
		must.OK(t, g.Grow(t.Context(), how, nil))
		f := must.Get(os.OpenFile(path, os.O_WRONLY, 0))(t)
		_, err := f.WriteAt([]byte("new"), 512<<10)
		must.OK(t, err, f.Close())
		if err := g.Undo(); err == nil {
			t.Error("what was written to the new space was cut off")
		}
	}
}

// TestResizedFileIsOpen: a file that QEMU names, and that its process does not have open, is not resized.
func TestResizedFileIsOpen(t *testing.T) {
	t.Parallel()
	path := must.File(t, make([]byte, 4096))
	if _, err := image.OpenGrowth(os.Getppid(), path, 8192); !errors.Is(err, image.ErrNotOpen) {
		t.Errorf("%v", err)
	}
	g := must.Get(image.OpenGrowth(os.Getpid(), path, 8192))(t) // which has it open by that
	g.Close()
}
