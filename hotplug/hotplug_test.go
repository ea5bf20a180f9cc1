package hotplug_test

import (
	"context"
	"errors"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// bounded is the context of one test.
func bounded(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func state(ctx context.Context, t *testing.T, v *hotplug.VM) *hotplug.State {
	t.Helper()
	s, err := v.State(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// wantNothingLeft checks that the VM is as it was before, and that the run directory is
// empty.
func wantNothingLeft(ctx context.Context, t *testing.T, v *hotplug.VM, before *hotplug.State, run string) {
	t.Helper()
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	if left, err := os.ReadDir(run); err != nil || len(left) != 0 {
		t.Errorf("left on the host: %v, %v", left, err)
	}
}

func TestAttachAndDetach(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		mode  hotplug.UnlockPolicy
		way   blockgraph.Method
		steps []string
	}{
		{hotplug.UnlockAuto, blockgraph.MethodEphemeralHeader, []string{"luksplug-sdb-header-fdset", "luksplug-sdb-header-storage", "luksplug-sdb-header-fdset",
			"luksplug-sdb-payload-storage", "luksplug-sdb-secret0", "luksplug-sdb-luks", "luksplug-sdb-secret0", "luksplug-sdb"}},
		{hotplug.UnlockQEMU, blockgraph.MethodQEMU, []string{"luksplug-sdb-payload-storage", "luksplug-sdb-secret0", "luksplug-sdb-luks", "luksplug-sdb-secret0", "luksplug-sdb"}},
		{hotplug.UnlockExternal, blockgraph.MethodStorageDaemon, []string{"luksplug-sdb-payload-storage", "luksplug-sdb"}},
	} {
		t.Run(string(c.mode), func(t *testing.T) {
			t.Parallel()
			attachAndDetach(t, c.mode, c.way, c.steps)
		})
	}
}

func attachAndDetach(t *testing.T, mode hotplug.UnlockPolicy, way blockgraph.Method, steps []string) {
	ctx := bounded(t)
	var told []string
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{Name: "vm1", RunDir: run, OnStep: func(r hotplug.StepReport) { told = append(told, r.Step.Subject) }})
	before := state(ctx, t, v)
	disk := luksDisk(t, "sdb")
	options := hotplug.AttachOptions{Unlock: mode}
	at, err := v.Attach(ctx, disk, store(key), options)
	if err != nil {
		t.Fatal(err)
	}
	if at.Unlock != way || at.Payload != disk.Image.Source.Path || (way == blockgraph.MethodStorageDaemon) != (at.Daemon != 0) || (way == blockgraph.MethodStorageDaemon) != (at.UUID == "" || at.Daemon != 0) {
		t.Errorf("unlocked: %+v", at.AttachedDisk)
	}
	if at.Already || at.Device != "luksplug-sdb" || at.Driver != "scsi-hd" || at.Size != 8<<20 || at.Bus != "scsi0.0" || at.Leftover() {
		t.Errorf("attached: %+v", at)
	}
	if !slices.Equal(told, steps) {
		t.Errorf("steps told: %q", told)
	}
	if again, err := v.Attach(ctx, disk, store("never asked for"), options); err != nil || !again.Already {
		t.Errorf("attached again: %+v, %v", again, err)
	}
	list, err := v.List(ctx)
	if err != nil || len(list) != 1 || !reflect.DeepEqual(*list[0], at.AttachedDisk) {
		t.Errorf("list: %+v, %v", list, err)
	}
	gone, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second})
	if err != nil || !slices.Contains(gone.Removed, "node "+at.Nodes[0]) {
		t.Errorf("detached: %+v, %v", gone, err)
	}
	if left, err := os.ReadDir(run); err != nil || len(left) != 0 {
		t.Errorf("left on the host: %v, %v", left, err)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
	var missing *hotplug.NotHeldError
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: time.Second}); !errors.As(err, &missing) || missing.Target != "sdb" {
		t.Errorf("detached again: %v", err)
	}
}

// TestAttachOther changes one property of an attached disk at a time: the result is
// another disk and must be refused.
func TestAttachOther(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	disk := plainDisk(t, "sdb")
	disk.Serial, disk.WWN = "abc", 0x5000c50015ea71ac
	disk.Driver = blockgraph.Driver{Cache: "writeback", ErrorPolicy: "stop"}
	if _, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	if same, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{}); err != nil || !same.Already {
		t.Fatalf("the same disk: %+v, %v", same, err)
	}
	before := state(ctx, t, v)
	for name, change := range map[string]func(*blockgraph.Disk){
		"path":      func(d *blockgraph.Disk) { d.Image.Source.Path = plainDisk(t, "sdb").Image.Source.Path },
		"format":    func(d *blockgraph.Disk) { d.Image.Format = blockgraph.FormatQcow2 },
		"read-only": func(d *blockgraph.Disk) { d.ReadOnly = true },
		"serial":    func(d *blockgraph.Disk) { d.Serial = "abd" },
		"no serial": func(d *blockgraph.Disk) { d.Serial = "" },
		"wwn":       func(d *blockgraph.Disk) { d.WWN++ },
		"cache":     func(d *blockgraph.Disk) { d.Driver.Cache = "unsafe" },
		"policy":    func(d *blockgraph.Disk) { d.Driver.ErrorPolicy = "report" },
		"bus":       func(d *blockgraph.Disk) { d.Bus, d.WWN = blockgraph.BusVirtio, 0 },
		"alias":     func(d *blockgraph.Disk) { d.Alias = "ua-mine" },
		"encrypted": func(d *blockgraph.Disk) {
			d.Image.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{{Type: secrets.Passphrase, Usage: "x"}}}
		},
	} {
		other := *disk
		change(&other)
		var refused *hotplug.PreflightError
		if _, err := v.Attach(ctx, &other, store(key), hotplug.AttachOptions{}); !errors.As(err, &refused) || !strings.Contains(err.Error(), "another disk is attached as sdb") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("the VM has changed: before %+v\nafter  %+v", before, after)
	}
}

func TestLeftovers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	before := state(ctx, t, v)
	leave := func(target string) {
		t.Helper()
		for _, cmd := range []qmp.Command{
			{Execute: "object-add", Arguments: qmp.Object{{Name: "qom-type", Value: "secret"}, {Name: "id", Value: "luksplug-" + target + "-secret0"}, {Name: "data", Value: "x"}}},
			{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "null-co"}, {Name: "read-zeroes", Value: true}, {Name: "node-name", Value: "luksplug-" + target + "-payload-storage"}}},
			{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "raw"}, {Name: "file", Value: "luksplug-" + target + "-payload-storage"}, {Name: "node-name", Value: "luksplug-" + target + "-luks"}}},
		} {
			if _, err := v.Client().Execute(ctx, cmd); err != nil {
				t.Fatal(err)
			}
		}
	}
	leave("sdb")
	leave("vdc")
	list, err := v.List(ctx)
	if err != nil || len(list) != 2 || !list[0].Leftover() || len(list[0].Left()) != 3 {
		t.Fatalf("list: %+v, %v", list, err)
	}
	at, err := v.Attach(ctx, plainDisk(t, "sdb"), nil, hotplug.AttachOptions{})
	if err != nil || len(at.Cleared) != 3 {
		t.Fatalf("attach: %+v, %v", at, err)
	}
	removed, err := v.Repair(ctx)
	if err != nil || len(removed) != 1 || removed[0].Target != "vdc" {
		t.Errorf("repair: %+v, %v", removed, err)
	}
	if list, err := v.List(ctx); err != nil || len(list) != 1 || list[0].Leftover() {
		t.Errorf("list after repair: %+v, %v", list, err)
	}
	if _, err := v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestLeftBehind puts a leftover under a foreign node, so that QEMU cannot remove it: the
// error must name it.
func TestLeftBehind(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	for _, cmd := range []qmp.Command{
		{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "null-co"}, {Name: "node-name", Value: "luksplug-sdb-payload-storage"}}},
		{Execute: "blockdev-add", Arguments: qmp.Object{{Name: "driver", Value: "raw"}, {Name: "file", Value: "luksplug-sdb-payload-storage"}, {Name: "node-name", Value: "theirs"}}},
	} {
		if _, err := v.Client().Execute(ctx, cmd); err != nil {
			t.Fatal(err)
		}
	}
	_, err := v.Repair(ctx)
	var left *hotplug.LeftBehindError
	if !errors.As(err, &left) || !slices.Equal(left.Left, []string{"node luksplug-sdb-payload-storage"}) || !errors.Is(err, qmp.ErrNodeInUse) {
		t.Errorf("repair: %v", err)
	}
}

// TestWrongPassphrase: QEMU gets a wrong passphrase only if it unlocks the volume itself.
func TestWrongPassphrase(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	var steps int
	v, _ := vm(t, hotplug.Options{RunDir: t.TempDir(), OnStep: func(hotplug.StepReport) { steps++ }})
	before := state(ctx, t, v)
	disk := luksDisk(t, "sdb")
	for mode, sentinel := range map[hotplug.UnlockPolicy]error{
		hotplug.UnlockAuto: luks.ErrWrongPassphrase, hotplug.UnlockExternal: qmp.ErrWrongPassphrase, hotplug.UnlockQEMU: qmp.ErrWrongPassphrase,
	} {
		steps = 0
		_, err := v.Attach(ctx, disk, store("another"), hotplug.AttachOptions{Unlock: mode})
		var back *hotplug.RolledBackError
		var secret *hotplug.SecretError
		if asked := mode == hotplug.UnlockQEMU; errors.As(err, &back) != asked || errors.As(err, &secret) == asked || (steps > 0) != asked || !errors.Is(err, sentinel) {
			t.Errorf("attach, unlocked by %s: %d steps, %v", mode, steps, err)
		}
		if err != nil && strings.Contains(err.Error(), "another") {
			t.Errorf("the passphrase is in the error: %v", err)
		}
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestCancelled cancels the caller's context after each step: the rollback uses another
// one.
func TestCancelled(t *testing.T) {
	t.Parallel()
	disk := luksDisk(t, "sdb")
	for step := 1; ; step++ {
		ctx, cancel := context.WithCancel(bounded(t))
		n := 0
		v, _ := vm(t, hotplug.Options{OnStep: func(hotplug.StepReport) {
			if n++; n == step {
				cancel()
			}
		}})
		before := state(ctx, t, v)
		_, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{})
		if n < step {
			cancel()
			if err != nil {
				t.Errorf("never cancelled: %v", err)
			}
			break
		}
		var back *hotplug.RolledBackError
		if !errors.As(err, &back) || !errors.Is(err, context.Canceled) {
			t.Errorf("cancelled after step %d: %v", step, err)
		}
		if after := state(bounded(t), t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("cancelled after step %d: before %+v\nafter  %+v", step, before, after)
		}
	}
}

func TestUnusableSecrets(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	disk := luksDisk(t, "sdb")
	for value, mode := range map[string]hotplug.UnlockPolicy{"": hotplug.UnlockAuto, "\xff\xfe": hotplug.UnlockQEMU, "a\x00b": hotplug.UnlockQEMU} {
		_, err := v.Attach(ctx, disk, store(value), hotplug.AttachOptions{Unlock: mode})
		var secret *hotplug.SecretError
		if !errors.As(err, &secret) || !errors.Is(err, hotplug.ErrUnusableSecret) {
			t.Errorf("passphrase %q: %v", value, err)
		}
	}
}

func TestLock(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	locks := t.TempDir()
	var waits []string
	v, dial := vm(t, hotplug.Options{LockDir: locks})
	// Both monitors are the same process: one VM, one lock.
	second, err := hotplug.Connect(ctx, dial, hotplug.Options{LockDir: locks, LockWait: 200 * time.Millisecond, OnWait: func(w string) { waits = append(waits, w) }})
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = second.Close() }()
	hold := make(chan struct{})
	held := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		_, err := v.Attach(ctx, luksDisk(t, "sdb"), blocking{held, hold}, hotplug.AttachOptions{Unlock: hotplug.UnlockQEMU})
		done <- err
	}()
	<-held
	var locked *hotplug.LockedError
	if _, err := second.Attach(ctx, plainDisk(t, "sdc"), nil, hotplug.AttachOptions{}); !errors.As(err, &locked) || locked.Holder != os.Getpid() {
		t.Errorf("attach while the VM is locked: %v", err)
	}
	if len(waits) != 1 {
		t.Errorf("told of %d waits, want 1: %q", len(waits), waits)
	}
	close(hold)
	if err := <-done; err != nil {
		t.Fatal(err)
	}
	if _, err := second.Attach(ctx, plainDisk(t, "sdc"), nil, hotplug.AttachOptions{}); err != nil {
		t.Errorf("attach after the lock: %v", err)
	}
	if files, err := os.ReadDir(locks); err != nil || len(files) != 0 {
		t.Errorf("lock files are left: %v, %v", files, err)
	}
}

// blocking is a slow store: it signals a look-up, and answers when it is released.
type blocking struct{ asked, answer chan struct{} }

func (b blocking) String() string { return "slow store" }

func (b blocking) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	close(b.asked)
	<-b.answer
	return secrets.New([]byte(key)), nil
}

// TestPorts checks that the planner knows which ports are occupied although no firmware
// has numbered the buses.
func TestPorts(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	take := func(target string) (string, error) {
		disk := plainDisk(t, target)
		disk.Bus = blockgraph.BusVirtio
		at, err := v.Attach(ctx, disk, nil, hotplug.AttachOptions{})
		if err != nil {
			return "", err
		}
		return at.Bus, nil
	}
	for i, want := range []string{"rp10", "rp2"} {
		if bus, err := take([]string{"vdb", "vdc"}[i]); err != nil || bus != want {
			t.Errorf("disk %d is on %q (%v), want %s", i, bus, err, want)
		}
	}
	var full *blockgraph.PlacementError
	if _, err := take("vdd"); !errors.As(err, &full) || !strings.Contains(err.Error(), "pcie-root-port") {
		t.Errorf("a third disk: %v", err)
	}
	root := plainDisk(t, "vde")
	root.Bus, root.Address = blockgraph.BusVirtio, &blockgraph.Address{PCI: &blockgraph.PCIAddress{Slot: 9}}
	if _, err := v.Attach(ctx, root, nil, hotplug.AttachOptions{}); !errors.As(err, &full) {
		t.Errorf("a disk on pcie.0: %v", err)
	}
}
