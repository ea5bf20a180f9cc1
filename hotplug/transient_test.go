package hotplug_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// The content of the image, and of what is written over it. Neither may be in an overlay
// of an encrypted disk.
const (
	below   = 'B'
	written = 'W'
)

// transientDisk makes an image filled with one letter. An encrypted one has a header that
// opens at once, unlike those that QEMU makes.
func transientDisk(t *testing.T, format string, encrypted bool, driver string) (*blockgraph.Disk, store) {
	t.Helper()
	path, secret, inSource := filepath.Join(t.TempDir(), "base.img"), store(""), ""
	open := []string{"-f", format, path}
	if encrypted {
		header, err := luks.Fresh()
		if err != nil {
			t.Fatal(err)
		}
		defer header.Wipe()
		if err := makeEncrypted(path, format, header); err != nil {
			t.Fatal(err)
		}
		_ = header.Passphrase().Use(func(p []byte) error { secret = store(p); return nil })
		file := filepath.Join(t.TempDir(), "key")
		if err := os.WriteFile(file, []byte(secret), 0o600); err != nil {
			t.Fatal(err)
		}
		inSource = `<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>`
		options := map[string]string{"raw": "driver=luks,key-secret=s", "qcow2": "driver=qcow2,encrypt.key-secret=s"}[format]
		open = []string{"--object", "secret,id=s,file=" + file, "--image-opts", options + ",file.filename=" + path}
	} else if out, err := exec.Command("qemu-img", "create", "-q", "-f", format, path, "2M").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	out, err := exec.Command("qemu-io", append(open, "-c", fmt.Sprintf("write -P %d 0 2M", below))...).CombinedOutput()
	if err != nil || bytes.Contains(out, []byte("failed")) {
		t.Fatalf("%v: %s", err, out)
	}
	disk, err := diskxml.ParseDisk([]byte(fmt.Sprintf(`<disk type='file'><driver name='qemu' type='%s' %s/>
<source file='%s'>%s</source><target dev='sdb' bus='scsi'/><transient/></disk>`, format, driver, path, inSource)))
	if err != nil {
		t.Fatal(err)
	}
	return disk, secret
}

// makeEncrypted makes an image of 2 MiB, without an image below it.
func makeEncrypted(path, format string, header *luks.EphemeralHeader) error {
	if format == "qcow2" {
		return overlay.Create(path, overlay.Options{Size: 2 << 20, Mark: "no overlay", Header: header})
	}
	err := header.Use(func(h []byte) error { return os.WriteFile(path, h, 0o600) })
	return errors.Join(err, os.Truncate(path, luks.FreshSize+2<<20))
}

// TestTransient writes to transient disks as a guest would: written data can be read, the
// image does not change, the overlay has no name and contains no plaintext of an
// encrypted disk. A detach removes everything.
func TestTransient(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name, format string
		encrypted    bool
		driver       string
		unlock       hotplug.UnlockPolicy
	}{
		{"plain", "raw", false, "", hotplug.UnlockAuto},
		{"plain past the cache", "qcow2", false, "cache='none' copy_on_read='on'", hotplug.UnlockAuto},
		{"ephemeral header", "raw", true, "discard='unmap' detect_zeroes='unmap'", hotplug.UnlockAuto},
		{"by QEMU", "qcow2", true, "", hotplug.UnlockQEMU},
		{"by a storage daemon", "raw", true, "", hotplug.UnlockExternal},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			disk, secret := transientDisk(t, c.format, c.encrypted, c.driver)
			useTransient(t, disk, secret, hotplug.AttachOptions{Unlock: c.unlock})
		})
	}
}

func useTransient(t *testing.T, disk *blockgraph.Disk, secret store, options hotplug.AttachOptions) {
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{Name: "vm1", RunDir: run})
	before, image := state(ctx, t, v), readFile(t, disk.Image.Source.Path)
	at, err := v.Attach(ctx, disk, secret, options)
	if err != nil {
		t.Fatal(err)
	}
	wantAlone(t, disk)
	if at.ReadOnly || at.Size != 2<<20 || at.Payload != disk.Image.Source.Path {
		t.Errorf("attached: %+v", at.AttachedDisk)
	}
	for _, part := range []string{"64k 192k", "1M 512"} {
		monitor(ctx, t, v, fmt.Sprintf(`qemu-io -d luksplug-sdb "write -P %d %s"`, written, part))
	}
	// QEMU does not open the file again, not even when the VM resumes.
	monitor(ctx, t, v, "cont")
	monitor(ctx, t, v, "stop")
	wantContent(ctx, t, v, at.Nodes[0], fmt.Sprintf("read -P %d 64k 192k", written), fmt.Sprintf("read -P %d 1M 512", written),
		fmt.Sprintf("read -P %d 0 64k", below), fmt.Sprintf("read -P %d 256k 768k", below), fmt.Sprintf("read -P %d 1049088 1048064", below))

	overlay := deletedFile(ctx, t, v, at.Daemon)
	for _, letter := range []byte{below, written} {
		if shown := bytes.Contains(overlay, bytes.Repeat([]byte{letter}, 64)); shown == disk.Encrypted() {
			t.Errorf("the overlay shows %c: %t", letter, shown)
		}
	}
	if again, err := v.Attach(ctx, disk, store("never asked for"), options); err != nil || !again.Already {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	other := *disk
	other.Transient = false
	var refused *hotplug.PreflightError
	if _, err := v.Attach(ctx, &other, secret, options); !errors.As(err, &refused) {
		t.Errorf("the disk that is not transient: %v", err)
	}
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	wantNothingLeft(ctx, t, v, before, run)
	wantAlone(t, disk)
	if !bytes.Equal(image, readFile(t, disk.Image.Source.Path)) {
		t.Error("the image has changed")
	}
}

func readFile(t *testing.T, path string) []byte {
	t.Helper()
	content, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return content
}

// wantAlone wants no other file next to the image.
func wantAlone(t *testing.T, disk *blockgraph.Disk) {
	t.Helper()
	entries, err := os.ReadDir(filepath.Dir(disk.Image.Source.Path))
	if err != nil || len(entries) != 1 {
		t.Errorf("next to the image: %v, %v", entries, err)
	}
}

// wantContent reads a node's content through an NBD server: qemu-io in the monitor does
// not report verification failures.
func wantContent(ctx context.Context, t *testing.T, v *hotplug.VM, node string, reads ...string) {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "nbd")
	do := func(command string, arguments qmp.Object) {
		t.Helper()
		if _, err := v.Client().Execute(ctx, qmp.Command{Execute: command, Arguments: arguments}); err != nil {
			t.Fatal(err)
		}
	}
	do("nbd-server-start", qmp.Object{{Name: "addr", Value: qmp.Object{{Name: "type", Value: "unix"}, {Name: "data", Value: qmp.Object{{Name: "path", Value: socket}}}}}})
	do("nbd-server-add", qmp.Object{{Name: "device", Value: node}, {Name: "name", Value: "top"}})
	args := []string{"-r", "-f", "raw", "nbd+unix:///top?socket=" + socket}
	for _, r := range reads {
		args = append(args, "-c", r)
	}
	out, err := exec.Command("qemu-io", args...).CombinedOutput()
	if err != nil || strings.Contains(string(out), "failed") || strings.Count(string(out), "read ") < len(reads) {
		t.Errorf("%v: %s", err, out)
	}
	do("nbd-server-stop", nil)
}

// monitor runs a command of the human monitor.
func monitor(ctx context.Context, t *testing.T, v *hotplug.VM, line string) string {
	t.Helper()
	value, err := v.Client().Execute(ctx, qmp.Command{Execute: "human-monitor-command", Arguments: qmp.Object{{Name: "command-line", Value: line}}})
	if err != nil {
		t.Fatal(err)
	}
	var out string
	if err := json.Unmarshal(value, &out); err != nil {
		t.Fatal(err)
	}
	return out
}

// deletedFile reads the overlay, which QEMU or the storage daemon has open and which has
// no name.
func deletedFile(ctx context.Context, t *testing.T, v *hotplug.VM, daemon int) []byte {
	t.Helper()
	pid := daemon
	if pid == 0 {
		pid, _ = v.Client().PeerPID()
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", pid))
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range links {
		if name, err := os.Readlink(link); err == nil && strings.HasSuffix(name, ".TRANSIENT-vm1 (deleted)") {
			info, err := os.Stat(link)
			if err != nil || info.Mode() != 0o600 {
				t.Errorf("%v %+v", err, info)
			}
			return readFile(t, link)
		}
	}
	t.Fatalf("process %d has no overlay open, in %d files", pid, len(links))
	return nil
}

// TestTransientRefused: obstacles to an overlay are found before anything is changed, and
// a file at its path stays.
func TestTransientRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{Name: "vm1"})
	disk, _ := transientDisk(t, "raw", false, "")
	path := disk.Image.Source.Path + ".TRANSIENT-vm1"
	if err := overlay.Create(path, overlay.Options{Size: 512, Mark: "another VM's"}); err != nil {
		t.Fatal(err)
	}
	theirs := readFile(t, path)
	before := state(ctx, t, v)
	var refused *hotplug.PreflightError
	if _, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{}); !errors.As(err, &refused) || !errors.Is(err, overlay.ErrForeign) || !strings.Contains(err.Error(), path) {
		t.Errorf("over another file: %v", err)
	}
	if !bytes.Equal(theirs, readFile(t, path)) {
		t.Error("the other file has been changed")
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	s, dir := starting(t)
	var unsupported *blockgraph.UnsupportedError
	if err := s.Prepare(ctx, coldstart.Disk{Disk: disk}, coldstart.ArrivalBoot, nil); !errors.As(err, &unsupported) || unsupported.Element != "disk/transient" {
		t.Errorf("for a VM that is about to start: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left on the host: %v, %v", left, err)
	}
}

// TestTransientShared: two VMs have the same image, each with its own writes.
func TestTransientShared(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	disk, secret := transientDisk(t, "raw", true, "")
	var vms [2]*hotplug.VM
	for i := range vms {
		v, _ := vm(t, hotplug.Options{Name: fmt.Sprintf("vm%d", i+1)})
		vms[i] = v
		if _, err := v.Attach(ctx, disk, secret, hotplug.AttachOptions{}); err != nil {
			t.Fatal(err)
		}
		monitor(ctx, t, v, fmt.Sprintf(`qemu-io -d luksplug-sdb "write -P %d 0 64k"`, i+1))
	}
	for i, v := range vms {
		wantContent(ctx, t, v, "luksplug-sdb-overlay-format", fmt.Sprintf("read -P %d 0 64k", i+1), fmt.Sprintf("read -P %d 64k 64k", below))
	}
	other := *disk
	other.Transient = false
	var refused *hotplug.PreflightError
	v, _ := vm(t, hotplug.Options{Name: "vm3"})
	if _, err := v.Attach(ctx, &other, secret, hotplug.AttachOptions{}); !errors.As(err, &refused) {
		t.Errorf("a disk that would write to the image below them: %v", err)
	}
}

// TestTransientFails: any failure after the overlay was made leaves nothing of it.
func TestTransientFails(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{Name: "vm1", RunDir: run})
	before := state(ctx, t, v)
	for _, unlock := range []hotplug.UnlockPolicy{hotplug.UnlockAuto, hotplug.UnlockExternal} {
		disk, secret := transientDisk(t, "raw", unlock == hotplug.UnlockExternal, "")
		disk.Serial = strings.Repeat("s", 300) // QEMU refuses it
		var back *hotplug.RolledBackError
		if _, err := v.Attach(ctx, disk, secret, hotplug.AttachOptions{Unlock: unlock}); !errors.As(err, &back) {
			t.Errorf("%s: %v", unlock, err)
		}
		wantAlone(t, disk)
		wantNothingLeft(ctx, t, v, before, run)
	}
}

// TestTransientLeftover: an overlay that an interrupted run has left next to the image is
// removed by a repair, by the next attach, and when the VM is gone. A foreign file with
// that name stays.
func TestTransientLeftover(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s, run := starting(t)
	v, _ := vm(t, hotplug.Options{Name: "vm1", RunDir: run})
	disk, _ := transientDisk(t, "raw", false, "")
	path := disk.Image.Source.Path + ".TRANSIENT-vm1"
	// An attach shows under which name the host knows the VM.
	if _, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(run)
	if err != nil || len(entries) != 1 {
		t.Fatal(entries, err)
	}
	id := entries[0].Name()
	note := readFile(t, filepath.Join(run, id, "sdb.json"))
	if !bytes.Contains(note, []byte(path)) {
		t.Errorf("the note: %s", note)
	}
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	leave := func(vm, mark string) {
		t.Helper()
		dir := filepath.Join(run, vm)
		if err := os.MkdirAll(dir, 0o711); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, "sdb.json"), note, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := overlay.Create(path, overlay.Options{Size: 512, Mark: mark}); err != nil {
			t.Fatal(err)
		}
	}

	leave(id, id+"/sdb")
	if list, err := v.List(ctx); err != nil || len(list) != 1 || !strings.Contains(fmt.Sprint(list[0].Left()), path) {
		t.Errorf("list: %+v, %v", list, err)
	}
	if repaired, err := v.Repair(ctx); err != nil || len(repaired) != 1 {
		t.Errorf("repair: %+v, %v", repaired, err)
	}
	wantAlone(t, disk)

	// Without its note, the file still identifies itself by its mark.
	if err := overlay.Create(path, overlay.Options{Size: 512, Mark: id + "/sdb"}); err != nil {
		t.Fatal(err)
	}
	if _, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{}); err != nil {
		t.Error(err)
	}
	wantAlone(t, disk)
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}

	note = regexp.MustCompile(`"start":\d+`).ReplaceAll(note, []byte(`"start":1`)) // of a process that has ended
	leave(startID, startID+"/sdb")
	if err := s.Gone(ctx); err != nil {
		t.Error(err)
	}
	wantAlone(t, disk)

	leave(startID, "another disk's")
	if err := s.Gone(ctx); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("another file is gone: %v", err)
	}
}
