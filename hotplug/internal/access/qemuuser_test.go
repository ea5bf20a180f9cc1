package access

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// TestQEMUUser: the user is what libvirt has reported, else that of its configuration, else
// the owner of its directory; a file that others can write does not count.
func TestQEMUUser(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	q := QEMUUser{Noted: filepath.Join(dir, "var", "qemu-user.json"), Config: filepath.Join(dir, "qemu.conf"), State: filepath.Join(dir, "qemu")}
	want := func(what string, uid, gid uint32) {
		t.Helper()
		got, err := q.Find()
		if err != nil || got.UID != uid || got.GID != gid {
			t.Errorf("%s: got %v, %v, want %d:%d", what, got, err, uid, gid)
		}
	}
	if got, err := q.Find(); err == nil {
		t.Errorf("without anything: got %v", got)
	}
	must.OK(t, os.Mkdir(q.State, 0o750))
	must.OK(t, os.Chown(q.State, stranger, 34))
	want("the directory", stranger, 34)
	configure := func(text string) { must.OK(t, os.WriteFile(q.Config, []byte(text), 0o600)) }
	configure("#user = \"root\"\n")
	want("a comment", stranger, 34)
	configure("x = 1\nuser = \"+4711\" # or so\ngroup = \"+12\"\n")
	want("numbers", 4711, 12)
	configure("user = 'root'\n")
	want("a name", 0, 0)
	configure("user = \"no such user\"\n")
	want("an unknown name", stranger, 34)
	configure("user = \"4712\"\ngroup=\"13\"")
	want("a number without a sign", 4712, 13)
	must.OK(t, q.Note(hostproc.Credential{UID: 4713, GID: 14}))
	want("what libvirt has reported", 4713, 14)
	must.OK(t, q.Note(hostproc.Credential{UID: 4714, GID: 14}))
	want("what libvirt has reported last", 4714, 14)
	for name, spoil := range map[string]func() error{
		"writable":          func() error { return os.Chmod(q.Noted, 0o666) },
		"another user's":    func() error { return os.Chown(q.Noted, stranger, 0) },
		"damaged":           func() error { return os.WriteFile(q.Noted, []byte(`{"uid":1}`), 0o644) },
		"a link":            func() error { return os.Symlink(q.Config, q.Noted) },
		"not a number":      func() error { return os.WriteFile(q.Noted, []byte(`{"uid":-1,"gid":"x"}`), 0o644) },
		"of another format": func() error { return os.WriteFile(q.Noted, []byte("root"), 0o644) },
	} {
		must.OK(t, q.Note(hostproc.Credential{UID: 4714, GID: 14}))
		if name == "a link" {
			must.OK(t, os.Remove(q.Noted))
		}
		must.OK(t, spoil())
		want(name, 4712, 13)
		must.OK(t, os.Remove(q.Noted))
	}
}
