package hotplug

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/samedisk"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// AttachOptions are the options of an attach. The zero value suits most callers.
type AttachOptions struct {
	Spec
	// Unlock selects how the LUKS volume is unlocked; "" is [UnlockAuto].
	Unlock UnlockPolicy
	// MaxStall is the longest time that QEMU may stall the guest to unlock the volume, if it
	// does: a header that takes longer is refused, with [ErrStall]. 0 is [DefaultMaxStall],
	// and [NoMaxStall] is no limit. The time is estimated. It is unknown, and nothing is
	// refused, if the header cannot be read here: for a VM on another machine, and for an
	// image of a server if this host has no qemu-storage-daemon.
	MaxStall time.Duration
	// Before, if not nil, is called after all checks, just before the first change. It is
	// not called for a disk that is attached already. An error ends the attach, as a
	// [*PreflightError]: its own, or one of the cause ErrNotRecorded. The returned text,
	// which must not be secret, is kept on this host for as long as the disk is attached:
	// see [AttachedDisk].
	Before func(ctx context.Context, p Prepared) (keep string, err error)
}

// Prepared is a disk that is about to be attached.
type Prepared struct {
	// Devices are the devices, with the arguments of device_add.
	Devices []blockgraph.Object
	// Method is the method by which the volume is opened.
	Method blockgraph.Method
}

// Attached is the result of an attach.
type Attached struct {
	// AttachedDisk is what the VM has now.
	AttachedDisk
	// Already is true if the disk was attached before, and nothing was done.
	Already bool
	// Cleared names the leftovers of an interrupted run that were removed first.
	Cleared []string
	// Reopened are the ids of secrets that QEMU needs again if a migration of the VM fails
	// late, see [VM.MissingSecrets].
	Reopened []string
	// LayersByQEMU are the layers of a disk by [MethodEphemeralHeader] that QEMU itself unlocks
	// and whose passphrases it gets: qcow2 images with LUKS inside. nil for none.
	LayersByQEMU []string
	// Warnings are what the user should know about the disk, such as that it has taken the last
	// free port of the VM. They are logged as well.
	Warnings []string
	// Steps are the steps of the plan, with their times.
	Steps []StepReport
	// Unlocking is the time that deriving the key outside of QEMU took; about 0 if QEMU
	// derives it.
	Unlocking time.Duration
	// Duration is the time from the first step to the last.
	Duration time.Duration
}

// Attach plugs a disk into the VM. Its secret is looked up in store only when it is
// needed. If the same disk is attached already, nothing is done. Leftovers of an
// interrupted run of the disk are removed first.
//
// The LUKS volume is usually unlocked in this process, which takes a second or more and
// does not affect the VM; see [AttachOptions]. This happens before the VM is locked.
// Under the lock the disk is examined again, and only the key is kept from the first
// examination.
//
// The errors before the first change are [*PreflightError], [*VersionError],
// [*SecretError], [*LockedError] and those of package blockgraph; after it
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
	defer a.search(ctx)()

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
	if err != nil {
		return nil, err
	}
	if already != nil {
		return already, nil
	}
	choice, err := vm.ChooseUnlock(ctx, disk, state, options.Unlock)
	if err != nil {
		return nil, err
	}
	c, err := a.examine(ctx, state, choice, before.servers, check.Attach())
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
	// Before QEMU opens the image: some servers serve one client at a time, and QEMU would
	// stall until it is served.
	images.Close(ctx)
	a.warn(c)
	kept, err := a.announce(ctx, c)
	if err != nil {
		return nil, err
	}
	out, err := a.apply(ctx, c, k, kept)
	if err != nil {
		return nil, err
	}
	for _, w := range c.Plan.Graph.Warnings {
		a.host.Entry(disk.Target).Warn(w)
	}
	out.Cleared, out.Unlocking, out.Warnings = cleared, k.took, slices.Concat(c.AllWarnings(), c.Plan.Graph.Warnings)
	return out, nil
}

// attach is one attach with its arguments.
type attach struct {
	*VM
	disk    *blockgraph.Disk
	store   secrets.Store
	options AttachOptions
	images  *remoteimage.Opener
	// searches are those of both examinations.
	searches image.Searches
}

// search begins to search the payloads for plain data, beside the queries and the derivation
// of the key. The function that it returns ends that.
func (a *attach) search(ctx context.Context) (end func()) {
	ctx, cancel := context.WithCancel(ctx)
	check.Search(ctx, &check.Candidate{Host: a.host, Disk: a.disk, Searches: &a.searches})
	return func() {
		cancel()
		a.searches.Wait()
	}
}

// candidate is a disk that has passed all checks.
type candidate struct {
	*check.Candidate
	check.Findings
	choice Choice
}

// key holds the secrets of a plan, and the volume's key if it is derived here.
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

// early is the result of the examination before the VM was locked.
type early struct {
	key     *key           // nil if it is not derived here
	servers *check.Servers // nil if the disk was not examined
}

// unlockEarly checks the disk, unlocks the volume and reads the images of servers before
// the VM is locked: that takes a second, or longer with a slow server, and would block
// attaches of other disks.
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
	c, err := a.examine(ctx, state, choice, nil, check.Early())
	if err != nil {
		return early{}, err
	}
	out := early{servers: c.Findings.Servers}
	if unlocks {
		out.key, err = a.resolve(ctx, c, nil)
	}
	return out, err
}

// compare compares the disk with the one that the VM has under its target: for the same
// disk, already is set; another disk is an error; a leftover is removed.
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
		var others string
		if others, err = a.otherTarget(ctx, state); err == nil {
			err = &PreflightError{Target: a.disk.Target, Cause: ErrTargetTaken,
				Reason: fmt.Sprintf("another disk is attached as %s (%s): detach it first, or %s", a.disk.Target, difference, others)}
		}
	}
	if err != nil {
		return nil, nil, nil, err
	}
	graph, err := c.Graph(ctx)
	if err != nil {
		return nil, nil, nil, err
	}
	already = &Attached{AttachedDisk: *there, Already: true, Reopened: unlock.Reopened(graph), LayersByQEMU: layersByQEMU(a.disk, there.Unlock)}
	return state, nil, already, inventory.AddFrontends(ctx, a.conn, []*AttachedDisk{&already.AttachedDisk})
}

// otherTarget advises a target that neither luksplug nor the VM's manager uses.
func (a *attach) otherTarget(ctx context.Context, state *State) (string, error) {
	var taken []string
	for _, d := range state.Disks() {
		taken = append(taken, d.Target)
	}
	if a.opts.Disks != nil {
		others, err := a.opts.Disks(ctx)
		if err != nil {
			return "", err
		}
		for _, d := range others {
			taken = append(taken, d.Target)
		}
	}
	return blockgraph.OtherTarget(a.disk.Target, taken), nil
}

// examine plans the disk for the VM in its present state, and checks the plan. servers is
// the result of an earlier examination of images on servers, nil for none.
func (a *attach) examine(ctx context.Context, state *State, choice Choice, servers *check.Servers, checks []check.Check) (*candidate, error) {
	plan, err := a.plan(ctx, a.disk, state, choice.Unlock, a.options.Devices)
	if err != nil {
		return nil, err
	}
	c := &check.Candidate{
		Host: a.host, VM: a.check, State: state, Disk: a.disk, Plan: plan, Unlock: choice.Unlock,
		Spec: a.options.Spec, MaxStall: a.options.MaxStall, Images: a.images, Store: a.store, Servers: servers, Searches: &a.searches,
	}
	findings, err := check.Run(ctx, c, checks)
	if err != nil {
		return nil, err
	}
	return &candidate{Candidate: c, Findings: findings, choice: choice}, nil
}

// resolve gets the secrets, and the key if it is derived here. It reuses early, the
// earlier result, if the volume is still opened by the same method.
func (a *attach) resolve(ctx context.Context, c *candidate, early *key) (*key, error) {
	if early != nil && early.method == c.choice.Method {
		return early, nil
	}
	graph, to := c.Plan.Graph, unlock.ToQEMU(ctx, a.host)
	if graph.Daemon != nil {
		graph, to = graph.Daemon, unlock.ToStorageDaemon()
	}
	begin := time.Now()
	values, err := unlock.Resolve(ctx, graph, a.store, to, unlock.Unlocker{Open: a.images.Open, Progress: a.opts.OnUnlock})
	return &key{values, c.choice.Method, time.Since(begin)}, err
}

// warn logs warnings of the checks before the first change. Those of the graph are about the
// attached disk, and logged when it is.
func (a *attach) warn(c *candidate) {
	for _, w := range c.AllWarnings() {
		a.host.Entry(a.disk.Target).Warn(w)
	}
	c.choice.WarnOfStall(a.host, a.disk, c.Stall)
}

// announce calls Before of the options, and returns the text to keep.
func (a *attach) announce(ctx context.Context, c *candidate) (kept string, err error) {
	if a.options.Before == nil {
		return "", nil
	}
	p := Prepared{Method: c.choice.Method}
	for _, d := range c.Plan.Graph.Devices {
		p.Devices = append(p.Devices, d.Options)
	}
	if kept, err = a.options.Before(ctx, p); err != nil {
		return "", notRecorded(a.disk.Target, "the attach", err)
	}
	return kept, nil
}

// notRecorded returns the refusal by Before of the options; one that has its own cause is
// returned unchanged.
func notRecorded(target, what string, err error) error {
	if refused := (*PreflightError)(nil); errors.As(err, &refused) {
		return err
	}
	return &PreflightError{Target: target, Cause: ErrNotRecorded, Reason: what + " cannot be recorded", Err: err}
}

// apply makes all changes. After a failure they have been undone, on the host as well.
func (a *attach) apply(ctx context.Context, c *candidate, k *key, kept string) (*Attached, error) {
	note, err := a.note(ctx, c, kept)
	if err != nil {
		return nil, err
	}
	begin, graph := time.Now(), c.Plan.Graph
	run := a.run(c.Plan, k.values)
	run.Size = c.Size
	run.Changes = apply.Preparation{Disk: a.disk, Graph: graph, Values: k.values, Unlock: c.choice.Unlock, Note: note,
		Grants: c.Grants, OnDaemon: a.opts.OnDaemon}.Changes(a.host)
	run.Look = c.InQEMU
	disk, steps, err := run.DoAndVerify(ctx)
	if err != nil {
		return nil, err
	}
	device := graph.Device().Options
	disk.Bus, disk.Address, disk.Serial = device.Text("bus"), device.Text("addr"), device.Text("serial")
	return &Attached{AttachedDisk: *disk, Steps: steps, Duration: time.Since(begin),
		Reopened: unlock.Reopened(graph), LayersByQEMU: layersByQEMU(a.disk, c.choice.Method)}, nil
}

// layersByQEMU returns the layers that QEMU itself unlocks in spite of an ephemeral header.
func layersByQEMU(disk *blockgraph.Disk, method blockgraph.Method) []string {
	if method != blockgraph.MethodEphemeralHeader {
		return nil
	}
	var out []string
	for _, layer := range unlock.ByQEMU(disk, method) {
		out = append(out, layer.Source.String())
	}
	return out
}

// note returns the note of the disk, with what QEMU cannot be queried for; nil for none.
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

// plan builds the plan of a disk. devices are its earlier devices, nil for a disk that is
// new to the VM.
func (vm *VM) plan(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock, devices []blockgraph.Object) (*blockgraph.Plan, error) {
	machine, err := vm.machine(ctx, disk, state)
	if err != nil {
		return nil, fmt.Errorf("query the VM: %w", err)
	}
	machine.Devices = devices
	if disk, err = apply.WithHelper(ctx, vm.host, disk); err != nil {
		return nil, err
	}
	graph, err := blockgraph.Build(disk, machine, u)
	if err != nil {
		return nil, err
	}
	if graph.Device().Options.Text("bus") == rootComplex {
		return nil, &blockgraph.PlacementError{Target: disk.Target, Reason: "pcie.0 takes no hot plug: give the <address> of a pcie-root-port, or none to have a free one chosen"}
	}
	return graph.Plan(), nil
}

// rootComplex is the root bus of a PCI Express machine. Devices can be on it only from
// the start of the VM.
const rootComplex = "pcie.0"

// machine returns what the planner needs to know about the VM.
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

// clear removes a leftover and returns the state after it.
func (vm *VM) clear(ctx context.Context, disk *AttachedDisk) (*State, error) {
	state, failed, err := vm.clearAll(ctx, []*AttachedDisk{disk})
	if err == nil {
		err = failed[disk.Target]
	}
	if err != nil {
		return nil, err
	}
	return state, nil
}

// clearAll removes leftovers and returns the state after it, and the errors of those that
// could not be removed, by their targets. It queries the state once: QEMU may list any
// number of leftovers.
func (vm *VM) clearAll(ctx context.Context, leftovers []*AttachedDisk) (state *State, failed map[string]error, err error) {
	// A node that another one or a job was put on top of is not that of its device any more,
	// and the disk looks like a leftover if the device has a user's alias.
	users, err := inventory.ReadNodeUsers(ctx, vm.conn)
	if err != nil {
		return nil, nil, err
	}
	causes := map[string]error{}
	for _, d := range leftovers {
		if found := users.Of(d); len(found) > 0 {
			causes[d.Target] = fmt.Errorf("%w in the VM by %s", qmp.ErrNodeInUse, usersText(found))
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, nil, fmt.Errorf("disk %s: remove what an interrupted run has left: %w", d.Target, err)
		}
		causes[d.Target] = apply.Remove(ctx, vm.conn, vm.host, d)
	}
	_, controllers := apply.RemoveControllers(ctx, vm.conn, vm.host)
	if state, err = vm.State(ctx); err != nil {
		return nil, nil, err
	}
	there := disksOf(state)
	failed = map[string]error{}
	for _, d := range leftovers {
		cause := causes[d.Target]
		left := append(there[d.Target].Left(), apply.LeftOnHost(cause)...)
		if len(left) == 0 {
			continue
		}
		switch {
		case cause == nil && controllers == nil:
			cause = errors.New("QEMU did not remove all of it")
		case cause == nil:
			cause = controllers
		case controllers != nil:
			cause = fmt.Errorf("%w; %w", cause, controllers)
		}
		failed[d.Target] = &outcome.LeftBehindError{Target: d.Target, Left: left, Err: fmt.Errorf("what an interrupted run has left cannot be removed: %w", cause)}
	}
	return state, failed, nil
}

// disksOf returns the disks of a state by their targets.
func disksOf(state *State) map[string]*AttachedDisk {
	out := map[string]*AttachedDisk{}
	for _, d := range state.Disks() {
		out[d.Target] = d
	}
	return out
}
