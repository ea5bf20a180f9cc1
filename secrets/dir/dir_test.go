package dir_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

func Example() {
	fmt.Println(dir.FileName(secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"}))
	store := dir.New("/nonexistent")
	_, err := store.Lookup(context.Background(), secrets.Reference{Type: secrets.Ceph, Usage: "client.libvirt"})
	fmt.Println(errors.Is(err, secrets.ErrUnreachable))
	// Output:
	// volume-%2Fvar%2Flib%2Fimages%2Fvm1.img
	// true
}

// directory returns a new directory that the store accepts.
func directory(t *testing.T) string {
	t.Helper()
	path := t.TempDir()
	if err := os.Chmod(path, 0o755); err != nil { // regardless of the umask
		t.Fatal(err)
	}
	return path
}

func TestStore(t *testing.T) {
	t.Parallel()
	for name, directory := range map[string]func(*testing.T) string{"disk": directory, "memory": func(t *testing.T) string { return must.Dir(t, "/dev/shm") }} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Fixture { return fixture(t, directory(t)) })
		})
	}
}

func inMemory(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Statfs_t
	must.OK(t, unix.Statfs(path, &st))
	return st.Type == unix.TMPFS_MAGIC
}

func fixture(t *testing.T, path string) storetest.Fixture {
	return storetest.Fixture{
		Store: dir.New(path),
		Put: func(t *testing.T, ref secrets.Reference, value []byte) {
			must.Write(t, filepath.Join(path, dir.FileName(ref)), value)
		},
		Deny: func(t *testing.T, ref secrets.Reference) {
			must.OK(t, os.Chmod(filepath.Join(path, dir.FileName(ref)), 0o640))
		},
		Break: func(t *testing.T) {
			must.OK(t, os.RemoveAll(path))
		},
		Damage: func(t *testing.T, ref secrets.Reference) {
			must.Write(t, filepath.Join(path, dir.FileName(ref)+".xml"), "<secret>")
		},
		Reopen:     func(*testing.T) secrets.Store { return dir.New(path) },
		Persistent: !inMemory(t, path),
	}
}

func TestUnsafeFilesAreDenied(t *testing.T) {
	t.Parallel()
	ref := storetest.ByUUID()
	cases := map[string]func(path string) error{
		"readable by the group":         func(p string) error { return os.Chmod(p, 0o640) },
		"readable by others":            func(p string) error { return os.Chmod(p, 0o604) },
		"writable by the group":         func(p string) error { return os.Chmod(p, 0o620) },
		"executable by others":          func(p string) error { return os.Chmod(p, 0o601) },
		"a symbolic link":               func(p string) error { return errors.Join(os.Rename(p, p+"x"), os.Symlink(p+"x", p)) },
		"a dangling link":               func(p string) error { return errors.Join(os.Remove(p), os.Symlink("/nonexistent", p)) },
		"a directory":                   func(p string) error { return errors.Join(os.Remove(p), os.Mkdir(p, 0o700)) },
		"a pipe":                        func(p string) error { return errors.Join(os.Remove(p), unix.Mkfifo(p, 0o600)) },
		"a socket":                      func(p string) error { return errors.Join(os.Remove(p), unix.Mknod(p, unix.S_IFSOCK|0o600, 0)) },
		"in a directory of a group":     func(p string) error { return os.Chmod(filepath.Dir(p), 0o775) },
		"in a directory like /tmp":      func(p string) error { return os.Chmod(filepath.Dir(p), 0o777|os.ModeSticky) },
		"in a world-writable directory": func(p string) error { return os.Chmod(filepath.Dir(p), 0o777) },
	}
	if os.Geteuid() == 0 {
		cases["of another user"] = func(p string) error { return os.Chown(p, 65534, -1) }
		cases["in a directory of another user"] = func(p string) error { return os.Chown(filepath.Dir(p), 65534, -1) }
	}
	for name, spoil := range cases {
		path := filepath.Join(directory(t), dir.FileName(ref))
		must.Write(t, path, "confidential")
		store := dir.New(filepath.Dir(path))
		if _, err := store.Lookup(t.Context(), ref); err != nil {
			t.Fatalf("%s: before the change: %v", name, err)
		}
		must.OK(t, spoil(path))
		secret, err := store.Lookup(t.Context(), ref)
		if secret != nil || !errors.Is(err, secrets.ErrDenied) {
			t.Errorf("%s: got %v", name, err)
		}
	}
}

func TestSafeFilesAreRead(t *testing.T) {
	t.Parallel()
	ref := storetest.ByUUID()
	for _, mode := range []os.FileMode{0o600, 0o400, 0o700} {
		path := filepath.Join(directory(t), dir.FileName(ref))
		must.Write(t, path, "x")
		must.OK(t, os.Chmod(path, mode))
		if _, err := dir.New(filepath.Dir(path)).Lookup(t.Context(), ref); err != nil {
			t.Errorf("%04o: %v", mode, err)
		}
	}
	// A symbolic link to the directory is followed: the user trusts its owner by naming it.
	path := directory(t)
	must.Write(t, filepath.Join(path, dir.FileName(ref)), "x")
	link := filepath.Join(t.TempDir(), "link")
	must.OK(t, os.Symlink(path, link))
	if _, err := dir.New(link).Lookup(t.Context(), ref); err != nil {
		t.Error(err)
	}
}

// TestAsAnotherUser runs the look-up as the user nobody: root never gets "permission
// denied" from the kernel, and owns the directories of the other tests.
func TestAsAnotherUser(t *testing.T) {
	const variable = "LUKSPLUG_TEST_DIR_STORE"
	ref := secrets.Reference{Type: secrets.Passphrase, Usage: "/x"}
	if path := os.Getenv(variable); path != "" { // the child
		_, err := dir.New(path).Lookup(t.Context(), ref)
		fmt.Printf("denied=%v notfound=%v unreachable=%v\n", errors.Is(err, secrets.ErrDenied),
			errors.Is(err, secrets.ErrNotFound), errors.Is(err, secrets.ErrUnreachable))
		return
	}
	if os.Geteuid() != 0 {
		t.Skip("needs root, to run the look-up as another user")
	}
	top := must.Get(os.MkdirTemp("", "luksplug-dir"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(top) })
	binary := filepath.Join(top, "test") // a copy of the test binary that the user nobody can run
	self := must.Get(os.Executable())(t)
	data := must.Get(os.ReadFile(self))(t)
	must.OK(t, errors.Join(os.WriteFile(binary, data, 0o755), os.Chmod(top, 0o755)))
	roots := filepath.Join(top, "roots")
	closed := filepath.Join(top, "closed")
	must.OK(t, errors.Join(os.Mkdir(roots, 0o755), os.Mkdir(closed, 0o700)))
	must.Write(t, filepath.Join(roots, dir.FileName(ref)), "confidential")

	for path, want := range map[string]string{
		roots:  "denied=true notfound=false unreachable=false", // the directory is accepted, the file is root's
		closed: "denied=true notfound=false unreachable=false",
	} {
		cmd := exec.Command(binary, "-test.run=^TestAsAnotherUser$", "-test.v")
		cmd.Env = append(os.Environ(), variable+"="+path)
		cmd.Dir = top
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
		out, err := cmd.CombinedOutput()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s: %v\n%s", path, err, out)
		}
	}
}

func TestNotFoundNamesTheFile(t *testing.T) {
	t.Parallel()
	_, err := dir.New(directory(t)).Lookup(t.Context(), storetest.ByUsage("/x"))
	if !errors.Is(err, secrets.ErrNotFound) || !strings.Contains(err.Error(), "volume-%2Fx") {
		t.Error(err)
	}
}

func TestNotADirectory(t *testing.T) {
	t.Parallel()
	path := filepath.Join(directory(t), "file")
	must.Write(t, path, "")
	storetest.Fails(t, dir.New(path), storetest.ByUUID(), secrets.ErrUnreachable, "")
}

func FuzzFileName(f *testing.F) {
	f.Add("/var/lib/x", "/var/lib/y")
	f.Add("%2F", "/")
	f.Fuzz(func(t *testing.T, a, b string) {
		x, y := dir.FileName(storetest.ByUsage(a)), dir.FileName(storetest.ByUsage(b))
		if (a == b) != (x == y) {
			t.Errorf("%q and %q: %s and %s", a, b, x, y)
		}
		if strings.ContainsAny(x, "/\x00") || x == "." || x == ".." {
			t.Errorf("%q makes %q", a, x)
		}
	})
}
