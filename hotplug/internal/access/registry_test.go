package access

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/opencontainers/selinux/go-selinux"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

func owner(t *testing.T, path string) string {
	t.Helper()
	var st unix.Stat_t
	must.OK(t, unix.Stat(path, &st))
	return fmt.Sprintf("%d:%d", st.Uid, st.Gid)
}

func want(t *testing.T, path, who string) {
	t.Helper()
	if got := owner(t, path); got != who {
		t.Errorf("%s belongs to %s, want %s", filepath.Base(path), got, who)
	}
}

// request requests files for a disk of a VM.
func request(vm, target string, give []string, others ...string) Request {
	t := Request{Use: Use{VM: vm, Target: target, Boot: hostproc.BootID()}, Owner: Owner{UID: stranger}}
	for _, path := range give {
		t.Grant = append(t.Grant, File{Path: path, Write: true})
	}
	t.Files = append(t.Files, t.Grant...)
	for _, path := range others {
		t.Files = append(t.Files, File{Path: path})
	}
	return t
}

// end ends the use of a disk and returns the files that were returned.
func (r Registry) end(t *testing.T, vm, target string) []string {
	t.Helper()
	given, err := r.Revoke(Revocation{Ended: func(u Use) bool { return u.VM == vm && u.Target == target }})
	must.OK(t, err)
	var out []string
	for _, g := range given {
		out = append(out, filepath.Base(g.Path))
	}
	return out
}

// empty checks that the registry is empty.
func (r Registry) empty(t *testing.T) {
	t.Helper()
	entries, err := os.ReadDir(r.Dir)
	if err != nil || len(entries) > 0 {
		t.Errorf("left: %v, error %v", entries, err)
	}
}

// TestRegistry: an image and its backing file, which another disk uses as well.
func TestRegistry(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	r := Registry{Dir: filepath.Join(dir, "owners")}
	base, first, second := file(t, filepath.Join(dir, "base"), 0o600), file(t, filepath.Join(dir, "first"), 0o600), file(t, filepath.Join(dir, "second"), 0o600)
	must.OK(t, os.Chown(base, 12, 34))
	link := filepath.Join(dir, "link")
	must.OK(t, os.Symlink("base", link))
	one := request("vm1", "vda", []string{first, base})
	must.OK(t, r.Grant(one))
	must.OK(t, r.Grant(one)) // again
	want(t, first, "64999:0")
	want(t, base, "64999:34")
	// The base already has the owner that the second disk needs, under another name.
	must.OK(t, r.Grant(request("vm2", "vda", []string{second}, link)))
	if back := r.end(t, "vm1", "vda"); len(back) != 1 || back[0] != "first" {
		t.Errorf("went back: %v", back)
	}
	want(t, first, "0:0")
	want(t, base, "64999:34")
	if back := r.end(t, "vm2", "vda"); len(back) != 2 {
		t.Errorf("went back: %v", back)
	}
	want(t, second, "0:0")
	want(t, base, "12:34")
	r.empty(t)
	if back := r.end(t, "vm2", "vda"); len(back) != 0 {
		t.Errorf("went back: %v", back)
	}
}

// TestRegistryOfAnotherProcess: the use of another live process under the same VM and target is neither replaced, nor
// does the end of the second one return the image.
func TestRegistryOfAnotherProcess(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	r := Registry{Dir: filepath.Join(dir, "owners")}
	path := file(t, filepath.Join(dir, "image"), 0o600)
	parent, err1 := hostproc.ProcessOf(os.Getppid())
	self, err2 := hostproc.ProcessOf(os.Getpid())
	must.OK(t, err1, err2)
	theirs, ours := request("vm", "vda", []string{path}), request("vm", "vda", []string{path})
	theirs.Use.Process, theirs.Use.Boot = parent, hostproc.BootID()
	ours.Use.Process, ours.Use.Boot = self, hostproc.BootID()
	must.OK(t, r.Grant(theirs), r.Grant(ours), r.Grant(ours))
	if uses, err := r.Uses("vm"); err != nil || len(uses) != 2 || uses[0].Process != parent || uses[1].Process != self {
		t.Errorf("uses: %+v, %v", uses, err)
	}
	if uses, err := r.Uses("another"); err != nil || len(uses) != 0 {
		t.Errorf("uses of another VM: %+v, %v", uses, err)
	}
	back, err := r.Revoke(Revocation{Ended: func(u Use) bool { return u.Process == self }})
	if err != nil || len(back) != 0 {
		t.Errorf("went back: %v, %v", back, err)
	}
	want(t, path, "64999:0")
	must.Get(r.Revoke(Revocation{Ended: func(u Use) bool { return u.Process == parent }}))(t)
	want(t, path, "0:0")
	r.empty(t)
}

// TestRegistryInterrupted: a run that was killed before or after the owner was
// changed, a VM that is gone, and a host that was started again.
func TestRegistryInterrupted(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	path := file(t, filepath.Join(dir, "image"), 0o600)
	gone := hostproc.Process{PID: os.Getpid(), Start: 1}
	for name, c := range map[string]struct {
		use  Use
		uid  int
		ends string // target that is said to have ended
	}{
		"before the change":   {Use{VM: "vm", Target: "vda", Boot: hostproc.BootID()}, 0, "vda"},
		"after the change":    {Use{VM: "vm", Target: "vda", Boot: hostproc.BootID()}, stranger, "vda"},
		"the VM is gone":      {Use{VM: "vm", Target: "vda", Boot: hostproc.BootID(), Process: gone}, stranger, ""},
		"the host was off":    {Use{VM: "vm", Target: "vda", Boot: "before"}, stranger, ""},
		"another owner since": {Use{VM: "vm", Target: "vda", Boot: hostproc.BootID()}, 4711, "vda"},
	} {
		r := Registry{Dir: filepath.Join(dir, strings.ReplaceAll(name, " ", "-"))}
		must.OK(t, os.Chown(path, 0, 0))
		tk := request("vm", "vda", []string{path})
		tk.Use = c.use
		must.OK(t, r.Grant(tk))
		must.OK(t, os.Chown(path, c.uid, 0))
		r.end(t, "vm", c.ends)
		if c.uid == stranger {
			want(t, path, "0:0")
		} else {
			want(t, path, fmt.Sprintf("%d:0", c.uid))
		}
		r.empty(t)
	}
}

// TestRegistryMigration: a host leaves the files of a VM that has migrated as they are, and
// the destination, which has not given them away, does not take them back.
func TestRegistryMigration(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	path := file(t, filepath.Join(dir, "image"), 0o600)
	must.OK(t, os.Chown(path, 12, 34))
	source, destination := Registry{Dir: filepath.Join(dir, "source")}, Registry{Dir: filepath.Join(dir, "destination")}
	must.OK(t, source.Grant(request("vm", "vda", []string{path})))
	must.OK(t, destination.Grant(request("vm", "vda", nil, path))) // finds it as it should be
	if _, err := source.Revoke(Revocation{Stay: true, Ended: func(Use) bool { return true }}); err != nil {
		t.Fatal(err)
	}
	source.empty(t)
	want(t, path, "64999:34")
	destination.end(t, "vm", "vda")
	want(t, path, "64999:34")
}

// TestRegistryRefuses: files with which more than an image would be given away are refused.
func TestRegistryRefuses(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := t.TempDir()
	r := Registry{Dir: filepath.Join(dir, "owners")}
	path := file(t, filepath.Join(dir, "image"), 0o600)
	must.OK(t, os.Link(path, filepath.Join(dir, "other")))
	for _, path := range []string{path, dir, filepath.Join(dir, "missing")} {
		if err := r.Grant(request("vm", "vda", []string{path})); err == nil {
			t.Errorf("%s was given away", path)
		}
	}
	want(t, path, "0:0")
	r.empty(t)
	// A file that has replaced the image keeps its owner.
	must.OK(t, os.Remove(filepath.Join(dir, "other")))
	must.OK(t, r.Grant(request("vm", "vda", []string{path})))
	other := file(t, filepath.Join(dir, "new"), 0o600)
	must.OK(t, os.Chown(other, stranger, 0))
	must.OK(t, os.Rename(other, path))
	if back := r.end(t, "vm", "vda"); len(back) > 0 {
		t.Errorf("went back: %v", back)
	}
	want(t, path, "64999:0")
	r.empty(t)
}

// TestRegistryLabel: the SELinux label is set and restored with the owner. Whether the
// kernel enforces it does not matter here.
func TestRegistryLabel(t *testing.T) {
	t.Parallel()
	needRoot(t)
	const was, is = "system_u:object_r:virt_image_t:s0", "system_u:object_r:svirt_image_t:s0:c392,c662"
	dir := t.TempDir()
	r := Registry{Dir: filepath.Join(dir, "owners")}
	path := file(t, filepath.Join(dir, "image"), 0o600)
	if err := selinux.SetFileLabel(path, was); err != nil {
		t.Skipf("no label can be set here: %v", err)
	}
	tk := request("vm", "vda", []string{path})
	tk.Owner.Label = is
	must.OK(t, r.Grant(tk))
	if got, err := selinux.FileLabel(path); err != nil || got != is {
		t.Errorf("got %q, %v", got, err)
	}
	r.end(t, "vm", "vda")
	if got, err := selinux.FileLabel(path); err != nil || got != was {
		t.Errorf("got %q, %v", got, err)
	}
	want(t, path, "0:0")
}

// TestUntrustedRegistry: owners in a directory that others can change are not believed.
func TestUntrustedRegistry(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	image := file(t, filepath.Join(dir, "image"), 0o600)
	r := Registry{Dir: filepath.Join(dir, "owners")}
	must.OK(t, r.Grant(request("vm1", "vdb", []string{image})), os.Chmod(r.Dir, 0o777))
	_, err := r.Revoke(Revocation{Ended: func(Use) bool { return true }})
	for what, err := range map[string]error{"grant": r.Grant(request("vm1", "vdc", []string{image})), "revoke": err} {
		if !errors.Is(err, fsutil.ErrUntrusted) {
			t.Errorf("%s: %v, want ErrUntrusted", what, err)
		}
	}
	want(t, image, "64999:0")
	must.OK(t, os.Chmod(r.Dir, 0o700))
	r.end(t, "vm1", "vdb")
	want(t, image, "0:0")
	r.empty(t)
}
