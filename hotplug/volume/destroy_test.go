package volume_test

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// headerBytes returns what is stored in the header's place of a volume.
func headerBytes(t *testing.T, v *volume.Volume) []byte {
	t.Helper()
	file, offset, length := v.Path, int64(0), v.LUKS.PayloadOffset()
	switch {
	case v.Header != "":
		return must.Get(os.ReadFile(v.Header))(t)
	case v.Format == "qcow2":
		q := must.Get(image.ProbeIncomplete(v.Path))(t).Qcow2
		offset, length = q.LUKSOffset, q.LUKSLength
	}
	return must.Get(os.ReadFile(file))(t)[offset : offset+length]
}

// wantGone checks that a file has nothing of an old header, at any multiple of 16 bytes.
func wantGone(t *testing.T, path string, header []byte) {
	t.Helper()
	old := map[[16]byte]int{}
	for at := 0; at+16 <= len(header); at += 16 {
		if at >= 160 && at < 208 || at >= 16544 && at < 16592 {
			continue // the UUID, which the mark has; of LUKS2 in each copy
		}
		if part := [16]byte(header[at:]); len(bytes.Trim(part[:], "\x00")) > 8 {
			old[part] = at
		}
	}
	now := must.Get(os.ReadFile(path))(t)
	for at := 0; at+16 <= len(now); at += 16 {
		if was, is := old[[16]byte(now[at:])]; is {
			t.Fatalf("%s: 16 bytes of the old header, from %d, are still there", path, was)
		}
	}
}

// TestDestroy: nothing opens what is left of a volume, no byte of its header is there any more, and its files are gone.
func TestDestroy(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "cryptsetup")
	all := layouts(t)
	delete(all, "qcow2 aes-cbc 0640")
	for name, r := range all {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, r)
			store, keys := keysIn(t)
			v := must.Get(volume.Create(t.Context(), r, keys))(t)
			key := value(t, store, v)
			header := headerBytes(t, v)
			kept := filepath.Join(t.TempDir(), "kept") // a name that sees the file after it was removed
			wiped := v.Path
			if v.Header != "" {
				wiped = v.Header
			}
			must.OK(t, os.Link(wiped, kept))

			d := volume.Destroying{Path: v.Path, Header: v.Header, DryRun: true}
			planned := must.Get(volume.Destroy(t.Context(), d))(t)
			if planned.UUID != v.UUID || planned.Wiped != wiped || !bytes.Equal(headerBytes(t, v), header) || !slicesContain(planned.Remains, "2 names") {
				t.Fatalf("a dry run: %+v", planned)
			}
			removed := 0
			d.DryRun, d.RemoveSecret = false, func(ctx context.Context) error {
				removed++
				if _, err := os.Stat(wiped); err != nil {
					t.Errorf("the secret goes after the header's file: %v", err)
				}
				wantGone(t, wiped, header)
				return store.Remove(ctx, v.Secret.Reference())
			}
			must.Get(volume.Destroy(t.Context(), d))(t)
			if removed != 1 {
				t.Errorf("the secret was removed %d times", removed)
			}
			wantFiles(t, filepath.Dir(v.Path), "", "")
			wantGone(t, kept, header)
			if out, err := exec.Command("cryptsetup", "luksOpen", "--test-passphrase", "--key-file", key, kept).CombinedOutput(); err == nil {
				t.Errorf("cryptsetup opens it: %s", out)
			}
			if _, err := volume.Destroy(t.Context(), d); !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("once more: %v", err)
			}
		})
	}
}

func slicesContain(all []string, part string) bool {
	return strings.Contains(strings.Join(all, "\n"), part)
}

// TestDestroyAgain: a run that was interrupted is finished by the next. The secret is there until the header is wiped, and
// the file with the mark until the secret is gone.
func TestDestroyAgain(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	broken := errors.New("the key store does not answer")
	all := layouts(t)
	for _, name := range []string{"raw", "raw detached LUKS2", "qcow2", "qcow2 detached"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			slow(t, all[name])
			_, keys := keysIn(t)
			v := must.Get(volume.Create(t.Context(), all[name], keys))(t)
			d := volume.Destroying{Path: v.Path, Header: v.Header, RemoveSecret: func(context.Context) error { return broken }}
			_, err := volume.Destroy(t.Context(), d)
			var left *volume.LeftError
			if !errors.As(err, &left) || !errors.Is(err, broken) || !slicesContain(left.Left, "secret") {
				t.Fatalf("%v", err)
			}
			again := 0
			d.RemoveSecret = func(context.Context) error { again++; return nil }
			out := must.Get(volume.Destroy(t.Context(), d))(t)
			if out.LUKS != nil || out.UUID != v.UUID || again != 1 {
				t.Errorf("%+v, the secret was removed %d times", out, again)
			}
			wantFiles(t, filepath.Dir(v.Path), "", "")
		})
	}
}

// TestDestroyKeepsData: the payload stays as it was.
func TestDestroyKeepsData(t *testing.T) {
	t.Parallel()
	for _, name := range []string{"raw", "raw detached"} {
		_, keys := keysIn(t)
		v := must.Get(volume.Create(t.Context(), layouts(t)[name], keys))(t)
		header, before := headerBytes(t, v), must.Get(os.ReadFile(v.Path))(t)
		out := must.Get(volume.Destroy(t.Context(), volume.Destroying{Path: v.Path, Header: v.Header, KeepData: true, Discard: true}))(t)
		after := must.Get(os.ReadFile(v.Path))(t)
		offset := v.LUKS.PayloadOffset()
		if !bytes.Equal(after[offset:], before[offset:]) || len(out.Kept) != 1 {
			t.Errorf("%s: the payload was changed: %+v", name, out)
		}
		wantGone(t, v.Path, header)
		wantFiles(t, filepath.Dir(v.Path), v.Path, "")
	}
}

func TestDestroyRefuses(t *testing.T) {
	t.Parallel()
	all := layouts(t)
	_, keys := keysIn(t)
	v := must.Get(volume.Create(t.Context(), all["raw"], keys))(t)
	other := must.Get(volume.Create(t.Context(), all["raw detached"], keys))(t)
	before := must.Get(os.ReadFile(v.Path))(t)
	try := func(what string, want error, d volume.Destroying) {
		t.Helper()
		if d.Path == "" {
			d.Path = v.Path
		}
		d.RemoveSecret = func(context.Context) error { t.Errorf("%s: the secret goes", what); return nil }
		if _, err := volume.Destroy(t.Context(), d); !errors.Is(err, want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	try("attached", volume.ErrAttached, volume.Destroying{Attached: []hotplug.Use{{VM: "vm1", Target: "vdb", Payload: v.Path}}})
	try("with another header", volume.ErrPlace, volume.Destroying{Header: other.Header})
	try("with a header that does not exist", fs.ErrNotExist, volume.Destroying{Header: v.Path + ".header"})
	try("with a header that is none", luks.ErrNotLUKS, volume.Destroying{Path: other.Path, Header: must.File(t, make([]byte, 1<<20))})
	sleeping := exec.Command("sleep", "60")
	sleeping.Stdin = must.Get(os.Open(v.Path))(t)
	must.OK(t, sleeping.Start())
	try("open in a process", volume.ErrInUse, volume.Destroying{})
	must.OK(t, sleeping.Process.Kill())
	_ = sleeping.Wait() // killed
	if !bytes.Equal(must.Get(os.ReadFile(v.Path))(t), before) {
		t.Error("a refusal has changed the image")
	}
	must.OK(t, os.WriteFile(v.Path+".backup", before[:v.LUKS.PayloadOffset()], 0o600))
	if out := must.Get(volume.Destroy(t.Context(), volume.Destroying{Path: v.Path, DryRun: true}))(t); !slicesContain(out.Remains, v.Path+".backup") {
		t.Errorf("a copy of the header is not named: %q", out.Remains)
	}
	plain := must.File(t, make([]byte, 1<<20))
	if _, err := volume.Destroy(t.Context(), volume.Destroying{Path: plain}); !errors.Is(err, volume.ErrNoVolume) {
		t.Errorf("no volume: %v", err)
	}
}
