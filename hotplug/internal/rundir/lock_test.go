package rundir

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
)

// TestLocksAreNotWhereOthersWrite: no user can hold a VM's lock of root's. Its directory
// is below one that only root can change.
func TestLocksAreNotWhereOthersWrite(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root has this directory")
	}
	file := must.Get(LockFileOf("", "an-id-that-no-vm-has"))(t)
	if file.Path != "/run/luksplug/lock/an-id-that-no-vm-has.lock" {
		t.Errorf("got %+v", file)
	}
	for dir := filepath.Dir(file.Path); dir != "/"; dir = filepath.Dir(dir) {
		var st unix.Stat_t
		must.OK(t, unix.Lstat(dir, &st))
		if st.Uid != 0 || st.Mode&0o022 != 0 {
			t.Errorf("%s belongs to user %d, mode %04o", dir, st.Uid, st.Mode&0o7777)
		}
	}
}

// TestUntrustedLockDirectory: a lock directory that others can write to is refused.
func TestUntrustedLockDirectory(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "lock")
	must.OK(t, os.Mkdir(dir, 0o700), os.Chmod(dir, 0o777|os.ModeSticky))
	if _, err := LockFileOf(dir, "id"); !errors.Is(err, fsutil.ErrUntrusted) {
		t.Errorf("got %v", err)
	}
	if entries := must.Get(os.ReadDir(dir))(t); len(entries) > 0 {
		t.Errorf("made %v", entries)
	}
}

// TestLockOfAnEarlierVersion: a run of a version with another lock directory excludes this
// one, and the reverse, unless a user can have made that directory.
func TestLockOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	earlier := filepath.Join(top, "earlier")
	file := LockFile{Path: filepath.Join(top, "id.lock"), Earlier: filepath.Join(earlier, "id.lock")}
	take := func() error {
		l, err := TryLock(file)
		if err == nil {
			l.Release()
		}
		return err
	}
	must.OK(t, take())
	if _, err := os.Stat(earlier); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory was made: %v", err)
	}
	must.OK(t, os.Mkdir(earlier, 0o700))
	theirs := must.Get(tryFile(file.Earlier))(t)
	if err := take(); !errors.Is(err, fsutil.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	var locked *outcome.LockedError
	if _, err := TakeLock(ctx, file, func(int) {}); !errors.As(err, &locked) || locked.Path != file.Earlier || locked.Holder != os.Getpid() {
		t.Errorf("got %v", err)
	}
	must.OK(t, os.Chmod(earlier, 0o777))
	must.OK(t, take()) // a user holds it
	must.OK(t, os.Chmod(earlier, 0o700), theirs.Close())
	ours := must.Get(TryLock(file))(t)
	if _, err := tryFile(file.Earlier); !errors.Is(err, fsutil.ErrLocked) {
		t.Errorf("got %v, want ErrLocked", err)
	}
	ours.Release()
	for _, path := range []string{file.Path, file.Earlier} {
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s: %v", path, err)
		}
	}
}

// TestUntrustedRunDirectory: notes and files for QEMU are neither read nor written in a
// directory that others can change.
func TestUntrustedRunDirectory(t *testing.T) {
	t.Parallel()
	top := t.TempDir()
	base := filepath.Join(top, "vm")
	must.OK(t, os.MkdirAll(filepath.Join(base, "id"), 0o711))
	vm := VM{Base: must.Get(BaseOf(base))(t), ID: "id"}
	must.OK(t, vm.Check(), vm.Make())
	for name, c := range map[string]struct {
		dir  string
		base bool // the base itself is refused
	}{"the VM's": {vm.Path(), false}, "the base": {base, true}} {
		must.OK(t, os.Chmod(c.dir, 0o777))
		for what, err := range map[string]error{"check": vm.Check(), "make": vm.Make(), "note": vm.WriteNote(Note{Target: "vdb"}), "arrive": vm.Arrive("restore")} {
			if !errors.Is(err, fsutil.ErrUntrusted) {
				t.Errorf("%s: %s: %v", name, what, err)
			}
		}
		if _, err := BaseOf(base); errors.Is(err, fsutil.ErrUntrusted) != c.base {
			t.Errorf("%s: %v", name, err)
		}
		must.OK(t, os.Chmod(c.dir, 0o711))
	}
	if entries := must.Get(os.ReadDir(vm.Path()))(t); len(entries) > 0 {
		t.Errorf("made %v", entries)
	}
}
