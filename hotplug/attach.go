package hotplug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/access"
	"github.com/luksplug/luksplug/secrets"
)

// AttachOptions are what a caller may want of an attach. The zero value is right
// for most.
type AttachOptions struct {
	// Unlock is how the LUKS volume is unlocked; "" is [UnlockAuto].
	Unlock UnlockMode
	// AllowSharedHeader allows a detached header that another disk uses
	// already. Both payloads then have the same key: whoever sees both images
	// can tell equal sectors from different ones.
	AllowSharedHeader bool
	// Relabel gives images that the VM's QEMU may not open to its user, and its
	// SELinux label, for as long as they are attached; see package access.
	Relabel bool
	// Owners are those of the images, as they were written down when they had been
	// given to QEMU's user before; nil for nothing.
	Owners []access.Owner
	// Devices has the disk plugged where it was before, see
	// [blockgraph.Machine]; nil has a free place chosen.
	Devices []blockgraph.Object
	// Before is called when nothing stands against the attach any more, just
	// before the first change; nil for nothing. It is not called for a disk that
	// is attached already. An error ends the attach, as a [*PreflightError]. The
	// text that it returns, which must not be secret, is kept on this host for as
	// long as the disk is attached: see [Holding].
	Before func(ctx context.Context, p Prepared) (keep string, err error)
}

// Prepared is a disk that is about to be attached.
type Prepared struct {
	// Devices are the devices, as device_add is told.
	Devices []blockgraph.Object
	// Way is how the volume is opened.
	Way blockgraph.Way
	// Owners are those of the images that are about to be given to QEMU's user.
	Owners []access.Owner
}

// Attached tells what an attach has done.
type Attached struct {
	// Holding is what is in the VM now.
	Holding
	// Already is true when the disk was attached before, and nothing was done.
	Already bool
	// Cleared names what an interrupted run had left and was removed first.
	Cleared []string
	// Bus and Address say where the device is, as far as the plan says so.
	Bus, Address string
	// Serial is what the guest sees as the disk's serial, "" for none.
	Serial string
	// Reopened are the ids of secrets that QEMU needs once more when a migration
	// of the VM fails late, see [VM.Reopened].
	Reopened []string
	// Steps are the steps of the plan, with their times.
	Steps []StepReport
	// Unlocking is the time that it took to get the key, outside of the VM;
	// about 0 where QEMU does it.
	Unlocking time.Duration
	// Duration is the time from the first step to the last.
	Duration time.Duration
}

// Attach plugs a disk into the VM. Its secret comes from store and is looked up
// only when it is needed. Nothing is done when the very same disk is attached
// already; what an interrupted run left of it is removed first.
//
// As a rule the LUKS volume is unlocked in this process, which takes a second or
// more, and the VM does not notice anything of it; see [AttachOptions].
//
// Before anything is changed the errors are [*PreflightError], [*VersionError],
// [*SecretError], [*LockedError] and those of package blockgraph; after that
// [*RolledBackError] and [*LeftBehindError], which wrap the first error.
func (vm *VM) Attach(ctx context.Context, disk *blockgraph.Disk, store secrets.Store, options AttachOptions) (*Attached, error) {
	if err := disk.Validate(); err != nil {
		return nil, err
	}
	if err := disk.CheckHotplug(); err != nil {
		return nil, err
	}
	a := &attach{vm: vm, disk: disk, store: store, options: options, out: &Attached{}}
	defer func() { a.values.Wipe() }()
	defer a.closeRemote(ctx)
	if err := a.unlockFirst(ctx); err != nil {
		return nil, err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.release()
	if err := a.locked(ctx); err != nil {
		return nil, err
	}
	return a.out, nil
}

// attach is one attach.
type attach struct {
	vm      *VM
	disk    *blockgraph.Disk
	store   secrets.Store
	options AttachOptions

	values  *Values             // nil until resolved
	way     blockgraph.Way      // that the values are for
	overlay *blockgraph.Overlay // of a transient disk, nil for others
	shared  string              // what there is to warn of, "" for nothing
	kept    string              // for the note
	// arrival is where a VM comes from that is about to start, "" for one that
	// runs.
	arrival Arrival
	permits *permits // what checkPermissions has found out
	out     *Attached
	servers serverLook
}

// serverLook is what a storage daemon has shown of the disk's images on servers.
type serverLook struct {
	open *openedImage // in a daemon now, nil for none
	done bool         // all of them were looked at, and found to be right
	// size and uuid are those of the top volume, where its header had to be read
	// there.
	size int64
	uuid string
}

// ready is a disk that may be plugged in: nothing stands against it.
type ready struct {
	plan *blockgraph.Plan
	// size is that of the volume in bytes, 0 where it is not known.
	size int64
}

// unlockFirst unlocks the volume, and looks at the images of servers, before the
// VM is locked: that takes a second, or longer with a server that is slow, and
// other disks need not wait for it. The disk is checked before; what was found out
// of the VM is not relied on later, when it may have changed.
func (a *attach) unlockFirst(ctx context.Context) error {
	unlocks, looks := a.disk.Encrypted() && a.options.Unlock != UnlockQEMU, a.looksElsewhere()
	if !unlocks && !looks {
		return nil
	}
	state, err := a.vm.State(ctx)
	if err != nil {
		return err
	}
	unlocking, err := a.vm.ChooseUnlock(ctx, a.disk, state, a.options.Unlock)
	if err != nil {
		return err
	}
	unlocks = unlocks && unlocking.Way == blockgraph.ByHeader
	if h := state.Holding(a.disk.Target); h != nil || !unlocks && !looks {
		return nil
	}
	defer a.closeRemote(ctx)
	r, err := a.prepare(ctx, unlocking, state)
	if err != nil {
		return err
	}
	a.servers.done = true
	if !unlocks {
		return nil
	}
	return a.resolve(ctx, r.plan.Graph, unlocking.Way)
}

// prepare plans the disk for the VM as it is now, and checks the plan.
func (a *attach) prepare(ctx context.Context, unlocking Unlocking, state *State) (*ready, error) {
	plan, err := a.vm.planAgain(ctx, a.disk, state, unlocking.Unlock, a.options.Devices)
	if err != nil {
		return nil, err
	}
	size, err := a.preflight(ctx, plan, unlocking.Unlock, state)
	return &ready{plan: plan, size: size}, err
}

// resolve gets the secrets, and the key where it is derived here.
func (a *attach) resolve(ctx context.Context, graph *blockgraph.Graph, way blockgraph.Way) error {
	if a.values != nil && a.way == way {
		return nil
	}
	a.values.Wipe()
	a.way = way
	if graph.Daemon != nil {
		graph = graph.Daemon
	}
	begin := time.Now()
	var err error
	a.values, err = Resolve(ctx, graph, a.store, Unlocker{Open: a.openHeader, Progress: a.vm.opts.OnUnlock})
	a.out.Unlocking = time.Since(begin)
	return err
}

// locked does all that must not happen at the same time as another change of the
// VM.
func (a *attach) locked(ctx context.Context) error {
	state, err := a.vm.State(ctx)
	if err != nil {
		return err
	}
	if h := state.Holding(a.disk.Target); h != nil && !h.Leftover() {
		return a.already(ctx, state, h)
	} else if h != nil {
		a.out.Cleared = h.Left()
		a.vm.log.WithField("disk", a.disk.Target).Warnf("removing what an interrupted run has left: %v", a.out.Cleared)
		if state, err = a.vm.clear(ctx, h); err != nil {
			return err
		}
	}
	unlocking, err := a.vm.ChooseUnlock(ctx, a.disk, state, a.options.Unlock)
	if err != nil {
		return err
	}
	r, err := a.prepare(ctx, unlocking, state)
	if err != nil {
		return err
	}
	if err := a.resolve(ctx, r.plan.Graph, unlocking.Way); err != nil {
		return err
	}
	if err := a.vm.encrypt(ctx, r.plan.Graph, a.values, state); err != nil {
		return err
	}
	// Before QEMU opens the image: there are servers that serve one client at a
	// time, and QEMU would stand still until it is its turn.
	a.closeRemote(ctx)
	if a.shared != "" {
		a.vm.log.WithField("disk", a.disk.Target).Warn(a.shared)
	}
	a.vm.warnOfStall(a.disk, unlocking)
	if err := a.before(ctx, r.plan.Graph, unlocking.Way); err != nil {
		return err
	}
	if err := a.plug(ctx, r, unlocking); err != nil {
		return err
	}
	a.out.Reopened = reopened(r.plan.Graph)
	device := r.plan.Graph.Device().Options
	a.out.Bus, a.out.Address, a.out.Serial = device.Text("bus"), device.Text("addr"), device.Text("serial")
	return nil
}

// before tells the caller that the disk is about to be attached.
func (a *attach) before(ctx context.Context, graph *blockgraph.Graph, way blockgraph.Way) error {
	if a.options.Before == nil {
		return nil
	}
	p := Prepared{Way: way}
	for _, d := range graph.Devices {
		p.Devices = append(p.Devices, d.Options)
	}
	var err error
	if p.Owners, err = a.owners(ctx); err != nil {
		return &PreflightError{Target: a.disk.Target, Reason: "the images cannot be given to QEMU's user", Err: err}
	}
	if a.kept, err = a.options.Before(ctx, p); err != nil {
		return &PreflightError{Target: a.disk.Target, Reason: "the attach cannot be recorded", Err: err}
	}
	return nil
}

// already answers for a target that has a disk: the same one, or another.
func (a *attach) already(ctx context.Context, state *State, h *Holding) error {
	difference, err := a.vm.differs(ctx, a.disk, state, h)
	if err != nil {
		return err
	}
	if difference != "" {
		target := a.disk.Target
		return &PreflightError{Target: target, Reason: fmt.Sprintf("another disk is attached as %s (%s): detach it first, or give this one another target", target, difference)}
	}
	a.out.Holding, a.out.Already = *h, true
	return nil
}

// plug makes the first change, and the last. After a failure all of it has been
// taken back, on the host as well.
func (a *attach) plug(ctx context.Context, r *ready, unlocking Unlocking) error {
	begin := time.Now()
	run := &run{vm: a.vm, plan: r.plan, values: a.values, size: r.size}
	if !a.vm.filesAreLocal() {
		run.look = a.checkInQEMU
	}
	if err := a.beside(ctx, r.plan.Graph, unlocking); err != nil {
		after, cancel := a.vm.recovery(ctx)
		defer cancel()
		return errors.Join(err, a.vm.tidy(after, a.disk.Target))
	}
	err := run.steps(ctx)
	if err == nil {
		err = run.verify(ctx, a.out)
	}
	if err != nil {
		err = run.fail(ctx, err)
	}
	a.out.Steps, a.out.Duration = run.reports, time.Since(begin)
	return err
}

// beside does what has to be done on the host before the VM hears of the disk.
func (a *attach) beside(ctx context.Context, graph *blockgraph.Graph, unlocking Unlocking) error {
	if err := a.note(ctx, unlocking, overlayOf(graph)); err != nil {
		if graph.Daemon != nil || len(graph.Headers) > 0 || a.disk.Transient {
			return err
		}
		// QEMU opens the volume by itself, and needs nothing of this host's.
		a.vm.log.WithField("disk", a.disk.Target).Warnf("the host will not know of the disk: %v", err)
	}
	if err := a.permit(ctx); err != nil {
		return err
	}
	if graph.Daemon != nil {
		return a.startDaemon(ctx, graph, a.values)
	}
	if managed(a.disk) != nil {
		return a.startHelper(ctx)
	}
	if unlocking.Folder == "" {
		return nil
	}
	owner, err := a.vm.process(ctx)
	if err != nil {
		return err
	}
	_, err = a.vm.makeHandOverDir(ctx, a.disk.Target, owner)
	return err
}

// note writes down what a later run cannot ask of QEMU.
func (a *attach) note(ctx context.Context, unlocking Unlocking, o *blockgraph.Overlay) error {
	if len(a.disk.Secrets()) == 0 && a.kept == "" && o == nil || !a.vm.filesAreLocal() {
		return nil
	}
	n := note{Kept: a.kept, UUID: a.servers.uuid, Target: a.disk.Target, Way: unlocking.Way, Payload: a.disk.Image.Source.String(), Secrets: a.disk.Secrets()}
	if !a.disk.Encrypted() {
		n.Way = ""
	}
	if h := a.vm.headerOf(a.disk); h != nil {
		n.UUID = h.UUID
	}
	if o != nil {
		n.Overlay = o.Path
	}
	if header := a.disk.Header(); header != nil {
		n.Header = header.Source.String()
	}
	return a.vm.writeNote(ctx, n)
}

// Plan builds the plan of a disk for this VM as it is now, whose volume is opened
// as u says; see [VM.ChooseUnlock]. Nothing is changed.
func (vm *VM) Plan(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock) (*blockgraph.Plan, error) {
	return vm.planAgain(ctx, disk, state, u, nil)
}

// planAgain is Plan for a disk whose devices were there before; nil for one that
// is new to the VM.
func (vm *VM) planAgain(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock, devices []blockgraph.Object) (*blockgraph.Plan, error) {
	machine, err := vm.Machine(ctx, disk, state)
	if err != nil {
		return nil, fmt.Errorf("look at the VM: %w", err)
	}
	machine.Devices = devices
	if disk, err = vm.withHelper(ctx, disk); err != nil {
		return nil, err
	}
	graph, err := blockgraph.Build(disk, machine, u)
	if err != nil {
		return nil, err
	}
	for _, w := range graph.Warnings {
		vm.log.WithField("disk", disk.Target).Warn(w)
	}
	if graph.Device().Options.Text("bus") == rootComplex {
		return nil, &blockgraph.PlacementError{Target: disk.Target, Reason: "pcie.0 takes no hot plug: give the <address> of a pcie-root-port, or none to have a free one chosen"}
	}
	return graph.Plan(), nil
}

// rootComplex is the root bus of a PCI Express machine. Devices can only be on
// it from the start of the VM.
const rootComplex = "pcie.0"

// clear removes a leftover and returns what exists then.
func (vm *VM) clear(ctx context.Context, h *Holding) (*State, error) {
	_, err := vm.removeAll(ctx, h)
	state, stateErr := vm.State(ctx)
	if stateErr != nil {
		return nil, stateErr
	}
	if left := state.Holding(h.Target); left != nil {
		if err == nil {
			err = fmt.Errorf("QEMU did not remove all of it")
		}
		return nil, &LeftBehindError{Target: h.Target, Left: left.Left(), Err: fmt.Errorf("what an interrupted run has left cannot be removed: %w", err)}
	}
	return state, nil
}
