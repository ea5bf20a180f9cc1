package rundir

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// TestOtherProcess: what a live process of another VM has under the same identity is
// neither shown nor changed. Once that process has ended, it may be removed.
func TestOtherProcess(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath(daemon.Program); err != nil {
		t.Skip(err)
	}
	base, err := os.MkdirTemp("", "luksplug-test-") // a short path, for the sockets
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	other := exec.Command("sleep", "1000") // the other VM
	if err := other.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() {
		_ = other.Process.Kill()
		_ = other.Wait()
	}
	t.Cleanup(end)
	theirs, err1 := hostproc.ProcessOf(other.Process.Pid)
	ours, err2 := hostproc.ProcessOf(os.Getpid())
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	owner := VM{Base: Base(base), ID: "vm", Process: theirs}
	if err := owner.WriteNote(Note{Target: "vdb", Payload: "/b", Process: theirs}); err != nil {
		t.Fatal(err)
	}
	for _, target := range []string{"vdb", "vdc"} { // the second one without a note
		d, err := daemon.Start(t.Context(), daemon.Options{Dir: owner.Disk(target).HandOver(), Owner: theirs})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = daemon.Stop(t.Context(), d.Info().Dir) })
		if err := d.Close(); err != nil {
			t.Fatal(err)
		}
	}
	before, err := owner.Read()
	if err != nil || len(before.Notes) != 1 || before.HandedOver["vdb"].Daemon == 0 || before.HandedOver["vdc"].Daemon == 0 {
		t.Fatalf("its own view: %+v, %v", before, err)
	}

	for _, us := range []hostproc.Process{ours, {}} {
		vm := VM{Base: Base(base), ID: "vm", Process: us}
		if c, err := vm.Read(); err != nil || len(c.Notes)+len(c.HandedOver) != 0 {
			t.Errorf("process %+v sees %+v, %v", us, c, err)
		}
		for _, target := range []string{"vdb", "vdc"} {
			disk := vm.Disk(target)
			_, handErr := disk.MakeHandOver(hostproc.Credential{UID: uint32(os.Geteuid())})
			for what, err := range map[string]error{
				"Own": vm.Own(), "WriteNote": vm.WriteNote(Note{Target: target, Process: us}), "Forget": disk.Forget(),
				"StopDaemons": disk.StopDaemons(t.Context()), "MakeHandOver": handErr, "RemoveHandOver": disk.RemoveHandOver(), "Gone": vm.Gone(t.Context()),
			} {
				if !errors.Is(err, outcome.ErrIdentity) {
					t.Errorf("process %+v, disk %s, %s: %v", us, target, what, err)
				}
			}
		}
	}
	if after, err := owner.Read(); err != nil || !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v, %v", before, after, err)
	}
	if err := owner.Own(); err != nil {
		t.Errorf("its own disks: %v", err)
	}

	end()
	vm := VM{Base: Base(base), ID: "vm", Process: ours}
	if err := vm.Own(); err != nil {
		t.Errorf("disks of a process that has ended: %v", err)
	}
	if err := vm.Gone(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(base, "vm")); err == nil {
		t.Error("the directory is still there")
	}
}
