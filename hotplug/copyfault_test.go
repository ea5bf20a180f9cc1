package hotplug_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// small mounts a file system in memory of that many bytes, which only root can.
func small(t *testing.T, size string) string {
	t.Helper()
	dir := must.Dir(t, "")
	if err := unix.Mount("none", dir, "tmpfs", 0, "size="+size); err != nil {
		t.Skipf("mount a tmpfs: %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

// moved moves a disk's image to a directory, with its holes.
func moved(t *testing.T, disk *blockgraph.Disk, dir string) *blockgraph.Disk {
	t.Helper()
	path := filepath.Join(dir, "image")
	must.Run(t, "", "cp", "--sparse=always", disk.Image.Source.Path, path)
	disk.Image.Source.Path = path
	return disk
}

// deviceIO writes or reads through the device of disk sdb, as a guest does. QEMU's command prints elsewhere: only an error is
// in its answer.
func deviceIO(ctx context.Context, t *testing.T, client *qmp.Client, line string) {
	t.Helper()
	answer := must.Get(client.Execute(ctx, command("human-monitor-command", "command-line", `qemu-io -d /machine/peripheral/luksplug-sdb "`+line+`"`)))(t)
	if string(answer) != `""` {
		t.Errorf("%s: %s", line, answer)
	}
}

// phase waits for a phase of the copy of disk sdb.
func phase(ctx context.Context, t *testing.T, v *hotplug.VM, want hotplug.CopyPhase) *hotplug.Copy {
	t.Helper()
	for {
		c := must.Get(v.Copy(ctx, "sdb"))(t)
		if c.Phase == want {
			return c
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// TestCopyNoRoom: a copy for which the new volume has no room is paused, also for a write of the guest when the volumes were in
// step; the guest's writes succeed, and the copy is resumed once there is room.
func TestCopyNoRoom(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	dir := small(t, "6m")
	v, dial := vm(t, hotplug.Options{})
	client := other(ctx, t, dial)
	first, second := luksDisk(t, "sdb"), moved(t, luksDisk(t, "sdb"), dir)
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	deviceIO(ctx, t, client, "write -P 1 0 8M")
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{}))
	for i, size := range []string{"8m", "16m"} {
		c := phase(ctx, t, v, hotplug.CopyPaused)
		if c.Err == nil || !strings.Contains(c.Err.Error(), "no room") || c.Disk.Payload != first.Image.Source.Path {
			t.Errorf("paused: %+v", c)
		}
		deviceIO(ctx, t, client, "write -P 2 1M 64k")
		deviceIO(ctx, t, client, "write -P 3 7M 64k")
		deviceIO(ctx, t, client, "read -P 3 7M 64k")
		if _, err := v.SwitchCopy(ctx, "sdb", hotplug.Switch{}); !errors.Is(err, hotplug.ErrNotInStep) {
			t.Errorf("switched: %v", err)
		}
		if removed := must.Get(v.Repair(ctx))(t); len(removed) != 0 {
			t.Errorf("repair has removed %+v", removed)
		}
		if i == 0 { // without room it is paused again
			must.OK(t, v.ResumeCopy(ctx, "sdb"))
			phase(ctx, t, v, hotplug.CopyPaused)
		}
		must.OK(t, unix.Mount("none", dir, "tmpfs", unix.MS_REMOUNT, "size="+size))
		must.OK(t, v.ResumeCopy(ctx, "sdb"))
	}
	inStep(ctx, t, v, "sdb")
	must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
	deviceIO(ctx, t, client, "read -P 2 1M 64k")
	deviceIO(ctx, t, client, "read -P 3 7M 64k")
	deviceIO(ctx, t, client, "read -P 1 2M 5M")
	if guestData(t, first) != guestData(t, second) {
		t.Error("the volumes differ")
	}
}

// failing serves an image over NBD by a process that is stopped by fail.
func failing(t *testing.T, path string) (socket string, fail func()) {
	t.Helper()
	must.Have(t, "qemu-nbd")
	socket = filepath.Join(must.Dir(t, ""), "nbd.sock")
	cmd := exec.Command("qemu-nbd", "--format", "raw", "--persistent", "--shared", "4", "--export-name", "disk", "--socket", socket, path)
	must.OK(t, cmd.Start())
	ended := false
	fail = func() {
		if !ended {
			ended = true
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		}
	}
	t.Cleanup(fail)
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		if _, err := os.Stat(socket); err == nil {
			return socket, fail
		}
		if time.Now().After(deadline) {
			t.Fatal("qemu-nbd does not listen")
		}
	}
}

// TestCopyFails: an I/O error of the new volume, or of the disk itself, ends the copy with that error. The disk stays on its
// volume, and EndCopy removes the parts of the other one.
func TestCopyFails(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-storage-daemon") // reads the headers on servers
	for _, of := range []string{"the new volume", "the disk", "the new volume in step"} {
		t.Run(of, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			v, dial := vm(t, hotplug.Options{})
			client := other(ctx, t, dial)
			first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
			var fail func()
			var socket string
			if of == "the disk" {
				socket, fail = failing(t, first.Image.Source.Path)
				first = remoteDisk(t, "sdb", socket, "")
			} else {
				socket, fail = failing(t, second.Image.Source.Path)
				second = remoteDisk(t, "sdb", socket, "")
			}
			must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
			before := state(ctx, t, v)
			speed := int64(1 << 20)
			if of == "the new volume in step" {
				speed = 0
			}
			must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: speed}))
			if speed == 0 {
				inStep(ctx, t, v, "sdb")
			}
			fail()
			if of != "the disk" {
				deviceIO(ctx, t, client, "write -P 4 7M 64k") // in step, it is also a write to the new volume
			}
			_ = v.SetCopySpeed(ctx, "sdb", 0) // of a job that may have ended
			c := phase(ctx, t, v, hotplug.CopyEnded)
			if c.Err == nil || c.Disk.Instance != "sdb" {
				t.Errorf("ended: %+v", c)
			}
			var refused *hotplug.PreflightError
			if _, err := v.SwitchCopy(ctx, "sdb", hotplug.Switch{}); !errors.As(err, &refused) || !errors.Is(err, hotplug.ErrNoCopy) || !strings.Contains(err.Error(), c.Err.Error()) {
				t.Errorf("switched: %v", err)
			}
			wantRefused(ctx, t, client, nowhere, "luksplug-sdb-copying")
			must.OK(t, v.EndCopy(ctx, "sdb"))
			if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
			if of != "the disk" {
				deviceIO(ctx, t, client, "read -P 4 7M 64k")
			}
		})
	}
}
