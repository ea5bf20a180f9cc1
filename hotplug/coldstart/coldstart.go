// Package coldstart prepares disks of a VM whose QEMU does not exist yet: QEMU gets them
// as arguments, and the files that the arguments name are written before it starts. It is
// used by a libvirt hook.
package coldstart

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/grant"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/hotplug/internal/startgraph"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

// VM is a VM of this host that is about to start. It is not safe for concurrent use. The
// caller has to prevent another start of the VM meanwhile.
type VM struct {
	host *host.Host
}

// Options of a VM. The zero value suits most programs.
type Options struct {
	// Name, Log, RunDir and LockDir are as in package hotplug's Options.
	Name            string
	Log             logrus.FieldLogger
	RunDir, LockDir string
	// User is the user that QEMU is going to run as. If it is nil, no file can be
	// prepared.
	User *hostproc.Credential
	// Labels are the security labels that QEMU is going to have.
	Labels host.Labels
}

// New returns the VM with this UUID.
func New(uuid string, o Options) *VM {
	h := host.New(o.Name, o.Log)
	h.Local, h.Run, h.Lock = true, o.RunDir, o.LockDir
	h.FindID = func(context.Context) (string, error) { return uuid, nil }
	process := &host.Process{User: o.User, Labels: o.Labels}
	h.FindProcess = func(context.Context) (*host.Process, error) { return process, nil }
	return &VM{host: h}
}

// Arrival is where the VM comes from.
type Arrival string

const (
	// ArrivalBoot: it boots. No process has its images open.
	ArrivalBoot Arrival = ""
	// ArrivalRestore: it is restored from a saved state. No process has its images open.
	ArrivalRestore Arrival = "restore"
	// ArrivalMigration: the VM's QEMU on another host has its images open until it hands
	// them over.
	ArrivalMigration Arrival = "migration"
)

// Disk is a disk of a VM that is about to start.
type Disk struct {
	Disk *blockgraph.Disk
	// Method is the method by which the volume is opened: MethodQEMU or
	// MethodEphemeralHeader. Neither stalls a guest that has not started;
	// MethodEphemeralHeader keeps the passphrase out of QEMU.
	Method blockgraph.Method
	spec.Spec
}

// Method returns the method by which a starting VM opens the disk, given the method for a
// running VM.
func Method(disk *blockgraph.Disk, running blockgraph.Method) blockgraph.Method {
	if running != blockgraph.MethodEphemeralHeader {
		return blockgraph.MethodQEMU
	}
	for _, layer := range disk.Layers() {
		if layer.RawLUKS() {
			return blockgraph.MethodEphemeralHeader
		}
	}
	return blockgraph.MethodQEMU
}

// graph builds the disk's graph for a VM that is started with it.
func (vm *VM) graph(ctx context.Context, d Disk) (*blockgraph.Graph, blockgraph.Unlock, error) {
	return startgraph.Build(ctx, vm.host, d.Disk, startgraph.Options{Method: d.Method, Devices: d.Devices})
}

// Arguments are the arguments that start QEMU with a disk.
type Arguments struct {
	// Arguments are QEMU's options, each followed by its value.
	Arguments []string
	// Limits are the arguments of block_set_io_throttle, to be executed once QEMU runs;
	// nil for none. QEMU has no command-line option for them.
	Limits blockgraph.Object
	// Reopened are the ids of secrets that QEMU needs again when the guest of an arriving
	// VM resumes: the qcow2 driver then reopens an image that another QEMU had open
	// (qcow2_co_invalidate_cache).
	Reopened []string
}

// Arguments returns the disk as arguments for QEMU, which name files that [VM.Prepare]
// writes. It reads no file and no secret.
func (vm *VM) Arguments(ctx context.Context, d Disk) (*Arguments, error) {
	graph, _, err := vm.graph(ctx, d)
	if err != nil {
		return nil, err
	}
	disk, err := vm.host.Disk(ctx, d.Disk.Target)
	if err != nil {
		return nil, err
	}
	out := &Arguments{Limits: graph.Throttling, Reopened: unlock.Reopened(graph)}
	graph.Throttling = nil
	out.Arguments, err = render.Arguments(graph.Plan(), func(o blockgraph.GraphObject) (string, error) { return filepath.Join(disk.HandOver(), o.ID), nil })
	return out, err
}

// Check returns nil if the disk could be started now: it examines its
// files as an attach does and looks its secrets up, but derives no key. It changes
// nothing. The errors are those of an attach.
func (vm *VM) Check(ctx context.Context, d Disk, arrival Arrival, store secrets.Store) error {
	c, _, err := vm.check(ctx, d, arrival, store)
	if err != nil {
		return err
	}
	defer c.Images.Close(ctx)
	for _, o := range c.Plan.Graph.Objects {
		data, ok := o.Secret()
		if !ok || !data.Kept() {
			continue
		}
		secret, err := store.Lookup(ctx, o.Ref)
		if err != nil {
			return &outcome.SecretError{Target: d.Disk.Target, Ref: o.Ref, Err: err}
		}
		secret.Wipe()
	}
	return nil
}

// check examines the disk's files. The caller closes the candidate's images.
func (vm *VM) check(ctx context.Context, d Disk, arrival Arrival, store secrets.Store) (*check.Candidate, check.Findings, error) {
	if err := d.Disk.Validate(); err != nil {
		return nil, check.Findings{}, err
	}
	graph, u, err := vm.graph(ctx, d)
	if err != nil {
		return nil, check.Findings{}, err
	}
	c := &check.Candidate{
		Host: vm.host, State: &inventory.State{}, Disk: d.Disk, Plan: graph.Plan(), Unlock: u, Spec: d.Spec, Moving: arrival == ArrivalMigration,
		Images: &remoteimage.Opener{Host: vm.host, Store: store, Target: d.Disk.Target}, Store: store, Searches: &image.Searches{},
	}
	findings, err := check.Run(ctx, c, check.Start())
	if err != nil {
		c.Images.Close(ctx)
		return nil, findings, err
	}
	return c, findings, nil
}

// Prepare does what Check does, derives the keys, and writes the files that QEMU reads
// when it starts: the passphrases of [VM.Arguments] and, by MethodEphemeralHeader,
// ephemeral headers, each in memory and readable by QEMU's user only. If the disk's Spec
// says so, images that QEMU may not open are given to its user. After a failure the
// changes are undone, or the error names what is left.
//
// [VM.Started] or [VM.Gone] removes the files, [VM.GiveBack] returns the images.
func (vm *VM) Prepare(ctx context.Context, d Disk, arrival Arrival, store secrets.Store) error {
	c, findings, err := vm.check(ctx, d, arrival, store)
	if err != nil {
		return err
	}
	defer c.Images.Close(ctx)
	values, err := resolve(ctx, c, store)
	if err != nil {
		return err
	}
	defer values.Wipe()
	for _, w := range findings.AllWarnings() {
		vm.host.Entry(d.Disk.Target).Warn(w)
	}
	return apply.Start(ctx, vm.host, apply.StartFiles{Target: d.Disk.Target, Graph: c.Plan.Graph, Values: values, Grants: findings.Grants})
}

// Rehearse does what Prepare does before its first change: it examines the files, looks the
// secrets up, and derives the keys. The errors are those of Prepare.
func (vm *VM) Rehearse(ctx context.Context, d Disk, arrival Arrival, store secrets.Store) error {
	c, _, err := vm.check(ctx, d, arrival, store)
	if err != nil {
		return err
	}
	defer c.Images.Close(ctx)
	values, err := resolve(ctx, c, store)
	if err == nil {
		values.Wipe()
	}
	return err
}

// resolve looks the secrets of a candidate up, and derives its keys.
func resolve(ctx context.Context, c *check.Candidate, store secrets.Store) (*unlock.Values, error) {
	return unlock.Resolve(ctx, c.Plan.Graph, store, unlock.ToNewQEMU(), unlock.Unlocker{Open: c.Images.Open})
}

// Confine adds what QEMU opens for the disks to the VM's AppArmor profile, with the socket
// that QEMU creates for luksplug's monitor, "" for none. libvirt has made the profile, which
// Labels of the options names, after [VM.Prepare] and before QEMU starts. Other disks have
// no lines afterwards. It does nothing for a VM without such a profile.
func (vm *VM) Confine(ctx context.Context, disks []Disk, monitor string) error {
	files := map[string][]access.File{}
	for _, d := range disks {
		files[d.Disk.Target] = grant.Opened(d.Disk, d.Method, d.Spec)
	}
	return grant.Confine(ctx, vm.host, files, monitor)
}

// Started removes the files that QEMU has read to start with the disk at target.
func (vm *VM) Started(ctx context.Context, target string) error {
	disk, err := vm.host.Disk(ctx, target)
	if err != nil {
		return err
	}
	if err := disk.RemoveHandOver(); err != nil {
		return fmt.Errorf("remove what disk %s was started with: %w", target, err)
	}
	return nil
}

// Note writes the note of the disk on this host, as an attach does, so that list shows it
// and no other VM can use its header. pid is QEMU's process, 0 if it is unknown.
func (vm *VM) Note(ctx context.Context, d Disk, pid int) error {
	if len(d.Disk.Secrets()) == 0 {
		return nil
	}
	process, err := vm.host.Process(ctx)
	if err != nil {
		return err
	}
	process.PID = pid
	uuid := ""
	if h := unlock.HeaderOf(ctx, vm.host, d.Disk); h != nil {
		uuid = h.UUID
	}
	n, err := vm.host.Note(ctx, d.Disk, d.Method, uuid)
	if err != nil {
		return err
	}
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return err
	}
	return dir.WriteNote(n)
}

// Gone removes everything of the VM on this host: it ends storage daemons and removes
// notes, files and lines for an AppArmor profile. The VM's QEMU must have ended. Failures are joined in the error and do
// not stop the removal.
func (vm *VM) Gone(ctx context.Context) error {
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return err
	}
	return errors.Join(vm.removeLock(ctx), dir.Gone(ctx), access.AppArmor{}.Forget(access.Profile(dir.ID)))
}

// removeLock removes the lock file of a run that was killed. A lock that a live run holds
// stays.
func (vm *VM) removeLock(ctx context.Context) error {
	file, err := vm.host.LockFile(ctx)
	if err != nil {
		return err
	}
	if l, err := rundir.TryLock(file); err == nil {
		l.Release()
	}
	return nil
}

// Return selects how images are returned that were given to the user of a VM's QEMU.
type Return struct {
	// Stay leaves the images as they are, for a QEMU on another host that still uses them.
	Stay bool
}

// GiveBack returns the images that this host has given to the user of the VM's QEMU, which
// must have ended. Owners are those in the host's own registry.
func (vm *VM) GiveBack(ctx context.Context, r Return) error {
	_, err := grant.Revoke(ctx, vm.host, grant.Revocation{Targets: func(string) bool { return true }, Stay: r.Stay})
	return err
}

// Arrive stores where the VM comes from, for the runs that prepare its start.
func (vm *VM) Arrive(ctx context.Context, a Arrival) error {
	if a == ArrivalBoot {
		return nil
	}
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return err
	}
	return dir.Arrive(string(a))
}

// Arrival returns what Arrive has stored since [VM.Gone]; ArrivalBoot if it has stored
// nothing.
func (vm *VM) Arrival(ctx context.Context) (Arrival, error) {
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return "", err
	}
	from, err := dir.Arrival()
	return Arrival(from), err
}

// Arrived removes what Arrive has stored.
func (vm *VM) Arrived(ctx context.Context) error {
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return err
	}
	return dir.Arrived()
}
