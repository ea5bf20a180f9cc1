package hotplug_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets/luks"
)

// serve exports an image over NBD, to one client at a time as most servers do.
func serve(t *testing.T, path string) (socket string) {
	t.Helper()
	if _, err := exec.LookPath("qemu-nbd"); err != nil {
		t.Skip("qemu-nbd is not installed: make setup")
	}
	dir, err := os.MkdirTemp("", "luksplug-nbd-") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	socket = filepath.Join(dir, "nbd.sock")
	cmd := exec.Command("qemu-nbd", "--format", "raw", "--persistent", "--export-name", "disk", "--socket", socket, path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	for range 500 {
		if _, err := os.Stat(socket); err == nil {
			return socket
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen")
	return ""
}

// remoteDisk is a disk whose volume is behind an NBD server.
func remoteDisk(t *testing.T, target, socket, header string) *blockgraph.Disk {
	t.Helper()
	inner := "<secret type='passphrase' usage='test'/>"
	if header != "" {
		inner += "<header type='network'><source protocol='nbd' name='disk'><host transport='unix' socket='" + header + "'/></source></header>"
	}
	disk, err := diskxml.ParseDisk([]byte(fmt.Sprintf(`<disk type='network' device='disk'><driver name='qemu' type='raw'/>
  <source protocol='nbd' name='disk'><host transport='unix' socket='%s'/><encryption format='luks'>%s</encryption></source>
  <target dev='%s' bus='scsi'/></disk>`, socket, inner, target)))
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// TestRemoteHeader: the header of an image on a server is read through a storage daemon,
// which has ended before QEMU opens the image.
func TestRemoteHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	steps := 0
	v, _ := vm(t, hotplug.Options{RunDir: run, OnStep: func(hotplug.StepReport) { steps++ }})
	before := state(ctx, t, v)
	volume := luksDisk(t, "sdb").Image.Source.Path
	disk := remoteDisk(t, "sdb", serve(t, volume), "")

	if _, err := v.Attach(ctx, disk, store("another"), hotplug.AttachOptions{}); !errors.Is(err, luks.ErrWrongPassphrase) || steps != 0 {
		t.Errorf("wrong passphrase: %d steps, %v", steps, err)
	}
	at, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{})
	if err != nil {
		t.Fatal(err)
	}
	if at.Unlock != blockgraph.MethodEphemeralHeader || at.Size != 8<<20 || at.Daemon != 0 || at.UUID == "" || len(at.Cleared) != 0 {
		t.Errorf("attached: %+v", at)
	}
	if again, err := v.Attach(ctx, disk, store("never asked for"), hotplug.AttachOptions{}); err != nil || !again.Already {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	other := *disk
	other.Target = "sdc"
	var refused *hotplug.PreflightError
	if _, err := v.Attach(ctx, &other, store(key), hotplug.AttachOptions{}); !errors.As(err, &refused) {
		t.Errorf("the same image twice: %v", err)
	}
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Error(err)
	}
	wantNothingLeft(ctx, t, v, before, run)
}

// TestRemoteHeaderShared: a detached header on a server serves one disk, unless sharing
// is allowed.
func TestRemoteHeaderShared(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	var said bytes.Buffer
	log := logrus.New()
	log.SetOutput(&said)
	v, _ := vm(t, hotplug.Options{Log: log})
	header, payload, other := filepath.Join(t.TempDir(), "header"), filepath.Join(t.TempDir(), "payload"), filepath.Join(t.TempDir(), "other")
	for _, path := range []string{header, payload, other} {
		if err := errors.Join(os.WriteFile(path, nil, 0o600), os.Truncate(path, 8<<20)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("cryptsetup", "luksFormat", "--batch-mode", "--type", "luks1", "--pbkdf-force-iterations", "1000",
		"--align-payload", "0", "--key-file", keyFile(t), "--header", header, payload).CombinedOutput()
	if err != nil {
		t.Skipf("cryptsetup: %v: %s", err, out)
	}
	first := remoteDisk(t, "sdb", serve(t, payload), serve(t, header))
	second := remoteDisk(t, "sdc", serve(t, other), serve(t, header))
	if _, err := v.Attach(ctx, first, store(key), hotplug.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	var refused *hotplug.PreflightError
	if _, err := v.Attach(ctx, second, store(key), hotplug.AttachOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "in use by disk sdb") {
		t.Errorf("the same header twice: %v", err)
	}
	if _, err := v.Attach(ctx, second, store(key), hotplug.AttachOptions{Spec: hotplug.Spec{AllowSharedHeader: true}}); err != nil {
		t.Errorf("allowed: %v", err)
	}
	if n := strings.Count(said.String(), "as was allowed: both payloads have the same key"); n != 1 {
		t.Errorf("said %d times that both payloads have the same key: %s", n, &said)
	}
}

// TestRemoteServerHangs: a server that accepts a connection and sends nothing delays
// luksplug, and not the VM.
func TestRemoteServerHangs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	dir, err := os.MkdirTemp("", "luksplug-nbd-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	l, err := net.Listen("unix", filepath.Join(dir, "nbd.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = l.Close() }() // the test ends
	short, cancel := context.WithTimeout(ctx, 500*time.Millisecond)
	defer cancel()
	if _, err := v.Attach(short, remoteDisk(t, "sdb", filepath.Join(dir, "nbd.sock"), ""), store(key), hotplug.AttachOptions{}); err == nil {
		t.Error("attached")
	}
	wantNothingLeft(ctx, t, v, before, run)
}

// TestSizeChanges: if the payload's size changes after its header was read, the attach is
// rolled back before the guest sees the disk.
func TestSizeChanges(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	var payload string
	devices := 0
	v, _ := vm(t, hotplug.Options{OnStep: func(r hotplug.StepReport) {
		switch r.Step.Kind {
		case blockgraph.StepFDSet: // the payload is opened after it
			if err := os.Truncate(payload, 12<<20); err != nil {
				t.Error(err)
			}
		case blockgraph.StepDevice:
			devices++
		}
	}})
	before := state(ctx, t, v)
	disk := luksDisk(t, "sdb")
	payload = disk.Image.Source.Path
	_, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{})
	var back *hotplug.RolledBackError
	if !errors.As(err, &back) || !strings.Contains(err.Error(), "another size") || devices != 0 {
		t.Errorf("%d devices, %v", devices, err)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestLookAtSlice: a LUKS volume in a slice of a file is found, as in a whole file, if
// the XML has no <encryption>.
func TestLookAtSlice(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	volume, err := os.ReadFile(luksDisk(t, "sdb").Image.Source.Path)
	if err != nil {
		t.Fatal(err)
	}
	const offset = 1 << 20
	path := filepath.Join(t.TempDir(), "slices")
	if err := os.WriteFile(path, append(make([]byte, offset), volume...), 0o600); err != nil {
		t.Fatal(err)
	}
	parse := func(at int, encryption string) *blockgraph.Disk {
		disk, err := diskxml.ParseDisk([]byte(fmt.Sprintf(`<disk type='file' device='disk'><driver name='qemu' type='raw'/>
  <source file='%s'><slices><slice type='storage' offset='%d' size='%d'/></slices>%s</source><target dev='sdb' bus='scsi'/></disk>`, path, at, len(volume), encryption)))
		if err != nil {
			t.Fatal(err)
		}
		return disk
	}
	const encryption = "<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>"
	for _, mode := range []hotplug.UnlockPolicy{hotplug.UnlockAuto, hotplug.UnlockQEMU} {
		_, err := v.Attach(ctx, parse(offset, ""), store(key), hotplug.AttachOptions{Unlock: mode})
		var refused *hotplug.PreflightError
		if !errors.As(err, &refused) || !strings.Contains(err.Error(), "has no <encryption>") {
			t.Errorf("LUKS without <encryption>: %v", err)
		}
		if _, err = v.Attach(ctx, parse(0, encryption), store(key), hotplug.AttachOptions{Unlock: mode}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "no LUKS header") {
			t.Errorf("<encryption> without LUKS: %v", err)
		}
		for at, e := range map[int]string{offset: encryption, 0: ""} {
			if _, err := v.Attach(ctx, parse(at, e), store(key), hotplug.AttachOptions{Unlock: mode}); err != nil {
				t.Errorf("slice at %d with %q: %v", at, e, err)
			}
			if _, err := v.Attach(ctx, parse(offset-at, ""), store(key), hotplug.AttachOptions{Unlock: mode}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "another disk is attached as sdb") {
				t.Errorf("another slice: %v", err)
			}
			if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
				t.Error(err)
			}
		}
	}
	wantNothingLeft(ctx, t, v, before, run)
}
