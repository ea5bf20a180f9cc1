package hotplug_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

const startID = "6695eb01-f6a4-8304-79aa-97f2502e193f"

// starting returns a VM that is about to start, and the directory of the files for its start.
func starting(t *testing.T) (*coldstart.VM, string) {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "luksplug-test-") // in memory, as it must be
	if err != nil {
		t.Skipf("no tmpfs to write to: %v", err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	user := &hostproc.Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	return coldstart.New(startID, coldstart.Options{User: user, RunDir: dir, LockDir: t.TempDir()}), dir
}

func limited(disk *blockgraph.Disk) *blockgraph.Disk {
	disk.IOTune = &blockgraph.IOTune{Bytes: blockgraph.Limits{Total: blockgraph.Limit{PerSecond: 1 << 20}}}
	return disk
}

// TestStart starts a VM with a disk by each method, as a hook would: the disk has its
// recorded address, and no file of the start is left.
func TestStart(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: make setup")
	}
	for _, way := range []blockgraph.Method{blockgraph.MethodQEMU, blockgraph.MethodEphemeralHeader} {
		t.Run(string(way), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s, dir := starting(t)
			disk := limited(luksDisk(t, "sda"))
			machine := blockgraph.Machine{Type: "q35", SCSI: []blockgraph.SCSIController{{ID: "scsi0"}}}
			graph, err := blockgraph.Build(disk, machine, blockgraph.Unlock{})
			if err != nil {
				t.Fatal(err)
			}
			d := coldstart.Disk{Disk: disk, Method: way, Spec: hotplug.Spec{Devices: []blockgraph.Object{graph.Device().Options}}}
			if err := s.Check(ctx, d, coldstart.ArrivalBoot, store(key)); err != nil {
				t.Fatal(err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("the check has left %v (%v)", entries, err)
			}
			if err := s.Prepare(ctx, d, coldstart.ArrivalBoot, store(key)); err != nil {
				t.Fatal(err)
			}
			with, err := s.Arguments(ctx, d)
			if err != nil || with.Limits == nil {
				t.Fatal(err, with)
			}
			sockets, stop, err := startQEMU(t.TempDir(), with.Arguments...)
			if err != nil {
				t.Fatal(err)
			}
			defer stop()
			v, err := hotplug.Connect(ctx, dialer(sockets[0]), hotplug.Options{LockDir: t.TempDir(), RunDir: dir})
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = v.Close() }()
			if err := s.Started(ctx, "sda"); err != nil {
				t.Error(err)
			}
			for range 2 { // repeating it does no harm
				if err := v.FinishStart(ctx, []hotplug.Started{{Target: "sda", Limits: with.Limits}}); err != nil {
					t.Error(err)
				}
			}
			now := state(ctx, t, v)
			if h := now.Disk("sda"); h == nil || h.Leftover() || len(h.Objects) > 0 || h.Size != 8<<20 {
				t.Errorf("the VM has %+v", h)
			}
			if i := slices.IndexFunc(now.Drives, func(d hotplug.Drive) bool { return d.Node == "luksplug-sda-luks" }); i < 0 {
				t.Errorf("no drive on the disk's top node: %+v", now.Drives)
			}
			value, err := v.Client().Execute(ctx, qmp.Command{Execute: "query-block"})
			if err != nil || !strings.Contains(string(value), `"bps": 1048576`) {
				t.Errorf("the limits are not set (%v): %s", err, value)
			}
			if err := s.Gone(ctx); err != nil {
				t.Error(err)
			}
			if entries, err := os.ReadDir(dir); err != nil || len(entries) > 0 {
				t.Errorf("left: %v (%v)", entries, err)
			}
		})
	}
}

// TestGoneRemovesLocks: the lock file of a run that was killed is removed with the VM,
// and that of a live run stays.
func TestGoneRemovesLocks(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	s := coldstart.New(startID, coldstart.Options{RunDir: t.TempDir(), LockDir: dir})
	path := filepath.Join(dir, startID+".lock")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	if err := s.Gone(bounded(t)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Errorf("the lock of a run that goes on: %v", err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	if err := s.Gone(bounded(t)); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lock of a run that has ended: %v", err)
	}
}

// TestStartFails: every obstacle to a start is found before QEMU exists, and nothing is
// left.
func TestStartFails(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("qemu-img"); err != nil {
		t.Skip("qemu-img is not installed: make setup")
	}
	notLUKS := func(t *testing.T) *blockgraph.Disk {
		return parse(t, "sda", "raw", plainDisk(t, "sda").Image.Source.Path, `<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>`)
	}
	gone := func(t *testing.T) *blockgraph.Disk {
		return parse(t, "sda", "raw", filepath.Join(t.TempDir(), "gone"), "")
	}
	luks := func(t *testing.T) *blockgraph.Disk { return luksDisk(t, "sda") }
	for name, c := range map[string]struct {
		disk  func(t *testing.T) *blockgraph.Disk
		store secrets.Store
		check bool // found out without deriving a key
		want  func(error) bool
	}{
		"image gone":       {gone, store(key), true, as[*hotplug.PreflightError]},
		"no LUKS":          {notLUKS, store(key), true, as[*hotplug.PreflightError]},
		"no secret":        {luks, absent{}, true, func(err error) bool { return as[*hotplug.SecretError](err) && errors.Is(err, secrets.ErrNotFound) }},
		"wrong passphrase": {luks, store("wrong"), false, as[*hotplug.SecretError]},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			s, dir := starting(t)
			d := coldstart.Disk{Disk: c.disk(t), Method: blockgraph.MethodEphemeralHeader}
			if err := s.Check(ctx, d, coldstart.ArrivalBoot, c.store); c.check && !c.want(err) || !c.check && err != nil {
				t.Errorf("check: got %v", err)
			}
			if err := s.Prepare(ctx, d, coldstart.ArrivalBoot, c.store); !c.want(err) {
				t.Errorf("prepare: got %v", err)
			}
			if found, err := filepath.Glob(filepath.Join(dir, "*", "*", "*")); err != nil || len(found) > 0 {
				t.Errorf("left: %v (%v)", found, err)
			}
		})
	}
}

func as[E error](err error) bool {
	var e E
	return errors.As(err, &e)
}

// TestStartOfAMovingVM: the images of an arriving VM are in use by the QEMU that it comes
// from.
func TestStartOfAMovingVM(t *testing.T) {
	t.Parallel()
	v, _ := vm(t, hotplug.Options{Files: hotplug.FilesLocal})
	ctx := bounded(t)
	disk := luksDisk(t, "sda")
	if _, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{}); err != nil {
		t.Fatal(err)
	}
	s, _ := starting(t)
	d := coldstart.Disk{Disk: disk, Method: blockgraph.MethodEphemeralHeader}
	if err := s.Check(ctx, d, coldstart.ArrivalMigration, store(key)); err != nil {
		t.Errorf("it moves: %v", err)
	}
	if err := s.Check(ctx, d, coldstart.ArrivalBoot, store(key)); !as[*hotplug.PreflightError](err) {
		t.Errorf("another VM has it: %v", err)
	}
}

// TestAttachWhereItWas: a disk is plugged at its earlier address, and Before is called
// before the VM changes.
func TestAttachWhereItWas(t *testing.T) {
	t.Parallel()
	v, _ := vm(t, hotplug.Options{})
	ctx := bounded(t)
	disk := plainDisk(t, "sda")
	var before hotplug.Prepared
	keep := func(ctx context.Context, p hotplug.Prepared) (string, error) {
		before = p
		if h := state(ctx, t, v).Disk("sda"); h != nil {
			t.Errorf("the VM has it already: %+v", h)
		}
		return "kept", nil
	}
	devices := func() []blockgraph.Object {
		return []blockgraph.Object{before.Devices[0].With("lun", int64(7))}
	}
	refuse := errors.New("no room for the record")
	_, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Before: func(context.Context, hotplug.Prepared) (string, error) { return "", refuse }})
	if !as[*hotplug.PreflightError](err) || !errors.Is(err, refuse) || state(ctx, t, v).Disk("sda") != nil {
		t.Errorf("got %v", err)
	}
	if _, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Before: keep}); err != nil || len(before.Devices) != 1 {
		t.Fatal(err, before)
	}
	if h := state(ctx, t, v).Disk("sda"); h.Kept != "kept" {
		t.Errorf("kept is %q", h.Kept)
	}
	if _, err := v.Detach(ctx, "sda", hotplug.DetachOptions{Wait: 10 * time.Second}); err != nil {
		t.Fatal(err)
	}
	at := devices()
	if _, err := v.Attach(ctx, disk, store(key), hotplug.AttachOptions{Spec: hotplug.Spec{Devices: at}, Before: keep}); err != nil {
		t.Fatal(err)
	}
	if got, want := fmt.Sprint(before.Devices), fmt.Sprint(at); got != want || !strings.Contains(got, `"lun":7`) {
		t.Errorf("got %s, want %s", got, want)
	}
}

// absent is a store without secrets.
type absent struct{}

func (absent) String() string { return "empty store" }

func (absent) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	return nil, secrets.ErrNotFound
}
