package volume_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/luks"
)

const size = 4 << 20

// keysIn returns a key store of this test, and what defines secrets in it.
func keysIn(t *testing.T) (*dir.Store, volume.Keys) {
	t.Helper()
	path := must.Dir(t, "")
	must.OK(t, os.Chmod(path, 0o700))
	store := dir.New(path)
	return store, func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return store, store.Define(ctx, d)
	}
}

// layouts are the requests of all layouts, with their files in a directory of the test.
func layouts(t *testing.T) map[string]volume.Request {
	t.Helper()
	at := func(r volume.Request, header bool) volume.Request {
		d := t.TempDir()
		r.Path, r.Size = filepath.Join(d, "volume"), size
		if header {
			r.Header = filepath.Join(d, "header")
		}
		return r
	}
	all := map[string]volume.Request{
		"raw":                  at(volume.Request{}, false),
		"raw LUKS2":            at(volume.Request{LUKS: luks.Format{Version: 2, Label: "vm1"}}, false),
		"raw detached":         at(volume.Request{}, true),
		"raw detached LUKS2":   at(volume.Request{LUKS: luks.Format{Version: 2}}, true),
		"qcow2":                at(volume.Request{Format: blockgraph.FormatQcow2}, false),
		"qcow2 detached":       at(volume.Request{Format: blockgraph.FormatQcow2}, true),
		"qcow2 aes-cbc 0640":   at(volume.Request{Format: blockgraph.FormatQcow2, Mode: 0o640, LUKS: luks.Format{Encryption: "aes-cbc-essiv:sha256", Hash: "sha512"}}, false),
		"raw aes-128 detached": at(volume.Request{LUKS: luks.Format{KeyBytes: 32, Hash: "sha1"}, Mode: 0o644}, true),
	}
	if !long() { // qemu-img measures for two seconds for each
		delete(all, "qcow2 aes-cbc 0640")
	}
	return all
}

// slow skips a volume for which qemu-img measures the processor for seconds. TestCreate and TestResize have one in every run.
func slow(t *testing.T, r volume.Request) {
	t.Helper()
	if r.Format == blockgraph.FormatQcow2 && r.Header == "" && !long() {
		t.Skip("qemu-img measures for two seconds for each encrypted image (make test-long runs it)")
	}
}

// long reports whether slow tests run.
func long() bool { return os.Getenv("LUKSPLUG_LONG") != "" }

// node returns the options with which QEMU opens the volume, and its objects.
func node(t *testing.T, v *volume.Volume, key string) (object, options string) {
	t.Helper()
	file := fmt.Sprintf(`{"driver":"file","filename":%q}`, v.Path)
	crypt := `"encrypt":{"format":"luks","key-secret":"s"},`
	if v.Header != "" {
		crypt = ""
	}
	if v.Format == blockgraph.FormatQcow2 {
		file = fmt.Sprintf(`{"driver":"qcow2",%s"file":%s}`, crypt, file)
		if v.Header == "" {
			return "secret,id=s,file=" + key, "json:" + file
		}
	}
	header := ""
	if v.Header != "" {
		header = fmt.Sprintf(`"header":{"driver":"file","filename":%q},`, v.Header)
	}
	return "secret,id=s,file=" + key, fmt.Sprintf(`json:{"driver":"luks","key-secret":"s",%s"file":%s}`, header, file)
}

// value returns the file with the passphrase in the store.
func value(t *testing.T, store secrets.Store, v *volume.Volume) string {
	t.Helper()
	s := must.Get(store.Lookup(t.Context(), v.Secret.Reference()))(t)
	defer s.Wipe()
	return must.File(t, must.Use(t, s))
}

func TestCreate(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img", "qemu-io", "cryptsetup")
	for name, r := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			store, keys := keysIn(t)
			v := must.Get(volume.Create(t.Context(), r, keys))(t)
			key := value(t, store, v)
			if v.Secret.Usage != r.Path || v.Secret.UsageType != secrets.UsageVolume || v.LUKS.UUID != v.UUID || v.Size != size {
				t.Errorf("%+v", v)
			}
			wantBirth(t, store, v)
			mode := r.Mode
			if mode == 0 {
				mode = 0o600
			}
			wantMode(t, r.Path, mode)
			wantFiles(t, filepath.Dir(r.Path), r.Path, r.Header)
			if r.Header != "" {
				wantMode(t, r.Header, 0o600)
			}
			if r.LUKS.Version == 2 { // QEMU opens LUKS1 only
				header := r.Path
				if r.Header != "" {
					header = r.Header
				}
				if out := must.Run(t, "", "cryptsetup", "luksDump", header); !strings.Contains(out, v.UUID) {
					t.Errorf("luksDump: %s", out)
				}
				must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", key, header)
				return
			}
			object, options := node(t, v, key)
			must.Run(t, "", "qemu-io", "--object", object, "-c", "write -P 7 0 64k", "-c", fmt.Sprintf("write -P 9 %d 512", size-512), options)
			out := filepath.Join(t.TempDir(), "plain")
			must.Run(t, "", "qemu-img", "convert", "--object", object, "-O", "raw", options, out)
			data := must.Get(os.ReadFile(out))(t)
			if len(data) != size || !bytes.Equal(data[:64<<10], bytes.Repeat([]byte{7}, 64<<10)) || data[size-1] != 9 {
				t.Errorf("%d bytes, which begin with %x and end with %x", len(data), data[:8], data[len(data)-8:])
			}
			stored := must.Get(os.ReadFile(r.Path))(t)
			if bytes.Contains(stored, bytes.Repeat([]byte{7}, 16)) {
				t.Error("the image has the data in clear")
			}
			if r.Format != blockgraph.FormatQcow2 && r.LUKS.KeyBytes == 0 && len(stored)%(1<<20) != 0 {
				t.Errorf("the image has %d bytes", len(stored))
			}
		})
	}
}

func wantMode(t *testing.T, path string, want os.FileMode) {
	t.Helper()
	if got := must.Get(os.Stat(path))(t).Mode(); got != want {
		t.Errorf("%s has mode %v, not %v", path, got, want)
	}
}

// wantFiles checks that a directory has these files and no others; an empty path is none.
func wantFiles(t *testing.T, dir string, paths ...string) {
	t.Helper()
	want := map[string]bool{}
	for _, p := range paths {
		if p != "" {
			want[filepath.Base(p)] = true
		}
	}
	for _, e := range must.Get(os.ReadDir(dir))(t) {
		if !want[e.Name()] {
			t.Errorf("%s has %s", dir, e.Name())
		}
		delete(want, e.Name())
	}
	if len(want) > 0 {
		t.Errorf("%s lacks %v", dir, want)
	}
}

// TestCreateByPassphrase: a passphrase of a person's is worth a slow derivation, a random one is not.
func TestCreateByPassphrase(t *testing.T) {
	t.Parallel()
	for _, version := range []int{1, 2} {
		t.Run(fmt.Sprintf("LUKS%d", version), func(t *testing.T) {
			t.Parallel()
			must.Have(t, "cryptsetup")
			store, keys := keysIn(t)
			passphrase := secrets.New([]byte("correct horse"))
			defer passphrase.Wipe()
			r := volume.Request{Path: filepath.Join(t.TempDir(), "volume"), Size: size, LUKS: luks.Format{Version: version}, Passphrase: passphrase, Unlock: 200 * time.Millisecond}
			v := must.Get(volume.Create(t.Context(), r, keys))(t)
			if got := must.Get(os.ReadFile(value(t, store, v)))(t); string(got) != "correct horse" {
				t.Errorf("the store has %q", got)
			}
			must.Run(t, "correct horse", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", "-", r.Path)
			if h := v.LUKS; version == 1 && h.LUKS1.Slots[0].Iterations < 5000 || version == 2 && h.LUKS2.KeySlots[0].KDF.Type != "argon2id" {
				t.Errorf("a cheap derivation: %+v %+v", h.LUKS1, h.LUKS2)
			}
		})
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	d := t.TempDir()
	path := filepath.Join(d, "volume")
	good := volume.Request{Path: path, Size: size}
	change := func(f func(*volume.Request)) volume.Request {
		r := good
		f(&r)
		return r
	}
	existing := filepath.Join(t.TempDir(), "existing")
	must.Write(t, existing, "data")
	link := filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(filepath.Join(d, "elsewhere"), link))
	for what, c := range map[string]struct {
		r    volume.Request
		want error
	}{
		"no path":                {change(func(r *volume.Request) { r.Path = "" }), volume.ErrRequest},
		"a relative path":        {change(func(r *volume.Request) { r.Path = "volume" }), volume.ErrRequest},
		"one path for both":      {change(func(r *volume.Request) { r.Header = d + "/./volume" }), volume.ErrRequest},
		"no size":                {change(func(r *volume.Request) { r.Size = 0 }), volume.ErrRequest},
		"an odd size":            {change(func(r *volume.Request) { r.Size++ }), volume.ErrRequest},
		"a format":               {change(func(r *volume.Request) { r.Format = "vmdk" }), volume.ErrRequest},
		"LUKS2 in qcow2":         {change(func(r *volume.Request) { r.Format, r.LUKS.Version = blockgraph.FormatQcow2, 2 }), volume.ErrRequest},
		"no hash of QEMU's":      {change(func(r *volume.Request) { r.Format, r.LUKS.Hash = blockgraph.FormatQcow2, "sha3-256" }), volume.ErrUnsupported},
		"a mode":                 {change(func(r *volume.Request) { r.Mode = 0o444 }), volume.ErrRequest},
		"an encryption":          {change(func(r *volume.Request) { r.LUKS.Encryption = "serpent-xts-plain64" }), volume.ErrUnsupported},
		"a file that is there":   {change(func(r *volume.Request) { r.Path = existing }), volume.ErrExists},
		"a header that is there": {change(func(r *volume.Request) { r.Header = existing }), volume.ErrExists},
		"a link":                 {change(func(r *volume.Request) { r.Path = link }), volume.ErrExists},
		"a secret's usage":       {change(func(r *volume.Request) { r.Secret.UsageType = secrets.UsageVolume }), secrets.ErrInvalidDocument},
	} {
		never := func(context.Context, secrets.Document) (secrets.Keeper, error) {
			t.Errorf("%s: a secret was defined", what)
			return nil, errors.New("no")
		}
		if _, err := volume.Create(t.Context(), c.r, never); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	wantFiles(t, d)
	if got := string(must.Get(os.ReadFile(existing))(t)); got != "data" {
		t.Errorf("the file has %q", got)
	}
}

// TestExistingSecret: the value of a secret that exists is used, and never replaced or removed.
func TestExistingSecret(t *testing.T) {
	t.Parallel()
	must.Have(t, "cryptsetup")
	store, keys := keysIn(t)
	d := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageVolume, Usage: "vm1"}
	must.OK(t, store.Define(t.Context(), d))
	passphrase := secrets.New([]byte("shared by two"))
	defer passphrase.Wipe()
	must.OK(t, store.Set(t.Context(), d.Reference(), passphrase))
	path := filepath.Join(t.TempDir(), "volume")
	r := volume.Request{Path: path, Size: size, Secret: d}
	if _, err := volume.Create(t.Context(), r, keys); !errors.Is(err, volume.ErrExists) {
		t.Errorf("a new value for an existing secret: %v", err)
	}
	wantFiles(t, filepath.Dir(path))
	if _, err := volume.Create(t.Context(), r, nil); !errors.Is(err, volume.ErrRequest) {
		t.Errorf("no passphrase and no store: %v", err)
	}
	r.Passphrase, r.Unlock = passphrase, time.Millisecond
	if v := must.Get(volume.Create(t.Context(), r, nil))(t); v.Secret != d || v.Store != nil {
		t.Errorf("%+v", v)
	}
	must.Run(t, "shared by two", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", "-", path)
	value := must.Get(store.Lookup(t.Context(), d.Reference()))(t)
	defer value.Wipe()
	if got := string(must.Use(t, value)); got != "shared by two" {
		t.Errorf("the secret is %q now", got)
	}
}

// TestCreateFails: whatever fails, nothing is left, the secret included.
func TestCreateFails(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-img")
	all := layouts(t)
	for _, name := range []string{"raw", "raw detached", "qcow2 detached"} {
		r := all[name]
		for what, fault := range map[string]func(t *testing.T, r *volume.Request, keys volume.Keys) (context.Context, volume.Keys){
			"the directory is not there": func(t *testing.T, r *volume.Request, keys volume.Keys) (context.Context, volume.Keys) {
				r.Path = filepath.Join(t.TempDir(), "none", "volume")
				return t.Context(), keys
			},
			"the context ends": func(t *testing.T, _ *volume.Request, keys volume.Keys) (context.Context, volume.Keys) {
				ctx, end := context.WithCancel(t.Context())
				return ctx, func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
					defer end()
					return keys(ctx, d)
				}
			},
			"the name is taken meanwhile": func(t *testing.T, r *volume.Request, keys volume.Keys) (context.Context, volume.Keys) {
				path := r.Path
				return t.Context(), func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
					must.Write(t, path, "another's data")
					return keys(ctx, d)
				}
			},
			"the store is full": func(t *testing.T, _ *volume.Request, keys volume.Keys) (context.Context, volume.Keys) {
				return t.Context(), func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
					k, err := keys(ctx, d)
					return fullStore{k}, err
				}
			},
		} {
			t.Run(name+" "+what, func(t *testing.T) {
				t.Parallel()
				store, keys := keysIn(t)
				d := t.TempDir()
				r.Path = filepath.Join(d, "volume")
				if r.Header != "" {
					r.Header = filepath.Join(d, "header")
				}
				ctx, keys := fault(t, &r, keys)
				_, err := volume.Create(ctx, r, keys)
				if err == nil || errors.As(err, new(*volume.LeftError)) {
					t.Errorf("got %v", err)
				}
				for _, e := range must.Get(os.ReadDir(d))(t) {
					if data := must.Get(os.ReadFile(filepath.Join(d, e.Name())))(t); string(data) != "another's data" {
						t.Errorf("%s is left", e.Name())
					}
				}
				if left, err := store.List(t.Context()); err != nil || len(left) > 0 {
					t.Errorf("secrets that are left: %v, %v", left, err)
				}
			})
		}
	}
}

// fullStore defines secrets and keeps no value.
type fullStore struct{ secrets.Keeper }

func (fullStore) Set(context.Context, secrets.Reference, *secrets.Secret) error { return unix.ENOSPC }

// TestCreateOnFullDisk: on a disk without room nothing is left, and the error says so.
func TestCreateOnFullDisk(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("mounting a small tmpfs needs root")
	}
	must.Have(t, "qemu-img")
	for name, r := range layouts(t) {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			d := t.TempDir()
			must.OK(t, unix.Mount("tmpfs", d, "tmpfs", 0, "size=64k"))
			t.Cleanup(func() { _ = unix.Unmount(d, unix.MNT_DETACH) })
			r.Path = filepath.Join(d, "volume")
			if r.Header != "" {
				r.Header = filepath.Join(d, "header")
			}
			if r.Header == "" && r.Format == blockgraph.FormatQcow2 {
				r.Size = 1 << 40 // its tables
			}
			store, keys := keysIn(t)
			_, err := volume.Create(t.Context(), r, keys)
			if err == nil || !strings.Contains(strings.ToLower(err.Error()), "no space left") {
				t.Errorf("got %v", err)
			}
			wantFiles(t, d)
			if left, err := store.List(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("secrets that are left: %v, %v", left, err)
			}
		})
	}
}
