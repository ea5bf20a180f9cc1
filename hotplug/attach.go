package hotplug

import (
	"context"
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/samedisk"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets"
)

// AttachOptions are what a caller may want of an attach. The zero value is right
// for most.
type AttachOptions struct {
	Spec
	// Unlock says how the LUKS volume is unlocked; "" is [UnlockAuto].
	Unlock UnlockPolicy
	// Before is called after all checks, just before the first change; nil for nothing. It is not called for a disk that
	// is attached already. An error ends the attach, as a [*PreflightError]. The
	// text that it returns, which must not be secret, is kept on this host for as
	// long as the disk is attached: see [AttachedDisk].
	Before func(ctx context.Context, p Prepared) (keep string, err error)
}

// Prepared is a disk that is about to be attached.
type Prepared struct {
	// Devices are the devices, as device_add is told.
	Devices []blockgraph.Object
	// Method is how the volume is opened.
	Method blockgraph.Method
	// Owners are those of the images that are about to be given to QEMU's user.
	Owners []Owner
}

// Attached says what an attach has done.
type Attached struct {
	// AttachedDisk is what is in the VM now.
	AttachedDisk
	// Already is true when the disk was attached before, and nothing was done.
	Already bool
	// Cleared names what an interrupted run had left and was removed first.
	Cleared []string
	// Bus and Address say where the device is, as far as the plan says so.
	Bus, Address string
	// Serial is what the guest sees as the disk's serial, "" for none.
	Serial string
	// Reopened are the ids of secrets that QEMU needs once more when a migration
	// of the VM fails late, see [VM.MissingSecrets].
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
// more, and the VM does not notice anything of it; see [AttachOptions]. That happens
// before the VM is locked, and what was found out of the VM by then is found out
// again under the lock: of the first examination only the key is used.
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
	images := &remoteimage.Opener{Host: vm.host, Store: store, Target: disk.Target}
	defer images.Close(ctx)
	a := &attach{VM: vm, disk: disk, store: store, options: options, images: images}

	before, err := a.unlockEarly(ctx)
	defer before.key.wipe()
	if err != nil {
		return nil, err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	state, cleared, already, err := a.compare(ctx)
	if err != nil || already != nil {
		return already, err
	}
	choice, err := vm.ChooseUnlock(ctx, disk, state, options.Unlock)
	if err != nil {
		return nil, err
	}
	c, err := a.examine(ctx, state, choice, before.servers)
	if err != nil {
		return nil, err
	}
	k, err := a.resolve(ctx, c, before.key)
	defer k.wipe()
	if err != nil {
		return nil, err
	}
	if err := k.values.Encrypt(ctx, vm.conn, vm.host, c.Plan.Graph, state); err != nil {
		return nil, err
	}
	// Before QEMU opens the image: there are servers that serve one client at a
	// time, and QEMU would stand still until it is its turn.
	images.Close(ctx)
	a.warn(ctx, c)
	kept, err := a.announce(ctx, c)
	if err != nil {
		return nil, err
	}
	out, err := a.apply(ctx, c, k, kept)
	if err != nil {
		return nil, err
	}
	out.Cleared, out.Unlocking = cleared, k.took
	return out, nil
}

// attach is one attach: what the caller gave to it.
type attach struct {
	*VM
	disk    *blockgraph.Disk
	store   secrets.Store
	options AttachOptions
	images  *remoteimage.Opener
}

// candidate is a disk that has passed all checks.
type candidate struct {
	*check.Candidate
	check.Findings
	choice Choice
}

// key is the secrets of a plan, with the volume's key where it is derived here.
type key struct {
	values *unlock.Values
	method blockgraph.Method
	took   time.Duration
}

func (k *key) wipe() {
	if k != nil {
		k.values.Wipe()
	}
}

// early is what was found out before the VM was locked.
type early struct {
	key     *key           // nil where it is not derived here
	servers *check.Servers // nil where the disk was not examined
}

// unlockEarly unlocks the volume, and looks at the images of servers, before the
// VM is locked: that takes a second, or longer with a server that is slow, and
// other disks need not wait for it. The disk is checked before.
func (a *attach) unlockEarly(ctx context.Context) (early, error) {
	unlocks := a.disk.Encrypted() && a.options.Unlock != UnlockQEMU
	looks := check.LooksAtServers(a.host, a.disk)
	if !unlocks && !looks {
		return early{}, nil
	}
	state, err := a.State(ctx)
	if err != nil {
		return early{}, err
	}
	choice, err := a.ChooseUnlock(ctx, a.disk, state, a.options.Unlock)
	if err != nil {
		return early{}, err
	}
	unlocks = unlocks && choice.Method == blockgraph.MethodEphemeralHeader
	if state.Disk(a.disk.Target) != nil || !unlocks && !looks {
		return early{}, nil
	}
	defer a.images.Close(ctx)
	c, err := a.examine(ctx, state, choice, nil)
	if err != nil {
		return early{}, err
	}
	out := early{servers: c.Findings.Servers}
	if unlocks {
		out.key, err = a.resolve(ctx, c, nil)
	}
	return out, err
}

// compare looks at what the VM has under the target: the same disk, for which nothing
// is to be done, another one, which refuses this one, or a leftover, which is removed.
func (a *attach) compare(ctx context.Context) (state *State, cleared []string, already *Attached, err error) {
	if state, err = a.State(ctx); err != nil {
		return nil, nil, nil, err
	}
	there := state.Disk(a.disk.Target)
	switch {
	case there == nil:
		return state, nil, nil, nil
	case there.Leftover():
		cleared = there.Left()
		a.host.Entry(a.disk.Target).Warnf("removing what an interrupted run has left: %v", cleared)
		state, err = a.clear(ctx, there)
		return state, cleared, nil, err
	}
	c := samedisk.Comparison{VM: a.check, Host: a.host, State: state, Disk: a.disk, Attached: there, Others: a.opts.Disks}
	difference, err := c.Difference(ctx)
	if err == nil && difference != "" {
		err = &PreflightError{Target: a.disk.Target, Cause: ErrTargetTaken,
			Reason: fmt.Sprintf("another disk is attached as %s (%s): detach it first, or give this one another target", a.disk.Target, difference)}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	return state, nil, &Attached{AttachedDisk: *there, Already: true}, nil
}

// examine plans the disk for the VM as it is now, and checks the plan. servers is
// what an earlier examination has found out of images on servers, nil for none.
func (a *attach) examine(ctx context.Context, state *State, choice Choice, servers *check.Servers) (*candidate, error) {
	plan, err := a.plan(ctx, a.disk, state, choice.Unlock, a.options.Devices)
	if err != nil {
		return nil, err
	}
	c := &check.Candidate{
		Host: a.host, VM: a.check, State: state, Disk: a.disk, Plan: plan, Unlock: choice.Unlock,
		Spec: a.options.Spec, Images: a.images, Store: a.store, Servers: servers,
	}
	findings, err := check.Run(ctx, c, check.Attach())
	if err != nil {
		return nil, err
	}
	return &candidate{Candidate: c, Findings: findings, choice: choice}, nil
}

// resolve gets the secrets, and the key where it is derived here. early is what was
// got before; it counts where the volume is still opened by the same method.
func (a *attach) resolve(ctx context.Context, c *candidate, early *key) (*key, error) {
	if early != nil && early.method == c.choice.Method {
		return early, nil
	}
	graph := c.Plan.Graph
	if graph.Daemon != nil {
		graph = graph.Daemon
	}
	begin := time.Now()
	values, err := unlock.Resolve(ctx, graph, a.store, unlock.Unlocker{Open: a.images.Open, Progress: a.opts.OnUnlock})
	return &key{values, c.choice.Method, time.Since(begin)}, err
}

// warn tells the log what the user should know before the first change.
func (a *attach) warn(ctx context.Context, c *candidate) {
	for _, w := range c.AllWarnings() {
		a.host.Entry(a.disk.Target).Warn(w)
	}
	c.choice.WarnOfStall(ctx, a.host, a.disk)
}

// announce tells the caller that the disk is about to be attached, and returns what
// it wants kept.
func (a *attach) announce(ctx context.Context, c *candidate) (kept string, err error) {
	if a.options.Before == nil {
		return "", nil
	}
	p := Prepared{Method: c.choice.Method}
	for _, d := range c.Plan.Graph.Devices {
		p.Devices = append(p.Devices, d.Options)
	}
	if p.Owners, err = c.Permits.Before(ctx, a.host, a.options.Spec); err != nil {
		return "", &PreflightError{Target: a.disk.Target, Cause: ErrPermission, Reason: "the images cannot be given to QEMU's user", Err: err}
	}
	if kept, err = a.options.Before(ctx, p); err != nil {
		return "", &PreflightError{Target: a.disk.Target, Cause: ErrNotRecorded, Reason: "the attach cannot be recorded", Err: err}
	}
	return kept, nil
}

// apply makes the first change, and the last. After a failure all of it has been
// taken back, on the host as well.
func (a *attach) apply(ctx context.Context, c *candidate, k *key, kept string) (*Attached, error) {
	note, err := a.note(ctx, c, kept)
	if err != nil {
		return nil, err
	}
	begin, graph := time.Now(), c.Plan.Graph
	run := a.run(c.Plan, k.values)
	run.Size = c.Size
	run.Changes = apply.Preparation{Disk: a.disk, Graph: graph, Values: k.values, Unlock: c.choice.Unlock, Note: note,
		Permits: c.Permits, OnDaemon: a.opts.OnDaemon}.Changes(a.host)
	if !a.host.Local {
		run.Look = c.InQEMU
	}
	disk, steps, err := run.DoAndVerify(ctx)
	if err != nil {
		return nil, err
	}
	device := graph.Device().Options
	return &Attached{
		AttachedDisk: *disk, Steps: steps, Duration: time.Since(begin), Reopened: unlock.Reopened(graph),
		Bus: device.Text("bus"), Address: device.Text("addr"), Serial: device.Text("serial"),
	}, nil
}

// note returns what a later run cannot query QEMU for; nil for nothing.
func (a *attach) note(ctx context.Context, c *candidate, kept string) (*rundir.Note, error) {
	overlay := apply.OverlayOf(c.Plan.Graph)
	if len(a.disk.Secrets()) == 0 && kept == "" && overlay == nil || !a.host.Local {
		return nil, nil
	}
	uuid := ""
	if h := unlock.HeaderOf(ctx, a.host, a.disk); h != nil {
		uuid = h.UUID
	} else if c.Findings.Servers != nil {
		uuid = c.Findings.Servers.UUID
	}
	n, err := a.host.Note(ctx, a.disk, c.choice.Method, uuid)
	n.Kept = kept
	if overlay != nil {
		n.Overlay = overlay.Path
	}
	return &n, err
}

// plan builds the plan of a disk. devices are those that it had before, nil for a
// disk that is new to the VM.
func (vm *VM) plan(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock, devices []blockgraph.Object) (*blockgraph.Plan, error) {
	machine, err := vm.machine(ctx, disk, state)
	if err != nil {
		return nil, fmt.Errorf("look at the VM: %w", err)
	}
	machine.Devices = devices
	if disk, err = apply.WithHelper(ctx, vm.host, disk); err != nil {
		return nil, err
	}
	graph, err := blockgraph.Build(disk, machine, u)
	if err != nil {
		return nil, err
	}
	for _, w := range graph.Warnings {
		vm.host.Entry(disk.Target).Warn(w)
	}
	if graph.Device().Options.Text("bus") == rootComplex {
		return nil, &blockgraph.PlacementError{Target: disk.Target, Reason: "pcie.0 takes no hot plug: give the <address> of a pcie-root-port, or none to have a free one chosen"}
	}
	return graph.Plan(), nil
}

// rootComplex is the root bus of a PCI Express machine. Devices can only be on
// it from the start of the VM.
const rootComplex = "pcie.0"

// machine returns what the planner has to know of the VM.
func (vm *VM) machine(ctx context.Context, disk *blockgraph.Disk, state *State) (blockgraph.Machine, error) {
	m, err := inventory.Machine(ctx, vm.conn, disk, state)
	if err != nil {
		return m, err
	}
	if disk.Transient {
		if m.Name, err = vm.host.OverlayName(ctx); err != nil {
			return m, err
		}
	}
	if vm.opts.Disks != nil {
		if m.Disks, err = vm.opts.Disks(ctx); err != nil {
			return m, fmt.Errorf("query which disks it has: %w", err)
		}
	}
	if s := disk.Image.Source; s.Kind == blockgraph.SourceVHostUser && s.Reconnect != 0 {
		schema, err := vm.Client().Schema(ctx)
		if err != nil {
			return m, fmt.Errorf("query QEMU for its schema: %w", err)
		}
		m.ReconnectSeconds = !schema.Supports("chardev-add", "backend.socket.data.reconnect-ms")
	}
	return m, nil
}

// clear removes a leftover and returns what exists then.
func (vm *VM) clear(ctx context.Context, disk *AttachedDisk) (*State, error) {
	_, err := apply.RemoveAll(ctx, vm.conn, vm.host, disk)
	state, stateErr := vm.State(ctx)
	if stateErr != nil {
		return nil, stateErr
	}
	left := apply.LeftOnHost(err)
	if there := state.Disk(disk.Target); there != nil {
		left = append(there.Left(), left...)
	}
	if len(left) == 0 {
		return state, nil
	}
	if err == nil {
		err = fmt.Errorf("QEMU did not remove all of it")
	}
	return nil, &outcome.LeftBehindError{Target: disk.Target, Left: left, Err: fmt.Errorf("what an interrupted run has left cannot be removed: %w", err)}
}
