package access

import (
	"encoding/binary"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// stranger is a user without an account and without rights.
const stranger = 64999

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can ask for other users")
	}
}

// openDir is a directory that every user can pass through, unlike that of t.TempDir.
func openDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "luksplug-access-")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must.OK(t, os.Chmod(dir, 0o755))
	return dir
}

func file(t *testing.T, path string, mode os.FileMode) string {
	t.Helper()
	must.OK(t, os.WriteFile(path, []byte("image"), 0o600), os.Chmod(path, mode))
	return path
}

func check(t *testing.T, u User, path string, write bool) *Problem {
	t.Helper()
	problems, err := Check(u, []File{{Path: path, What: "payload", Write: write}})
	must.OK(t, err)
	if len(problems) == 0 {
		return nil
	}
	return &problems[0]
}

func as(uid uint32, groups ...uint32) User {
	return User{Credential: hostproc.Credential{UID: uid, GID: uid, Groups: groups}}
}

// TestCheck: each obstacle is found, and the named command removes it.
func TestCheck(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const group = 64998
	for name, c := range map[string]struct {
		make    func(dir, path string) error
		user    User
		write   bool
		problem string // "" for none
		fix     bool
		relabel bool
	}{
		"another's":      {user: as(stranger), write: true, problem: "(root:root, mode 0600)", fix: true, relabel: true},
		"for reading":    {user: as(stranger), problem: "(root:root, mode 0600)", fix: true, relabel: true},
		"root's":         {user: as(0), write: true},
		"readable":       {func(_, path string) error { return os.Chmod(path, 0o644) }, as(stranger), false, "", false, false},
		"not writable":   {func(_, path string) error { return os.Chmod(path, 0o644) }, as(stranger), true, "mode 0644", true, true},
		"read-only mode": {func(_, path string) error { return os.Chmod(path, 0o400) }, as(stranger), true, "mode 0400", true, false},
		"its own, without rights": {func(_, path string) error {
			return errors.Join(os.Chown(path, stranger, -1), os.Chmod(path, 0o060))
		}, as(stranger), true, "mode 0060", true, false},
		"of a group": {func(_, path string) error {
			return errors.Join(os.Chown(path, -1, group), os.Chmod(path, 0o660))
		}, as(stranger, group), true, "", false, false},
		"of another group": {func(_, path string) error {
			return errors.Join(os.Chown(path, -1, group), os.Chmod(path, 0o660))
		}, as(stranger), true, "64998, mode 0660", true, true},
		"in a directory": {func(dir, _ string) error { return os.Chmod(dir, 0o700) }, as(stranger), true, "pass through the directory", true, false},
		"by its access control list": {func(_, path string) error {
			return unix.Setxattr(path, "system.posix_acl_access", acl(stranger), 0)
		}, as(stranger), true, "", false, false},
		"another name of it": {func(dir, path string) error { return os.Link(path, filepath.Join(dir, "other")) }, as(stranger), true, "mode 0600", true, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := openDir(t)
			path := file(t, filepath.Join(dir, "it's an image"), 0o600)
			if c.make != nil {
				if err := c.make(dir, path); errors.Is(err, unix.EOPNOTSUPP) {
					t.Skip("the file system has no access control lists")
				} else if err != nil {
					t.Fatal(err)
				}
			}
			p := check(t, c.user, path, c.write)
			if c.problem == "" {
				if p != nil {
					t.Fatalf("got %+v", p)
				}
				return
			}
			if p == nil || !strings.Contains(p.Reason, c.problem) || p.Relabel != c.relabel || (p.Fix != "") != c.fix {
				t.Fatalf("got %+v", p)
			}
			if said, err := exec.Command("/bin/sh", "-c", p.Fix).CombinedOutput(); err != nil {
				t.Fatalf("%s: %v: %s", p.Fix, err, said)
			}
			if p := check(t, c.user, path, c.write); p != nil {
				t.Errorf("after %q: %+v", p.Fix, p)
			}
		})
	}
}

// acl lets one more user read and write (acl(5); the kernel's posix_acl_xattr.h).
func acl(uid uint32) []byte {
	const owner, named, group, mask, other, nobody = 0x01, 0x02, 0x04, 0x10, 0x20, ^uint32(0)
	out := binary.LittleEndian.AppendUint32(nil, 2)
	for _, e := range []struct {
		tag, rights uint16
		id          uint32
	}{{owner, 6, nobody}, {named, 6, uid}, {group, 0, nobody}, {mask, 6, nobody}, {other, 0, nobody}} {
		out = binary.LittleEndian.AppendUint16(out, e.tag)
		out = binary.LittleEndian.AppendUint16(out, e.rights)
		out = binary.LittleEndian.AppendUint32(out, e.id)
	}
	return out
}

// sleeper is a process that has gone through a shell script.
func sleeper(t *testing.T, attributes *syscall.SysProcAttr, script string) int {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", script+"\necho ready; exec cat")
	cmd.SysProcAttr = attributes
	in, err := cmd.StdinPipe()
	must.OK(t, err)
	out, err := cmd.StdoutPipe()
	must.OK(t, err)
	must.OK(t, cmd.Start())
	t.Cleanup(func() {
		_ = in.Close()
		_ = cmd.Wait()
	})
	if line := make([]byte, 6); true {
		if _, err := out.Read(line); err != nil || string(line) != "ready\n" {
			t.Fatalf("got %q, %v", line, err)
		}
	}
	return cmd.Process.Pid
}

// TestCheckNamespace: the check uses the mount namespace of the process.
func TestCheckNamespace(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	path := file(t, filepath.Join(dir, "image"), 0o666)
	pid := sleeper(t, &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}, "mount --make-rprivate / && mount -t tmpfs none "+dir+" && echo > "+dir+"/only-there")
	u := as(stranger)
	u.PID = pid
	if p := check(t, u, path, true); p == nil || !strings.Contains(p.Reason, "mount namespace") {
		t.Errorf("got %+v", p)
	}
	if p := check(t, u, filepath.Join(dir, "only-there"), false); p != nil {
		t.Errorf("got %+v", p)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the test itself has changed its namespace: %v", err)
	}
	u.PID = 0
	if p := check(t, u, path, true); p != nil {
		t.Errorf("got %+v", p)
	}
}

// TestCheckCapabilities: root without capabilities, as under libvirt, is a user like any
// other.
func TestCheckCapabilities(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	path := file(t, filepath.Join(dir, "image"), 0o600)
	must.OK(t, os.Chown(path, stranger, stranger))
	if _, err := exec.LookPath("setpriv"); err != nil {
		t.Skip("setpriv is not installed")
	}
	u := as(0)
	u.PID = sleeper(t, nil, "exec setpriv --bounding-set=-all --inh-caps=-all sh -c 'echo ready; exec cat'")
	if p := check(t, u, path, true); p == nil || !p.Relabel || !strings.HasPrefix(p.Fix, "chown 0 ") {
		t.Errorf("got %+v", p)
	}
	u.PID = os.Getpid()
	if p := check(t, u, path, true); p != nil {
		t.Errorf("got %+v", p)
	}
}

// TestCheckMany: the threads with another user have ended, and this process has kept its
// user.
func TestCheckMany(t *testing.T) {
	needRoot(t)
	path := file(t, filepath.Join(openDir(t), "image"), 0o600)
	for range 50 {
		if check(t, as(stranger), path, true) == nil {
			t.Fatal("no problem")
		}
		if f, err := os.OpenFile(path, os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		} else if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	for deadline := time.Now().Add(10 * time.Second); others(t) > 0; { // a thread ends a moment after its answer
		if time.Now().After(deadline) {
			t.Fatal("a thread is still another user")
		}
		runtime.Gosched()
	}
}

// others counts the threads that run as another user.
func others(t *testing.T) int {
	t.Helper()
	tasks, err := filepath.Glob("/proc/self/task/*/status")
	if err != nil || len(tasks) == 0 {
		t.Fatalf("got %v, %v", tasks, err)
	}
	n := 0
	for _, task := range tasks {
		if text, err := os.ReadFile(task); err == nil && strings.Contains(string(text), "64999") {
			n++
		}
	}
	return n
}
