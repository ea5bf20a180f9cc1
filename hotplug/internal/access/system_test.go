package access

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
)

// TestSystemFiles: the host's own files, and what is an image.
func TestSystemFiles(t *testing.T) {
	t.Parallel()
	for _, path := range []string{"/etc/shadow", "/etc", "/bin/sh", "/usr/bin/sudo", "/usr/share/a.iso", "/lib/x", "/lib64/x", "/boot/vmlinuz", "/vmlinuz", "/initrd.img", "/proc/1/mem", "/sys/x",
		"/dev/kmem", "/dev/watchdog", "/var/log/auth.log", "/var/spool/cron/root", "/root/.ssh/authorized_keys", "/home/a/.ssh/id", "/home/a/.gnupg/x", "/var/lib/luksplug/secrets/x",
		"/var/lib/luksplug/owners/x", "/var/lib/luksplug/reencrypt/x", "/run/luksplug/secrets/x", "/run/systemd/x", "/var/lib/dpkg/status"} {
		if !isSystem(path, false) {
			t.Errorf("%s is no system file", path)
		}
	}
	for _, path := range []string{"/var/lib/libvirt/images/a", "/var/lib/luksplug/images/a", "/var/lib/luksplug/headers/a", "/srv/a", "/home/a/a.img", "/root/.local/share/libvirt/images/a", "/library/a",
		"/tmp/etc/a", "/mnt/usr/a", "/dev/shm/a", "/etcetera", "/opt/a"} {
		if isSystem(path, false) {
			t.Errorf("%s is a system file", path)
		}
	}
	if isSystem("/dev/vg0/a", true) || !isSystem("/etc/a", true) {
		t.Error("block devices")
	}
}

// TestSystemFilesAreGivenToNobody: neither the registry nor AppArmor gives one away, by its
// path or by a link to it, and no advice names a command for it.
func TestSystemFilesAreGivenToNobody(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	f, err := os.CreateTemp("/var/log", "luksplug-test-")
	must.OK(t, err)
	t.Cleanup(func() { _ = os.Remove(f.Name()) })
	must.OK(t, f.Close())
	link := filepath.Join(dir, "link")
	must.OK(t, os.Symlink(f.Name(), link))
	r := Registry{Dir: filepath.Join(dir, "owners")}
	for _, path := range []string{f.Name(), link} {
		if err := r.Grant(request("vm1", "vda", []string{path})); !errors.Is(err, ErrSystemFile) {
			t.Errorf("%s: %v", path, err)
		}
		files := []File{{Path: path, What: "payload", Write: true}}
		if rules, err := RulesFor(files); !errors.Is(err, ErrSystemFile) {
			t.Errorf("%s in a profile: %v, %v", path, rules, err)
		}
		if p := check(t, as(stranger), path, true); p == nil || p.Fix != "" || p.Relabel {
			t.Errorf("%s: %+v", path, p)
		}
	}
	want(t, f.Name(), "0:0")
}

// TestImpliedFilesAreGivenToNobody: a file that only an image names gets no new owner, no
// label, no line of a profile and no advice.
func TestImpliedFilesAreGivenToNobody(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	named, implied := file(t, filepath.Join(dir, "named"), 0o600), file(t, filepath.Join(dir, "implied"), 0o600)
	files := []File{{Path: named, What: "payload", Write: true}, {Path: implied, What: "image", Implied: true}}
	r := Registry{Dir: filepath.Join(dir, "owners")}
	q := Request{Use: Use{VM: "vm1", Target: "vda", Boot: hostproc.BootID()}, Owner: Owner{UID: stranger}, Files: files, Grant: files}
	must.OK(t, r.Grant(q))
	want(t, named, "64999:0")
	want(t, implied, "0:0")
	if rules := must.Get(RulesFor(files))(t); len(rules) != 1 || rules[0] != (Rule{Path: named, Access: "rwk"}) {
		t.Errorf("in the profile: %v", rules)
	}
	problems, err := Check(as(stranger), files)
	if err != nil || len(problems) != 1 || problems[0].Path != implied || problems[0].Fix != "" || problems[0].Relabel {
		t.Errorf("%+v, %v", problems, err)
	}
}

// TestOtherUsersLinks: a file is neither given away nor returned through a link that another
// user can exchange.
func TestOtherUsersLinks(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	tenant := filepath.Join(dir, "tenant")
	must.OK(t, os.Mkdir(tenant, 0o755), os.Mkdir(filepath.Join(tenant, "images"), 0o755))
	path := file(t, filepath.Join(tenant, "images", "image"), 0o600)
	victim := filepath.Join(dir, "victim")
	must.OK(t, os.Mkdir(victim, 0o755))
	other := file(t, filepath.Join(victim, "image"), 0o600)
	must.OK(t, os.Chown(tenant, 64998, -1))
	r := Registry{Dir: filepath.Join(dir, "owners")}
	must.OK(t, r.Grant(request("vm1", "vda", []string{path})))
	want(t, path, "64999:0")
	// The tenant replaces the directory by a link to another one.
	must.OK(t, os.Rename(filepath.Join(tenant, "images"), filepath.Join(tenant, "old")), os.Symlink(victim, filepath.Join(tenant, "images")))
	must.OK(t, os.Chown(other, stranger, -1))
	if back := r.end(t, "vm1", "vda"); len(back) > 0 {
		t.Errorf("went back: %v", back)
	}
	want(t, other, "64999:0")
	r.empty(t)
	must.OK(t, os.Chown(other, 0, -1))
	if err := r.Grant(request("vm1", "vda", []string{path})); err == nil {
		t.Error("given away through a link of the tenant's")
	}
	want(t, other, "0:0")
}

// TestWhatWasCheckedIsGiven: the file that was checked gets the owner, not another one that
// has its path by then.
func TestWhatWasCheckedIsGiven(t *testing.T) {
	t.Parallel()
	needRoot(t)
	dir := openDir(t)
	path := file(t, filepath.Join(dir, "image"), 0o600)
	h := must.Get(open(path))(t)
	defer h.Close()
	must.OK(t, h.relabelable(), os.Rename(path, filepath.Join(dir, "moved")))
	file(t, path, 0o600)
	must.OK(t, h.giveTo(Owner{UID: stranger}))
	want(t, path, "0:0")
	if h.Stat.Mode&unix.S_IFMT != unix.S_IFREG {
		t.Error("it is no file")
	}
	want(t, filepath.Join(dir, "moved"), "64999:0")
}
