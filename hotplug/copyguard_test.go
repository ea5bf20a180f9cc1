package hotplug_test

import (
	"context"
	"errors"
	"net"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// other opens a second connection to a VM, that of another program.
func other(ctx context.Context, t *testing.T, dial hotplug.Dialer) *qmp.Client {
	t.Helper()
	client := must.Get(dial(ctx))(t)
	t.Cleanup(func() { _ = client.Close() })
	return client
}

// wantRefused checks that QEMU refuses a command with that text.
func wantRefused(ctx context.Context, t *testing.T, client *qmp.Client, cmd qmp.Command, text string) {
	t.Helper()
	var refused *qmp.Error
	if _, err := client.Execute(ctx, cmd); !errors.As(err, &refused) || !strings.Contains(refused.Description, text) {
		t.Errorf("%s: %v, want a refusal with %q", cmd.Execute, err, text)
	}
}

// nowhere migrates a VM to no other one.
var nowhere = command("migrate", "uri", "exec:cat > /dev/null")

// TestCopyGuard: while a disk is copied, there and back, whatever would end the VM or lose data is refused, by a text that
// names the disk; the copy goes on, and the VM can be migrated after its end.
func TestCopyGuard(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, dial := vm(t, hotplug.Options{})
	client := other(ctx, t, dial)
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	for i, to := range []*blockgraph.Disk{second, first} {
		must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{Speed: 1 << 20}))
		c := must.Get(v.Copy(ctx, "sdb"))(t)
		if last := c.Disk.Copy.Nodes[len(c.Disk.Copy.Nodes)-1]; last != "luksplug-sdb-copying" || c.Disk.Copy.Instance == c.Disk.Instance || slices.Contains(c.Disk.Nodes, last) {
			t.Errorf("copy %d: the disk has %v, and its copy %v", i, c.Disk.Nodes, c.Disk.Copy.Nodes)
		}
		wantRefused(ctx, t, client, nowhere, "luksplug-sdb-copying")
		answer := must.Get(client.Execute(ctx, command("human-monitor-command", "command-line", "savevm now")))(t)
		if !strings.Contains(string(answer), "luksplug-sdb-copying") {
			t.Errorf("savevm: %s", answer)
		}
		reasons := must.Get(client.Execute(ctx, command("query-migrate")))(t)
		if !strings.Contains(string(reasons), `blocked-reasons`) {
			t.Errorf("query-migrate: %s", reasons)
		}
		top := blockgraph.Name(c.Disk.Instance, blockgraph.RoleLUKS)
		spare := filepath.Join(t.TempDir(), "spare")
		const busy = "is busy: block device is in use by block job: mirror"
		wantRefused(ctx, t, client, command("blockdev-snapshot-sync", "node-name", top, "snapshot-file", spare, "snapshot-node-name", "snap", "format", "qcow2"), busy)
		wantRefused(ctx, t, client, command("drive-backup", "job-id", "b", "device", top, "target", spare, "sync", "full", "format", "raw"), busy)
		wantRefused(ctx, t, client, command("block_resize", "node-name", top, "size", 16<<20), busy)
		wantRefused(ctx, t, client, command("block_resize", "node-name", blockgraph.Name(c.Disk.Copy.Instance, blockgraph.RoleLUKS), "size", 16<<20), busy)
		must.OK(t, v.SetCopySpeed(ctx, "sdb", 0))
		inStep(ctx, t, v, "sdb")
		wantRefused(ctx, t, client, nowhere, "luksplug-sdb-copying")
		must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
		if guestData(t, first) != guestData(t, second) {
			t.Error("the volumes differ")
		}
	}
	must.Get(client.Execute(ctx, nowhere))(t)
}

// TestCopyGuardLeft: what an interrupted run has left of a guard is a part of the disk's copy, or of a disk that is gone, and
// is removed by Repair, by the next copy and by a detach.
func TestCopyGuardLeft(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, dial := vm(t, hotplug.Options{})
	client := other(ctx, t, dial)
	empty := state(ctx, t, v)
	leave := func() {
		t.Helper()
		must.Get(client.Execute(ctx, command("blockdev-add", "driver", "null-co", "node-name", "luksplug-sdb-copying", "read-zeroes", true)))(t)
	}
	leave()
	if removed := must.Get(v.Repair(ctx))(t); len(removed) != 1 || !slices.Equal(removed[0].Left(), []string{"node luksplug-sdb-copying"}) {
		t.Errorf("without a disk, repair has removed %+v", removed)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(empty, after) {
		t.Errorf("before %+v\nafter  %+v", empty, after)
	}
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	for _, to := range []*blockgraph.Disk{second, first} {
		before := state(ctx, t, v)
		leave()
		d := must.Get(v.List(ctx))(t)[0]
		if d.Leftover() || d.Copy == nil || !slices.Equal(d.Copy.Left(), []string{"node luksplug-sdb-copying"}) || d.Copy.Instance == d.Instance {
			t.Fatalf("listed as %+v, %+v", d, d.Copy)
		}
		if removed := must.Get(v.Repair(ctx))(t); len(removed) != 1 || removed[0].Copy == nil {
			t.Errorf("repair has removed %+v", removed)
		}
		if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
			t.Errorf("before %+v\nafter  %+v", before, after)
		}
		leave()
		must.OK(t, v.EndCopy(ctx, "sdb"))
		leave()
		must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}))
		inStep(ctx, t, v, "sdb")
		must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
	}
	leave()
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	if after := state(ctx, t, v); !reflect.DeepEqual(empty, after) {
		t.Errorf("before %+v\nafter  %+v", empty, after)
	}
}

// TestCopyGuardStays: the guard outlives every attempt to remove the parts of a copy while its job runs.
func TestCopyGuardStays(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, dial := vm(t, hotplug.Options{})
	client := other(ctx, t, dial)
	first, second := luksDisk(t, "sdb"), luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	must.OK(t, v.StartCopy(ctx, "sdb", second, store(key), hotplug.CopyOptions{Speed: 1}))
	must.Get(client.Execute(ctx, command("device_del", "id", "luksplug-sdb")))(t)
	for !must.Get(v.List(ctx))(t)[0].Leftover() {
		time.Sleep(5 * time.Millisecond)
	}
	var left *hotplug.LeftBehindError
	if _, err := v.Repair(ctx); !errors.As(err, &left) || !slices.Contains(left.Left, "node luksplug-sdb-copying") {
		t.Errorf("repair: %v", err)
	}
	wantRefused(ctx, t, client, nowhere, "luksplug-sdb-copying")
	must.OK(t, v.CancelCopy(ctx, "sdb"))
	must.Get(v.Repair(ctx))(t)
	must.Get(client.Execute(ctx, nowhere))(t)
}

// TestCopyWhileMigrating: a copy does not begin while the VM is being migrated, not even after the check.
func TestCopyWhileMigrating(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	migrate := func() {}
	v, dial := vm(t, hotplug.Options{OnStep: func(r hotplug.StepReport) {
		if r.Step.Subject == "luksplug-sdb-copying-fdset" {
			migrate()
		}
	}})
	client := other(ctx, t, dial)
	first := luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, first, store(key), hotplug.AttachOptions{}))(t)
	before := state(ctx, t, v)
	silent := filepath.Join(must.Dir(t, ""), "silent") // a listener that accepts and reads nothing
	listener := must.Get(net.Listen("unix", silent))(t)
	t.Cleanup(func() { _ = listener.Close() })
	slowly := func() {
		must.Get(client.Execute(ctx, command("migrate", "uri", "unix:"+silent)))(t)
		for !strings.Contains(string(must.Get(client.Execute(ctx, command("query-migrate")))(t)), `"active"`) {
			time.Sleep(5 * time.Millisecond)
		}
	}
	cancel := func() {
		must.Get(client.Execute(ctx, command("migrate_cancel")))(t)
		for !strings.Contains(string(must.Get(client.Execute(ctx, command("query-migrate")))(t)), `"cancelled"`) {
			time.Sleep(5 * time.Millisecond)
		}
	}
	slowly()
	if err := v.StartCopy(ctx, "sdb", luksDisk(t, "sdb"), store(key), hotplug.CopyOptions{}); !errors.Is(err, hotplug.ErrMigrating) {
		t.Errorf("before the check: %v", err)
	}
	cancel()
	migrate = slowly
	var rolledBack *hotplug.RolledBackError
	err := v.StartCopy(ctx, "sdb", luksDisk(t, "sdb"), store(key), hotplug.CopyOptions{})
	if !errors.As(err, &rolledBack) || !strings.Contains(err.Error(), "luksplug-sdb-copying") {
		t.Errorf("after the check: %v", err)
	}
	migrate = func() {}
	cancel()
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// stream is a connection that passes no descriptors.
type stream struct{ net.Conn }

// TestCopyByFiles: where the monitor passes no descriptors, the guard's image is handed over as a file, and removed at once;
// also if QEMU itself opens the new volume.
func TestCopyByFiles(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	socket, pid := qemuAt(t)
	run := must.Dir(t, "/dev/shm")
	dial := func(ctx context.Context) (*qmp.Client, error) {
		conn, err := net.Dial("unix", socket)
		if err != nil {
			return nil, err
		}
		return qmp.NewConn(ctx, stream{conn})
	}
	v := must.Get(hotplug.Connect(ctx, dial, hotplug.Options{RunDir: run, LockDir: t.TempDir(), Files: hotplug.FilesLocal,
		Process: func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(pid) }}))(t)
	t.Cleanup(func() { _ = v.Close() })
	before := state(ctx, t, v)
	must.Get(v.Attach(ctx, luksDisk(t, "sdb"), store(key), hotplug.AttachOptions{}))(t)
	plain := filepath.Join(t.TempDir(), "plain")
	must.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", plain, "8M")
	for _, to := range []*blockgraph.Disk{luksDisk(t, "sdb"), parse(t, "sdb", "qcow2", plain, ""), luksDisk(t, "sdb")} {
		must.OK(t, v.StartCopy(ctx, "sdb", to, store(key), hotplug.CopyOptions{}))
		c := inStep(ctx, t, v, "sdb")
		if d := c.Disk.Copy; !slices.Contains(d.Nodes, "luksplug-sdb-copying") || len(d.FDSets)+len(d.Files) > 0 {
			t.Errorf("copied to %v", d.Left())
		}
		must.Get(v.SwitchCopy(ctx, "sdb", hotplug.Switch{}))(t)
	}
	must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	wantNothingLeft(ctx, t, v, before, run)
}
