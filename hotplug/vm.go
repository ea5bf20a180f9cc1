package hotplug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// What this package has of its internal packages.
type (
	// Dialer opens a monitor connection to the VM. It is called again when a
	// connection is lost, and must then reach the same VM.
	Dialer = monitor.Dialer
	// Process is what is known of the process that a VM on this machine runs in: its
	// PID, 0 where that is unknown; User, the user that it runs as; and its Labels.
	Process = host.Process
	// Credential is the user and the groups of a process.
	Credential = hostproc.Credential
	// Labels are what security modules of the host's kernel go by.
	Labels = host.Labels
	// State is what exists in a VM, as far as disks are concerned: Nodes, Objects,
	// Devices, Drives, FDSets and Chardevs.
	State = inventory.State
	// Node is a block node (QMP query-named-block-nodes).
	Node = inventory.Node
	// Drive says which device uses which node (QMP query-block).
	Drive = inventory.Drive
	// AttachedDisk is what the VM and the host have of ours for one target. One that is
	// a Leftover has no device: an interrupted run has left it.
	AttachedDisk = inventory.AttachedDisk
	// Spec says how a disk is attached, besides what its XML says. The zero value is
	// right for most disks.
	Spec = spec.Spec
	// Owner is whose an image was before it was given to QEMU's user.
	Owner = access.Owner
	// Daemon is a storage daemon that serves a disk to the VM, or a reservation helper.
	Daemon = apply.Daemon
	// StepReport says how a step of a plan went.
	StepReport = apply.StepReport
	// Use is an encrypted disk that is attached to a VM of this host.
	Use = rundir.Use
	// UnlockPolicy says how the method is picked by which a LUKS volume is opened.
	UnlockPolicy = unlock.Policy
	// Choice is the method that was picked for a disk, and, in Because, why QEMU has to
	// unlock it although the policy is [UnlockAuto].
	Choice = unlock.Choice
)

const (
	// UnlockAuto unlocks outside of QEMU, in this process, wherever that works,
	// and otherwise leaves it to QEMU, with a warning. "" means the same.
	UnlockAuto = unlock.Auto
	// UnlockQEMU gives QEMU the passphrase. The guest stalls while QEMU
	// derives the key, usually for seconds.
	UnlockQEMU = unlock.QEMU
	// UnlockExternal has a storage daemon unlock the volume and export the disk
	// to QEMU: the only method without a stall for a LUKS volume inside of a qcow2
	// image.
	UnlockExternal = unlock.External
)

// Options of a VM. The zero value is right for most programs.
type Options struct {
	// Name names the VM in log entries; "" for none.
	Name string
	// Log takes log entries; nil discards them. Entries carry the fields vm,
	// disk and step, and never a secret.
	Log logrus.FieldLogger
	// Files says whether the paths in a disk's XML are paths of this machine.
	Files FileAccess
	// LockDir is where lock files are; "" for the system's own place.
	LockDir string
	// RunDir is where notes of attached disks are, and what is handed to QEMU by
	// path: a directory in memory; "" for the system's own place, /run/luksplug/vm.
	RunDir string
	// Process returns the process of the VM, for a VM on this machine; nil for
	// the one at the other end of the monitor's unix socket.
	Process func(ctx context.Context) (*Process, error)
	// LockWait is how long to wait for another luksplug that works on the same
	// VM; 0 for 30 seconds.
	LockWait time.Duration
	// Recovery bounds what is done after a failure: dialling again, querying what
	// exists, taking back; 0 for 30 seconds.
	Recovery time.Duration
	// Disks returns the disks that the VM's manager has given it, such as
	// libvirt's: a further one must not have their targets, serials or WWNs. It is
	// nil for a VM without a manager.
	Disks func(ctx context.Context) ([]blockgraph.OtherDisk, error)
	// OnStep is called after each step of a plan, nil for nothing.
	OnStep func(StepReport)
	// OnWait is called once when a longer wait begins, with what is
	// being waited for; nil for nothing.
	OnWait func(what string)
	// OnUnlock is called now and then while a LUKS header is being unlocked, by
	// one goroutine at a time; nil for nothing.
	OnUnlock func(luks.Progress)
	// OnDaemon is called when a storage daemon has begun to serve a disk, or a
	// helper its reservations, before the VM hears of it; nil for nothing. A caller
	// that wants the daemon to end with the VM has [WatchDaemon] run from here on, in a
	// process or goroutine that outlives the call. An error ends the attach.
	OnDaemon func(ctx context.Context, d Daemon) error
}

// FileAccess says where the VM's files are.
type FileAccess string

const (
	// FilesAuto takes the files for local where the monitor is a unix socket.
	FilesAuto FileAccess = ""
	// FilesLocal: the paths are this machine's; they are checked before an
	// attach.
	FilesLocal FileAccess = "local"
	// FilesRemote: the paths are another machine's and cannot be checked here.
	FilesRemote FileAccess = "remote"
)

const defaultLockWait = 30 * time.Second

// VM is a running virtual machine. It is not safe for concurrent use.
type VM struct {
	conn  *monitor.Conn
	host  *host.Host
	check *check.VM
	opts  Options
}

// Connect dials the VM's monitor. The caller closes the VM.
func Connect(ctx context.Context, dial Dialer, opts Options) (*VM, error) {
	h := host.New(opts.Name, opts.Log)
	h.Run, h.Lock = opts.RunDir, opts.LockDir
	if opts.Recovery != 0 {
		h.Recovery = opts.Recovery
	}
	conn, err := monitor.Dial(ctx, dial, h.Log)
	if err != nil {
		return nil, err
	}
	if opts.LockWait == 0 {
		opts.LockWait = defaultLockWait
	}
	pid, local := conn.Client().PeerPID()
	h.Local = local && opts.Files == FilesAuto || opts.Files == FilesLocal
	h.FindID = func(ctx context.Context) (string, error) { return host.Identity(ctx, conn, opts.Name) }
	if h.FindProcess = opts.Process; h.FindProcess == nil {
		h.FindProcess = func(context.Context) (*Process, error) {
			if !local {
				return nil, errProcessUnknown
			}
			return host.LookUpProcess(pid)
		}
	}
	vm := &check.VM{Conn: conn, Properties: map[string]map[string]bool{}}
	return &VM{conn: conn, host: h, check: vm, opts: opts}, nil
}

var errProcessUnknown = errors.New("the VM's process is not known over this monitor")

// Close closes the monitor connection. The VM and its disks stay as they are.
func (vm *VM) Close() error { return vm.conn.Close() }

// Client returns the monitor connection in use. It changes when a lost
// connection was dialled again.
func (vm *VM) Client() *qmp.Client { return vm.conn.Client() }

// UUID returns the VM's; "" for a VM without one.
func (vm *VM) UUID(ctx context.Context) (string, error) { return vm.host.UUID(ctx) }

// State queries the VM for what exists. The queries are sent at once and change
// nothing.
func (vm *VM) State(ctx context.Context) (*State, error) {
	return apply.State(ctx, vm.conn, vm.host)
}

// List returns what luksplug has attached to the VM, leftovers of interrupted runs
// included, sorted by target. Nothing is changed, and no lock is taken.
func (vm *VM) List(ctx context.Context) ([]*AttachedDisk, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	return state.Disks(), nil
}

// ChooseUnlock picks the method by which the disk's volume is opened in this VM as
// it is now. Nothing is changed. What is wrong with the disk's files is not found
// out here, but by Attach.
func (vm *VM) ChooseUnlock(ctx context.Context, disk *blockgraph.Disk, state *State, policy UnlockPolicy) (Choice, error) {
	return unlock.Choose(ctx, vm.conn, vm.host, disk, state, policy)
}

// Plan builds the plan of a disk for this VM as it is now, whose volume is opened
// as u says; see [VM.ChooseUnlock]. Nothing is changed.
func (vm *VM) Plan(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock) (*blockgraph.Plan, error) {
	return vm.plan(ctx, disk, state, u, nil)
}

// CheckPlan checks that the VM's QEMU takes every command of the plan, and
// changes nothing. [VM.Attach] does so, too, before its first change. Arguments
// are held against QEMU's own schema (query-qmp-schema), and those of devices,
// which that does not have, against the devices' properties
// (device-list-properties); and what this version is known to do wrong is refused.
// What QEMU finds out only when it does a command, such as a port that is taken, is
// not found out here.
//
// The error is a [*VersionError], or that of a query.
func (vm *VM) CheckPlan(ctx context.Context, plan *blockgraph.Plan) error {
	return vm.check.Schema(ctx, vm.host, plan)
}

// Apply executes a plan whose secrets are in store. It returns when every step is
// done, or when what was done has been taken back: the error is then a
// [*RolledBackError], or a [*LeftBehindError] where that did not work out. The
// plan's names must be free in the VM, and a storage daemon that the plan needs must
// run; Attach makes sure of both.
func (vm *VM) Apply(ctx context.Context, plan *blockgraph.Plan, store secrets.Store) ([]StepReport, error) {
	values, err := unlock.Resolve(ctx, plan.Graph, store, unlock.Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	return vm.run(plan, values).Do(ctx)
}

// run returns the execution of a plan.
func (vm *VM) run(plan *blockgraph.Plan, values *unlock.Values) *apply.Run {
	return &apply.Run{Conn: vm.conn, Host: vm.host, Plan: plan, Values: values, OnStep: vm.opts.OnStep}
}

// lock takes the VM's lock. It waits for another run, at most for the time that
// the options give, and says so once.
func (vm *VM) lock(ctx context.Context) (*rundir.Lock, error) {
	path, err := vm.host.LockPath(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, vm.opts.LockWait)
	defer cancel()
	return rundir.TakeLock(ctx, path, func(holder int) {
		if vm.opts.OnWait != nil {
			vm.opts.OnWait(fmt.Sprintf("another luksplug run on this VM (process %d)", holder))
		}
	})
}

// LookUpProcess reads about a process of this machine in /proc (proc(5)).
func LookUpProcess(pid int) (*Process, error) { return host.LookUpProcess(pid) }

// Uses returns the encrypted disks that luksplug has attached to VMs of this
// host, as far as this user may know of them, sorted by directory and target. It
// queries no VM, but reads the notes in runDir, as [Options] has it; "" is the usual
// place. Disks of VMs that are gone are left out.
func Uses(runDir string) ([]Use, error) {
	base, err := rundir.BaseOf(runDir)
	if err != nil {
		return nil, err
	}
	return base.Uses()
}

// CheckRunDir reports, as an error, that this host has no place in memory for what
// is handed to QEMU by path. Nothing is made there.
func CheckRunDir() error {
	base, err := rundir.BaseOf("")
	if err != nil {
		return err
	}
	return base.Check()
}

// CheckSecret reports, as an error that wraps [ErrUnusableSecret], that QEMU does
// not take a value for a secret of that type.
func CheckSecret(value []byte, kind secrets.Type) error { return unlock.CheckSecret(value, kind) }

// ProcessID tells a process from a later one with the same number, by the time at
// which it started.
type ProcessID = hostproc.Process

// WatchDaemon waits until the VM's QEMU or the process of a disk with that
// directory, of [Daemon], has ended, and ends the latter then. It returns when
// neither is left to watch, or with ctx's error.
func WatchDaemon(ctx context.Context, dir string, qemu ProcessID) error {
	return daemon.Watch(ctx, dir, qemu)
}
