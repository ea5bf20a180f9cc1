package integration

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// connected connects to a VM's monitor, or to a proxy in front of it.
func connected(ctx context.Context, t *testing.T, q *peer.QEMU, address, locks, run string) *hotplug.VM {
	t.Helper()
	v := must.Get(hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, address) }, hotplug.Options{
		LockDir: locks, RunDir: run, Process: func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(q.PID) }}))(t)
	t.Cleanup(func() { _ = v.Close() })
	return v
}

// copyRig is a VM with a disk at sda, and two equal volumes between which it is copied.
type copyRig struct {
	q         *peer.QEMU
	locks     string
	run       string
	direct    *hotplug.VM
	keys      passphrases
	disks     [2]*blockgraph.Disk
	volumes   [2]*peer.Volume
	undone    int // calls of Switch.Undo
	didBefore int // calls of Switch.Before
}

// newCopyRig starts the VM and attaches the first volume.
func newCopyRig(ctx context.Context, t *testing.T, o peer.Options, bus string, edit func(*blockgraph.Disk)) *copyRig {
	t.Helper()
	third := filepath.Join(shortDir(t, ""), "third") // a monitor serves one client at a time, and the first is for a proxy
	o.Extra = append(o.Extra, "-qmp", "unix:"+third+",server=on,wait=off")
	r := &copyRig{q: peer.Start(t, o), locks: t.TempDir(), run: shortDir(t, ""), keys: passphrases{}}
	r.direct = connected(ctx, t, r.q, third, r.locks, r.run)
	target := "sda"
	if bus == "virtio" {
		target = "vda"
	}
	for i := range r.disks {
		v := peer.NewVolume(t, peer.EmbeddedLUKS)
		r.volumes[i] = v
		r.keys[uuid.MustParse(v.SecretUUID)] = v.Passphrase
		r.disks[i] = must.Get(diskxml.ParseDisk([]byte(v.DiskXML(target, bus))))(t)
		if edit != nil {
			edit(r.disks[i])
		}
	}
	must.Get(r.direct.Attach(ctx, r.disks[0], r.keys, hotplug.AttachOptions{}))(t)
	return r
}

// now returns the attached disk.
func (r *copyRig) now(ctx context.Context, t *testing.T) *hotplug.AttachedDisk {
	t.Helper()
	return must.Get(r.direct.List(ctx))(t)[0]
}

// other returns the volume that the device does not use.
func (r *copyRig) other(ctx context.Context, t *testing.T) *blockgraph.Disk {
	t.Helper()
	if r.now(ctx, t).Payload == r.disks[0].Image.Source.Path {
		return r.disks[1]
	}
	return r.disks[0]
}

func (r *copyRig) start(ctx context.Context, t *testing.T, v *hotplug.VM) error {
	return v.StartCopy(ctx, r.disks[0].Target, r.other(ctx, t), r.keys, hotplug.CopyOptions{})
}

func (r *copyRig) switchTo(ctx context.Context, v *hotplug.VM) error {
	_, err := v.SwitchCopy(ctx, r.disks[0].Target, hotplug.Switch{
		Before: func(context.Context) error { r.didBefore++; return nil },
		Undo:   func(context.Context) error { r.undone++; return nil }})
	return err
}

// inStep waits until the copy is in step.
func (r *copyRig) inStep(ctx context.Context, t *testing.T) {
	t.Helper()
	must.OK(t, r.direct.ConvergeCopy(ctx, r.disks[0].Target))
	for {
		switch c := must.Get(r.direct.Copy(ctx, r.disks[0].Target))(t); c.Phase {
		case hotplug.CopyInStep:
			return
		case hotplug.CopyRunning:
			time.Sleep(5 * time.Millisecond)
		default:
			t.Fatalf("the copy is %s: %v", c.Phase, c.Err)
		}
	}
}

// copying returns the copy, nil for none.
func (r *copyRig) copying(ctx context.Context, t *testing.T) *hotplug.Copy {
	t.Helper()
	c, err := r.direct.Copy(ctx, r.disks[0].Target)
	if err != nil && !errors.Is(err, hotplug.ErrNoCopy) {
		t.Fatal(err)
	}
	return c
}

// operation is an operation on a copy whose connection is cut.
type operation struct {
	prepare func(ctx context.Context, t *testing.T, r *copyRig)
	run     func(ctx context.Context, t *testing.T, r *copyRig, v *hotplug.VM) error
	// check checks the outcome that was reported, nil for success, and continues.
	check func(ctx context.Context, t *testing.T, r *copyRig, err error)
}

// rolledBack reports whether an error promises that nothing was changed.
func rolledBack(err error) bool {
	var back *hotplug.RolledBackError
	var left *hotplug.LeftBehindError
	return errors.As(err, &back) || !errors.As(err, &left)
}

var copyOperations = map[string]operation{
	"start": {
		prepare: func(context.Context, *testing.T, *copyRig) {},
		run:     func(ctx context.Context, t *testing.T, r *copyRig, v *hotplug.VM) error { return r.start(ctx, t, v) },
		check: func(ctx context.Context, t *testing.T, r *copyRig, err error) {
			c := r.copying(ctx, t)
			switch {
			case err == nil && (c == nil || c.Phase == hotplug.CopyEnded):
				t.Errorf("it is said to run, and is %+v", c)
			case err != nil && rolledBack(err) && c != nil:
				t.Errorf("%v, and it is %s with %v", err, c.Phase, c.Disk.Copy.Left())
			case err != nil && (c == nil || c.Phase == hotplug.CopyEnded):
				must.OK(t, r.start(ctx, t, r.direct))
			}
			r.inStep(ctx, t)
			must.OK(t, r.direct.CancelCopy(ctx, r.disks[0].Target))
		},
	},
	"switch": {
		prepare: func(ctx context.Context, t *testing.T, r *copyRig) {
			must.OK(t, r.start(ctx, t, r.direct))
			r.inStep(ctx, t)
			r.undone, r.didBefore = 0, 0
		},
		run: func(ctx context.Context, _ *testing.T, r *copyRig, v *hotplug.VM) error { return r.switchTo(ctx, v) },
		check: func(ctx context.Context, t *testing.T, r *copyRig, err error) {
			c := r.copying(ctx, t)
			switch {
			case err == nil && c != nil:
				t.Errorf("it is said to be switched, and is %s with %v", c.Phase, c.Disk.Copy.Left())
			case err == nil:
			case rolledBack(err):
				if c == nil || r.undone != r.didBefore {
					t.Fatalf("%v, and the copy is %+v; undone %d of %d", err, c, r.undone, r.didBefore)
				}
				if c.Phase == hotplug.CopyEnded { // to be sure, it was canceled
					must.OK(t, r.start(ctx, t, r.direct))
				}
				r.inStep(ctx, t)
				must.OK(t, r.switchTo(ctx, r.direct))
			case c == nil:
			case c.Phase == hotplug.CopyEnded:
				must.OK(t, r.direct.EndCopy(ctx, r.disks[0].Target))
			default:
				r.inStep(ctx, t)
				must.OK(t, r.switchTo(ctx, r.direct))
			}
		},
	},
	"cancel": {
		prepare: func(ctx context.Context, t *testing.T, r *copyRig) { must.OK(t, r.start(ctx, t, r.direct)) },
		run: func(ctx context.Context, _ *testing.T, r *copyRig, v *hotplug.VM) error {
			return v.CancelCopy(ctx, r.disks[0].Target)
		},
		check: func(ctx context.Context, t *testing.T, r *copyRig, err error) {
			if c := r.copying(ctx, t); (err == nil) != (c == nil) {
				t.Errorf("it ends with %v, and the copy is %+v", err, c)
			}
			if err != nil {
				must.OK(t, r.direct.CancelCopy(ctx, r.disks[0].Target))
			}
		},
	},
}

// TestCopyCut: the connection is lost around each command of a copy's start, switch and cancel. The outcome that is reported is
// the VM's, and a further call continues. The content of the disk is never lost.
func TestCopyCut(t *testing.T) {
	t.Parallel()
	cuts := map[string]peer.Cut{"before the reply": peer.CutBeforeReply, "before QEMU has it": peer.CutBeforeForward}
	if peer.IsLong() {
		cuts["after the reply"] = peer.CutAfterReply
	}
	for name, o := range copyOperations {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			r := newCopyRig(ctx, t, peer.Options{SCSI: true, RootPorts: 1, Paused: true}, "scsi", nil)
			before := must.Get(r.direct.State(ctx))(t)
			for when, cut := range cuts {
				for n := 1; r.cut(ctx, t, o, when, cut, n); n++ {
					continue
				}
			}
			if d := r.now(ctx, t); d.Payload != r.disks[0].Image.Source.Path { // once back, the VM is as it was
				must.OK(t, r.start(ctx, t, r.direct))
				r.inStep(ctx, t)
				must.OK(t, r.switchTo(ctx, r.direct))
			}
			after := must.Get(r.direct.State(ctx))(t)
			if len(after.Nodes) != len(before.Nodes) || len(after.Objects) != len(before.Objects) {
				t.Errorf("before %+v\nafter  %+v", before, after)
			}
			must.Get(r.direct.Detach(ctx, r.disks[0].Target, hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
			if left := must.Get(os.ReadDir(r.run))(t); len(left) != 0 {
				t.Errorf("left on the host: %v", left)
			}
		})
	}
}

// cut runs an operation whose connection is cut at step n, and checks its outcome. It reports whether there was such a step.
func (r *copyRig) cut(ctx context.Context, t *testing.T, o operation, when string, cut peer.Cut, n int) bool {
	t.Helper()
	o.prepare(ctx, t, r)
	hit := ""
	proxy := peer.NewProxy(t, r.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) (v peer.Verdict) {
		if c.Step == n {
			v.Cut, hit = cut, c.Name
		}
		return v
	}})
	v := connected(ctx, t, r.q, proxy.Address, r.locks, r.run)
	err := o.run(ctx, t, r, v)
	_ = v.Close()
	if hit == "" && err != nil {
		t.Errorf("without a cut: %v", err)
	}
	t.Logf("cut %s at step %d %s: %v", when, n, hit, err)
	if o.check(ctx, t, r, err); r.copying(ctx, t) != nil {
		t.Fatalf("a copy is left: %+v", r.copying(ctx, t))
	}
	return hit != ""
}

// TestCopyCutFilters: a job that replaces a node below filters is not told twice to complete, by which QEMU aborts.
func TestCopyCutFilters(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	r := newCopyRig(ctx, t, peer.Options{SCSI: true, RootPorts: 1, Paused: true, Extra: []string{"-object", "throttle-group,id=throttle-slow,x-iops-total=100000"}}, "scsi",
		func(d *blockgraph.Disk) { d.ThrottleFilters = []string{"slow"} })
	for when, cut := range map[string]peer.Cut{"before the reply": peer.CutBeforeReply, "before QEMU has it": peer.CutBeforeForward} {
		r.cut(ctx, t, copyOperations["switch"], when, cut, 1)
	}
}

// TestCopyCutForGood: after the command that decides, the connection cannot be opened again. The error says that it is not known
// which volume the disk uses, or that the copy may run; a further call finds out.
func TestCopyCutForGood(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	r := newCopyRig(ctx, t, peer.Options{SCSI: true, RootPorts: 1, Paused: true}, "scsi", nil)
	for _, c := range []struct{ operation, command string }{{"start", "blockdev-mirror"}, {"switch", "job-complete"}, {"cancel", "job-cancel"}} {
		o := copyOperations[c.operation]
		o.prepare(ctx, t, r)
		proxy := peer.NewProxy(t, r.q.Socket, peer.ProxyHooks{
			Connect: func(n int) bool { return n == 1 },
			Command: func(cmd peer.Command) (v peer.Verdict) {
				if cmd.Name == c.command {
					v.Cut = peer.CutBeforeReply
				}
				return v
			}})
		v := connected(ctx, t, r.q, proxy.Address, r.locks, r.run)
		err := o.run(ctx, t, r, v)
		_ = v.Close()
		var left *hotplug.LeftBehindError
		if err == nil || c.operation != "cancel" && (!errors.As(err, &left) || !left.Unverified) {
			t.Errorf("%s: %v", c.operation, err)
		}
		if c.operation == "cancel" { // which promises nothing but that it may be repeated
			must.OK(t, r.direct.CancelCopy(ctx, r.disks[0].Target))
			continue
		}
		o.check(ctx, t, r, err)
		if c := r.copying(ctx, t); c != nil {
			t.Errorf("a copy is left: %+v", c)
		}
	}
}
