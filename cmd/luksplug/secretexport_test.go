package main

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// memoryDir makes a directory on tmpfs.
func memoryDir(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp("/dev/shm", "luksplug-test-")
	if err != nil || !fsutil.InMemory(path) {
		t.Skipf("no directory in memory: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	return path
}

// onDisk makes a directory that is not on tmpfs.
func onDisk(t *testing.T) string {
	t.Helper()
	path, err := os.MkdirTemp(".", "on-disk-")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(path) })
	if fsutil.InMemory(path) {
		t.Skip("the sources are on tmpfs")
	}
	return path
}

// defined makes a secret in a dir: store.
func defined(t *testing.T, store string, d secrets.Document, value string) string {
	t.Helper()
	d.UUID = uuid.New()
	s := dir.New(store)
	secret := secrets.New([]byte(value))
	defer secret.Wipe()
	must.OK(t, s.Define(t.Context(), d), s.Set(t.Context(), d.Reference(), secret))
	return d.UUID.String()
}

// stranger is a user without an account.
const stranger = "64999"

func TestExport(t *testing.T) {
	t.Parallel()
	memory, store := memoryDir(t), memoryDir(t)
	root := os.Geteuid() == 0
	public, private := defined(t, store, secrets.Document{}, "value"), defined(t, store, secrets.Document{Private: true, Ephemeral: true}, "confidential")
	binary := defined(t, store, secrets.Document{}, "a\x00b")
	in := func(name string) string { return filepath.Join(memory, name) }
	must.OK(t, os.Mkdir(in("sticky"), 0o700), os.Chmod(in("sticky"), 0o777|os.ModeSticky), os.Mkdir(in("theirs"), 0o700), os.Mkdir(in("closed"), 0o700))
	must.OK(t, os.WriteFile(in("linked"), []byte("untouched"), 0o600), os.Symlink(in("linked"), in("link")))
	if root {
		must.OK(t, os.Chown(in("theirs"), 64999, 64999), os.Chown(in("closed"), 64998, 64998))
	}
	for _, c := range []struct {
		name string
		args []string
		code int
		says string
		file string // "" for none
		root bool   // only root can do it
	}{
		{name: "to a file", args: []string{public, in("new")}, file: in("new"), says: "only user"},
		{name: "over one that is there", args: []string{public, in("new")}, file: in("new")},
		{name: "to a directory", args: []string{public, memory}, file: in(public)},
		{name: "over a link", args: []string{public, in("link")}, file: in("link")},
		{name: "to a disk", args: []string{public, filepath.Join(onDisk(t), "x")}, code: 5, says: "it is not in memory: use a directory on a tmpfs"},
		{name: "where others write", args: []string{public, in("sticky/x")}, code: 5, says: "others can write to it"},
		{name: "to no directory", args: []string{public, in("missing/x")}, code: 1, says: "no such file"},
		{name: "of no user", args: []string{public, in("x"), "--owner", "no-such-user"}, code: 2, says: "unknown user no-such-user"},
		{name: "what QEMU refuses", args: []string{binary, in("x")}, code: 4, says: "not valid UTF-8"},
		{name: "nothing", args: []string{uuid.NewString(), in("x")}, code: 4, says: "no such secret"},
		{name: "a private one, to the caller", args: []string{private, in("x")}, code: 4, says: "the secret is private"},
		{name: "a private one, to QEMU's user", args: []string{private, in("theirs/key"), "--owner", stranger}, file: in("theirs/key"), root: true},
		{name: "to a directory of another user", args: []string{public, in("closed/x"), "--owner", stranger}, code: 5, says: "belongs to user 64998", root: true},
	} {
		if c.root && !root {
			continue
		}
		var out, errs bytes.Buffer
		code := run(t.Context(), &app{streams: streams{out: &out, err: &errs}}, append([]string{"secret", "export", "--keystore", "dir:" + store}, c.args...))
		if text := out.String() + errs.String(); code != c.code || !strings.Contains(text, c.says) || strings.Contains(text, "confidential") {
			t.Errorf("%s: exit code %d: %s", c.name, code, text)
		}
		if c.file == "" {
			if _, err := os.Lstat(c.args[1]); code != 0 && c.args[1] != memory && err == nil {
				t.Errorf("%s: there is a file", c.name)
			}
			continue
		}
		info := must.Get(os.Lstat(c.file))(t)
		owner := uint32(os.Geteuid())
		if c.root {
			owner = 64999
		}
		if info.Mode() != 0o400 || info.Sys().(*syscall.Stat_t).Uid != owner {
			t.Errorf("%s: mode %v, %+v", c.name, info.Mode(), info.Sys())
		}
		if got := string(must.Get(os.ReadFile(c.file))(t)); got != "value" && got != "confidential" {
			t.Errorf("%s: %q", c.name, got)
		}
	}
	if got := must.Get(os.ReadFile(in("linked")))(t); string(got) != "untouched" {
		t.Errorf("behind the link: %q", got)
	}
}

// TestEphemeralOutput: an ephemeral value is not printed into a file on a disk.
func TestEphemeralOutput(t *testing.T) {
	t.Parallel()
	store := memoryDir(t)
	ephemeral, lasting := defined(t, store, secrets.Document{Ephemeral: true}, "fleeting"), defined(t, store, secrets.Document{}, "lasting")
	for name, c := range map[string]struct {
		dir, secret string
		code        int
	}{
		"ephemeral, memory": {memoryDir(t), ephemeral, 0},
		"ephemeral, disk":   {onDisk(t), ephemeral, 5},
		"other, disk":       {onDisk(t), lasting, 0},
	} {
		f := must.Get(os.Create(filepath.Join(c.dir, "out")))(t)
		var errs bytes.Buffer
		code := run(t.Context(), &app{streams: streams{out: f, err: &errs}}, []string{"secret", "get-value", "--keystore", "dir:" + store, c.secret})
		must.OK(t, f.Close())
		written := must.Get(os.ReadFile(f.Name()))(t)
		if code != c.code || (len(written) > 0) != (code == 0) {
			t.Errorf("%s: exit code %d, %d bytes: %s", name, code, len(written), &errs)
		}
		if code != 0 && !strings.Contains(errs.String(), "the secret is ephemeral, which is kept in memory only: standard output is not in memory") {
			t.Errorf("%s: %s", name, &errs)
		}
	}
}

// TestHookStoreHasDocuments: the store that the hook makes of the configuration knows what the
// documents forbid.
func TestHookStoreHasDocuments(t *testing.T) {
	t.Parallel()
	keys := t.TempDir()
	must.OK(t, os.Chmod(keys, 0o700))
	id := defined(t, keys, secrets.Document{Private: true, UsageType: secrets.UsageVolume, Usage: "/images/one.img"}, "value")
	s := &hookStore{app: &app{flags: flags{keystores: []string{"dir:" + keys}}}, options: keystore.Options{}}
	ref := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse(id)}
	for volume, want := range map[string]error{"/images/one.img": nil, "/images/two.img": secrets.ErrOtherVolume} {
		store := secrets.BindVolumes(s.store(), func(secrets.Reference) []string { return []string{volume} })
		value, err := store.Lookup(t.Context(), ref)
		value.Wipe()
		wantIs(t, volume, err, want)
	}
	_, err := secrets.BindDestination(s.store(), secrets.Destination{Name: "another host", Node: secrets.OtherNode}).Lookup(t.Context(), ref)
	wantIs(t, "another host", err, secrets.ErrOtherNode)
}

func wantIs(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: %v, want %v", what, err, want)
	}
}

// TestCopiedStore: a store that was copied from a tmpfs to a disk takes no value for the ephemeral
// secrets in it.
func TestCopiedStore(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"dir", "age"} {
		memory, disk := memoryDir(t), onDisk(t)
		document, value := filepath.Join(memory, "secret.xml"), filepath.Join(memory, "value")
		id := uuid.NewString()
		must.OK(t, os.WriteFile(document, []byte("<secret ephemeral='yes'><uuid>"+id+"</uuid></secret>"), 0o600), os.WriteFile(value, []byte("value"), 0o600))
		tool := func(want int, store string, args ...string) {
			t.Helper()
			var out bytes.Buffer
			code := run(t.Context(), &app{streams: streams{out: &out, err: &out}}, append([]string{"--keystore", kind + ":" + store, "secret"}, args...))
			if code != want || code != 0 && !strings.Contains(out.String(), secrets.ErrPersistent.Error()) {
				t.Errorf("%s: %v: exit code %d: %s", kind, args, code, &out)
			}
		}
		from, to := filepath.Join(memory, "store"), filepath.Join(disk, "store")
		must.OK(t, os.Mkdir(from, 0o700))
		tool(0, from, "define", document)
		tool(0, from, "set-value", id, "--file", value)
		must.OK(t, os.CopyFS(to, os.DirFS(from)), os.Chmod(to, 0o700))
		for _, name := range must.Get(filepath.Glob(filepath.Join(to, "*")))(t) {
			must.OK(t, os.Chmod(name, 0o600))
		}
		tool(5, to, "set-value", id, "--file", value)
		tool(5, to, "define", document)
	}
}
