package hotplug_test

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/hotplug"
)

// spoil replaces the note of a disk by something that cannot be removed: a directory that
// is not empty.
func spoil(t *testing.T, run, target string) {
	t.Helper()
	notes, err := filepath.Glob(filepath.Join(run, "*", target+".json"))
	if err != nil || len(notes) != 1 {
		t.Fatalf("notes of %s: %v, %v", target, notes, err)
	}
	err = errors.Join(os.Remove(notes[0]), os.MkdirAll(filepath.Join(notes[0], "in the way"), 0o700))
	if err != nil {
		t.Fatal(err)
	}
}

// wantLeft wants an error that names the note as left behind, and wraps cause.
func wantLeft(t *testing.T, what string, err, cause error) {
	t.Helper()
	var left *hotplug.LeftBehindError
	if !errors.As(err, &left) || left.Unverified || len(left.Left) != 1 || left.Left[0] != "the note of disk sda" {
		t.Errorf("%s: got %v", what, err)
	}
	if cause != nil && !errors.Is(err, cause) {
		t.Errorf("%s: got %v, which does not wrap %v", what, err, cause)
	}
}

// TestCleanUpFails: if the host cannot be cleaned up after a failure, the error is a
// LeftBehindError: neither a refusal nor a complete rollback.
func TestCleanUpFails(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)

	// In the VM, after its first step.
	run := t.TempDir()
	steps := 0
	v, _ := vm(t, hotplug.Options{RunDir: run, OnStep: func(hotplug.StepReport) {
		if steps++; steps == 1 {
			spoil(t, run, "sda")
		}
	}})
	_, err := v.Attach(ctx, luksDisk(t, "sda"), store("wrong"), hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU})
	wantLeft(t, "a rollback", err, nil)
	if steps < 2 {
		t.Errorf("%d steps were done", steps)
	}

	// On the host, before the first change of the VM.
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-storage-daemon is not installed: make setup")
	}
	unwatched := errors.New("it could not be watched")
	host := t.TempDir()
	v, _ = vm(t, hotplug.Options{RunDir: host, OnDaemon: func(context.Context, hotplug.Daemon) error {
		spoil(t, host, "sda")
		return unwatched
	}})
	before := state(ctx, t, v)
	_, err = v.Attach(ctx, luksDisk(t, "sda"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockExternal})
	wantLeft(t, "preparing the host", err, unwatched)
	if after := state(ctx, t, v); len(after.Nodes) != len(before.Nodes) || len(after.Disks()) != 0 {
		t.Errorf("the VM has %+v", after.Disks())
	}
}

// TestPreparingFails: if the host was restored and the VM not changed, the error is the
// failure itself.
func TestPreparingFails(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-storage-daemon"); err != nil {
		t.Skip("qemu-storage-daemon is not installed: make setup")
	}
	ctx := bounded(t)
	run, unwatched := t.TempDir(), errors.New("it could not be watched")
	v, _ := vm(t, hotplug.Options{RunDir: run, OnDaemon: func(context.Context, hotplug.Daemon) error { return unwatched }})
	_, err := v.Attach(ctx, luksDisk(t, "sda"), store(key), hotplug.AttachOptions{Unlock: hotplug.UnlockExternal})
	var left *hotplug.LeftBehindError
	var back *hotplug.RolledBackError
	if !errors.Is(err, unwatched) || errors.As(err, &left) || errors.As(err, &back) {
		t.Errorf("got %v", err)
	}
	if entries, err := os.ReadDir(run); err != nil || len(entries) != 0 {
		t.Errorf("left on the host: %v, %v", entries, err)
	}
}

// TestDetachLeavesNote: a detach that cannot clean up the host names what is left.
func TestDetachLeavesNote(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	if _, err := v.Attach(ctx, luksDisk(t, "sda"), store(key), hotplug.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	spoil(t, run, "sda")
	_, err := v.Detach(ctx, "sda", hotplug.DetachOptions{Wait: 10 * time.Second})
	wantLeft(t, "a detach", err, nil)
	if err != nil && strings.Contains(err.Error(), "\n") {
		t.Errorf("more than a line: %q", err)
	}
}
