package overlay_test

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

func fresh(t *testing.T) *luks.EphemeralHeader {
	t.Helper()
	h, err := luks.Fresh()
	must.OK(t, err)
	t.Cleanup(h.Wipe)
	return h
}

// run runs one of QEMU's programs.
func run(t *testing.T, name string, args ...string) string {
	t.Helper()
	if _, err := exec.LookPath(name); err != nil {
		t.Skipf("%s is not installed: make setup", name)
	}
	out, err := exec.Command(name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %v: %v: %s", name, args, err, out)
	}
	return string(out)
}

// TestQEMUUsesIt has QEMU check and use overlays of every size that matters: written data
// can be read, other data comes from below, and an encrypted file shows no plaintext.
func TestQEMUUsesIt(t *testing.T) {
	t.Parallel()
	const gib = 1 << 30
	for _, size := range []int64{512, 1 << 20, gib / 2, gib/2 + 512, 5 << 10 * gib} {
		for _, encrypted := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d bytes encrypted %t", size, encrypted), func(t *testing.T) {
				t.Parallel()
				useIt(t, size, encrypted)
			})
		}
	}
}

func useIt(t *testing.T, size int64, encrypted bool) {
	dir := t.TempDir()
	path, base, key := filepath.Join(dir, "overlay"), filepath.Join(dir, "base"), filepath.Join(dir, "key")
	o := overlay.Options{Size: size, Mark: "vm/vdb"}
	options := "driver=qcow2,file.driver=file,file.filename=" + path
	check := []string{"check", "-f", "qcow2", path}
	if encrypted {
		o.Header = fresh(t)
		must.OK(t, o.Header.Passphrase().Use(func(p []byte) error { return os.WriteFile(key, p, 0o600) }))
		options += ",encrypt.format=luks,encrypt.key-secret=s"
		check = []string{"check", "--object", "secret,id=s,file=" + key, "--image-opts", options}
	}
	must.OK(t, overlay.Create(path, o))
	if out := run(t, "qemu-img", check...); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	must.OK(t, os.WriteFile(base, bytes.Repeat([]byte{'B'}, 512), 0o600))
	if err := os.Truncate(base, size); err != nil {
		t.Skipf("no files of %d bytes here: %v", size, err)
	}
	below := ",backing.driver=raw,backing.file.driver=file,backing.file.filename=" + base
	io := []string{"--image-opts", options + below, "-c", "read -P 66 0 512"}
	if size > 4096 {
		last := size - 512
		io = append(io, "-c", fmt.Sprintf("write -P 87 %d 512", last), "-c", fmt.Sprintf("read -P 87 %d 512", last), "-c", fmt.Sprintf("read -P 0 %d 512", last-512))
	} else {
		io = append(io, "-c", "write -P 87 0 512", "-c", "read -P 87 0 512")
	}
	if encrypted {
		io = append([]string{"--object", "secret,id=s,file=" + key}, io...)
	}
	if out := run(t, "qemu-io", io...); strings.Contains(out, "failed") {
		t.Error(out)
	}
	if out := run(t, "qemu-img", check...); !strings.Contains(out, "No errors were found") {
		t.Error(out)
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode() != 0o600 || info.Sys().(*syscall.Stat_t).Blocks*512 > 4<<20 {
		t.Errorf("%v %+v", err, info)
	}
	content, err := os.ReadFile(path)
	must.OK(t, err)
	if shown := bytes.Contains(content, bytes.Repeat([]byte{'W'}, 64)) || bytes.Contains(content, bytes.Repeat([]byte{'B'}, 64)); shown == encrypted {
		t.Errorf("the file shows what was written: %t", shown)
	}
	if err := overlay.Check(path, "vm/vdb"); err != nil {
		t.Errorf("after QEMU has written to it: %v", err) // the mark is where it was
	}
}

// TestOwnReader: package image reads the overlay.
func TestOwnReader(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "overlay")
	must.OK(t, overlay.Create(path, overlay.Options{Size: 3 << 20, Mark: strings.Repeat("m", overlay.MaxMark), Header: fresh(t)}))
	info, err := image.Probe(path)
	must.OK(t, err)
	if q := info.Qcow2; q.Crypt != image.CryptLUKS || q.VirtualSize != 3<<20 || q.HasBacking || q.LUKS.PayloadOffset() != luks.FreshSize {
		t.Errorf("%+v", q)
	}
}

func TestCreateRefuses(t *testing.T) {
	t.Parallel()
	wiped := fresh(t)
	wiped.Wipe()
	for name, o := range map[string]overlay.Options{
		"nothing below": {Mark: "m"}, "too large": {Mark: "m", Size: 1 << 62}, "no mark": {Size: 512},
		"long mark": {Size: 512, Mark: strings.Repeat("m", overlay.MaxMark+1)}, "wiped header": {Size: 512, Mark: "m", Header: wiped},
	} {
		path := filepath.Join(t.TempDir(), "overlay")
		err := overlay.Create(path, o)
		if _, left := os.Lstat(path); err == nil || !errors.Is(left, fs.ErrNotExist) {
			t.Errorf("%s: %v; left behind: %v", name, err, left)
		}
	}
	path := filepath.Join(t.TempDir(), "overlay")
	must.OK(t, os.WriteFile(path, []byte("precious"), 0o600))
	if err := overlay.Create(path, overlay.Options{Size: 512, Mark: "m"}); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over another file: %v", err)
	}
	if b, err := os.ReadFile(path); string(b) != "precious" {
		t.Errorf("the other file is %q (%v)", b, err)
	}
}

// TestOwner: only QEMU's user can open the file.
func TestOwner(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file to another user")
	}
	path := filepath.Join(t.TempDir(), "overlay")
	must.OK(t, overlay.Create(path, overlay.Options{Size: 512, Mark: "m", Owner: &hostproc.Credential{UID: 65534, GID: 65533}}))
	info, err := os.Stat(path)
	must.OK(t, err)
	if s := info.Sys().(*syscall.Stat_t); s.Uid != 65534 || s.Gid != 65533 || info.Mode() != 0o600 {
		t.Errorf("%d:%d %v", s.Uid, s.Gid, info.Mode())
	}
}

// TestLabel: a confined QEMU opens only files with its label.
func TestLabel(t *testing.T) {
	t.Parallel()
	path, label := filepath.Join(t.TempDir(), "overlay"), "system_u:object_r:svirt_image_t:s0:c1,c2"
	err := overlay.Create(path, overlay.Options{Size: 512, Mark: "m", Label: label})
	if errors.Is(err, syscall.ENOTSUP) || errors.Is(err, syscall.EPERM) {
		if _, left := os.Lstat(path); !errors.Is(left, fs.ErrNotExist) {
			t.Errorf("left behind: %v", left)
		}
		t.Skipf("no labels here: %v", err)
	}
	must.OK(t, err)
	b := make([]byte, 100)
	if n, err := syscall.Getxattr(path, "security.selinux", b); err != nil || string(b[:n]) != label+"\x00" {
		t.Errorf("%q %v", b[:n], err)
	}
}

// TestRemove: only a file of Create for the same disk is removed, complete or not.
func TestRemove(t *testing.T) {
	t.Parallel()
	make := map[string]func(path string) error{
		"own":   func(p string) error { return overlay.Create(p, overlay.Options{Size: 512, Mark: "vm/vdb"}) },
		"empty": func(p string) error { return os.WriteFile(p, nil, 0o600) },
		"none":  func(string) error { return nil },
		"of another disk": func(p string) error {
			return overlay.Create(p, overlay.Options{Size: 512, Mark: "vm/vdb1"})
		},
		"text":      func(p string) error { return os.WriteFile(p, []byte("vm/vdb"), 0o600) },
		"directory": func(p string) error { return os.Mkdir(p, 0o700) },
		"pipe":      func(p string) error { return syscall.Mkfifo(p, 0o600) },
		"link": func(p string) error {
			if err := overlay.Create(p+".there", overlay.Options{Size: 512, Mark: "vm/vdb"}); err != nil {
				return err
			}
			return os.Symlink(p+".there", p)
		},
	}
	goes := map[string]bool{"own": true, "empty": true, "none": true}
	for name, f := range make {
		path := filepath.Join(t.TempDir(), "overlay")
		must.OK(t, f(path))
		err := overlay.Remove(path, "vm/vdb")
		_, there := os.Lstat(path)
		switch {
		case goes[name] && (err != nil || !errors.Is(there, fs.ErrNotExist)):
			t.Errorf("%s: %v, and then %v", name, err, there)
		case !goes[name] && (!errors.Is(err, overlay.ErrForeign) || there != nil):
			t.Errorf("%s: %v, and then %v", name, err, there)
		}
	}
}

// TestOverlayBehindAnotherUsersLink: an overlay is neither made nor removed in a directory
// that another user can exchange by a link.
func TestOverlayBehindAnotherUsersLink(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	shared, victim := filepath.Join(dir, "shared"), filepath.Join(dir, "victim")
	must.OK(t, os.Mkdir(shared, 0o700), os.Mkdir(victim, 0o700), os.Symlink(victim, filepath.Join(shared, "images")), os.Chmod(shared, 0o777))
	path, target := filepath.Join(shared, "images", "overlay"), filepath.Join(victim, "overlay")
	if err := overlay.Create(path, overlay.Options{Size: 512, Mark: "m"}); !errors.Is(err, fsutil.ErrUnsafeLink) {
		t.Errorf("made: %v", err)
	}
	must.OK(t, overlay.Create(target, overlay.Options{Size: 512, Mark: "m"}))
	if err := overlay.Remove(path, "m"); !errors.Is(err, fsutil.ErrUnsafeLink) {
		t.Errorf("removed: %v", err)
	}
	must.OK(t, overlay.Check(target, "m"), overlay.Remove(target, "m"))
}

func Example() {
	dir, err := os.MkdirTemp("", "overlay-")
	if err != nil {
		panic(err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	path, mark := filepath.Join(dir, "vm1.img.TRANSIENT-vm1"), "6695eb01-f6a4-8304-79aa-97f2502e193f/vdb"
	if err := overlay.Create(path, overlay.Options{Size: 10 << 30, Mark: mark}); err != nil {
		panic(err)
	}
	fmt.Println(overlay.Check(path, mark))
	fmt.Println(overlay.Check(path, "another"))
	fmt.Println(overlay.Remove(path, mark))
	// Output:
	// <nil>
	// it is not an overlay that luksplug has made for this disk
	// <nil>
}
