package access

import (
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

const monitorID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

// TestMonitorDirFollowsNoLink: whatever QEMU's user has put in place of its directory, or
// into it, nothing outside of it is removed or changed.
func TestMonitorDirFollowsNoLink(t *testing.T) {
	t.Parallel()
	for name, put := range map[string]func(precious, own string) error{
		"a link in place of the directory": func(precious, own string) error { return os.Symlink(precious, own) },
		"a link in the directory": func(precious, own string) error {
			return errors.Join(os.Mkdir(own, 0o700), os.Symlink(precious, filepath.Join(own, "qmp")))
		},
		"a file":  func(_, own string) error { return os.WriteFile(own, nil, 0o600) },
		"nothing": func(_, _ string) error { return nil },
	} {
		dir := t.TempDir()
		precious := filepath.Join(dir, "precious")
		must.OK(t, errors.Join(os.Mkdir(precious, 0o750), os.WriteFile(filepath.Join(precious, "file"), []byte("kept"), 0o640)))
		m := MonitorDirs(filepath.Join(dir, "run", "monitor"))
		must.OK(t, MakeDir(string(m)))
		own := filepath.Join(string(m), monitorID)
		owner := User{Credential: *hostproc.Self()}
		if os.Geteuid() == 0 {
			owner.UID, owner.GID = stranger, stranger
		}
		intact := func() {
			t.Helper()
			info := must.Get(os.Stat(precious))(t)
			text, err := os.ReadFile(filepath.Join(precious, "file"))
			if err != nil || string(text) != "kept" || info.Mode().Perm() != 0o750 || statOf(t, precious).Uid != uint32(os.Geteuid()) {
				t.Errorf("%s: %v %s %q %v", name, info.Mode(), text, text, err)
			}
		}
		must.OK(t, put(precious, own))
		must.OK(t, m.Make(monitorID, owner))
		intact()
		info, err := os.Lstat(own)
		if err != nil || info.Mode() != fs.ModeDir|0o700 || statOf(t, own).Uid != owner.UID {
			t.Errorf("%s: made %v, %v", name, info, err)
		}
		must.OK(t, os.Remove(own))
		must.OK(t, put(precious, own))
		must.OK(t, m.Remove(monitorID))
		intact()
		if _, err := os.Lstat(own); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestMonitorDirParent: a parent that others can write to, or that is a link, is not used;
// nothing outside of it is reached by an invalid UUID.
func TestMonitorDirParent(t *testing.T) {
	t.Parallel()
	self := User{Credential: *hostproc.Self()}
	for name, spoil := range map[string]func(dir string) error{
		"writable":        func(dir string) error { return os.Chmod(dir, 0o777) },
		"sticky":          func(dir string) error { return os.Chmod(dir, 0o777|fs.ModeSticky) },
		"parent writable": func(dir string) error { return os.Chmod(filepath.Dir(dir), 0o777) },
		"a link": func(dir string) error {
			return errors.Join(os.Rename(dir, dir+"2"), os.Symlink(dir+"2", dir))
		},
	} {
		m := MonitorDirs(filepath.Join(t.TempDir(), "run", "monitor"))
		must.OK(t, m.Make(monitorID, self))
		must.OK(t, spoil(string(m)))
		if err := m.Make(monitorID, self); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: made, %v", name, err)
		}
		if err := m.Remove(monitorID); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: removed, %v", name, err)
		}
		if _, _, err := m.Open(monitorID); !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: opened, %v", name, err)
		}
	}
	m := MonitorDirs(filepath.Join(t.TempDir(), "run", "monitor"))
	must.OK(t, m.Remove(monitorID)) // there is no parent
	must.OK(t, MakeDir(string(m)))
	other := filepath.Join(filepath.Dir(string(m)), "other")
	must.OK(t, os.Mkdir(other, 0o700))
	for _, id := range []string{"", ".", "..", "../other", "other", "{" + monitorID + "}", "urn:uuid:" + monitorID} {
		must.OK(t, m.Remove(id))
		if err := m.Make(id, self); err == nil || m.Socket(id) != "" {
			t.Errorf("%q passes for a UUID", id)
		}
	}
	must.Get(os.Stat(other))(t)
}

// TestMonitorIsNoLink: only the socket itself is dialled.
func TestMonitorIsNoLink(t *testing.T) {
	t.Parallel()
	dir := must.Get(os.MkdirTemp("", "monitor"))(t) // the path of a socket is short
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	must.OK(t, os.Chmod(dir, 0o755))
	m := MonitorDirs(filepath.Join(dir, "monitor"))
	must.OK(t, m.Make(monitorID, User{Credential: *hostproc.Self()}))
	foreign := filepath.Join(dir, "foreign")
	for path, name := range map[string]string{foreign: "foreign", m.Socket(monitorID): "own"} {
		listener := must.Get(net.Listen("unix", path))(t)
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write([]byte(name))
				_ = conn.Close()
			}
		}()
	}
	address, end, err := m.Open(monitorID)
	must.OK(t, err)
	conn := must.Get(net.Dial("unix", address))(t)
	said := make([]byte, 10)
	n := must.Get(conn.Read(said))(t)
	_ = conn.Close()
	end()
	if string(said[:n]) != "own" {
		t.Errorf("connected to %s", said[:n])
	}
	own := m.Socket(monitorID)
	for name, put := range map[string]func() error{
		"a link":       func() error { return os.Symlink(foreign, own) },
		"a plain file": func() error { return os.WriteFile(own, nil, 0o600) },
		"nothing":      func() error { return nil },
	} {
		_ = os.Remove(own)
		must.OK(t, put())
		if address, _, err := m.Open(monitorID); err == nil {
			t.Errorf("%s is opened as %s", name, address)
		}
	}
}

func statOf(t *testing.T, path string) *syscall.Stat_t {
	t.Helper()
	return must.Get(os.Lstat(path))(t).Sys().(*syscall.Stat_t)
}
