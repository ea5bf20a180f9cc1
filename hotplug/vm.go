package hotplug

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Types of internal packages that are part of this package's interface.
type (
	// Dialer opens a monitor connection to the VM. It is called again after a lost
	// connection, and must then reach the same VM.
	Dialer = monitor.Dialer
	// Process describes the process of a VM on this machine: its PID, 0 if that is
	// unknown; User, the user that it runs as; and its Labels.
	Process = host.Process
	// Credential is the user and the groups of a process.
	Credential = hostproc.Credential
	// Labels are the labels that security modules of the host's kernel use.
	Labels = host.Labels
	// State is what exists in a VM, as far as disks are concerned: Nodes, Objects,
	// Devices, Drives, FDSets and Chardevs.
	State = inventory.State
	// Node is a block node (QMP query-named-block-nodes).
	Node = inventory.Node
	// Drive is the use of a node by a device (QMP query-block).
	Drive = inventory.Drive
	// AttachedDisk is what luksplug has in the VM and on the host for one target. A
	// Leftover has no device: an interrupted run has left it.
	AttachedDisk = inventory.AttachedDisk
	// Spec describes how a disk is attached, in addition to its XML. The zero value suits
	// most disks.
	Spec = spec.Spec
	// Daemon is a storage daemon that serves a disk to the VM, or a reservation helper.
	Daemon = apply.Daemon
	// StepReport is the result of one step of a plan.
	StepReport = apply.StepReport
	// Use is an encrypted disk that is attached to a VM of this host, or a part of a
	// document that names secrets.
	Use = rundir.Use
	// UnlockPolicy selects the method by which a LUKS volume is opened.
	UnlockPolicy = unlock.Policy
	// Choice is the selected method for a disk, and, in Because, why QEMU has to unlock it
	// although the policy is [UnlockAuto].
	Choice = unlock.Choice
)

const (
	// UnlockAuto unlocks in this process, outside of QEMU. If the disk's XML or the VM's
	// address makes that impossible, QEMU unlocks, with a warning. If QEMU or an image does,
	// the disk is refused, with [ErrNeedsQEMU]. "" means the same.
	UnlockAuto = unlock.Auto
	// UnlockQEMU gives QEMU the passphrase. The guest stalls while QEMU
	// derives the key, usually for seconds.
	UnlockQEMU = unlock.QEMU
	// UnlockExternal has a storage daemon unlock the volume and export the disk
	// to QEMU: the only method without a stall for a LUKS volume inside of a qcow2
	// image.
	UnlockExternal = unlock.External
)

// Options of a VM. The zero value suits most programs.
type Options struct {
	// Name names the VM in log entries; "" for none.
	Name string
	// UUID is the VM's UUID as its manager, such as libvirt, has it; "" takes that among the
	// arguments of the VM's process. QEMU has to report the same one.
	UUID string
	// Log takes log entries; nil discards them. Entries carry the fields vm,
	// disk and step, and never a secret.
	Log logrus.FieldLogger
	// Files reports whether the paths in a disk's XML are paths of this machine.
	Files FileAccess
	// LockDir is the directory of lock files; "" for the default.
	LockDir string
	// RunDir is the directory, in memory, of notes of attached disks and of files that
	// QEMU opens by path; "" for the default, /run/luksplug/vm.
	RunDir string
	// Process returns the process of the VM, for a VM on this machine; nil for the process
	// at the other end of the monitor's connection. It is needed for a monitor behind a
	// proxy.
	Process func(ctx context.Context) (*Process, error)
	// LockWait bounds the wait for another luksplug that works on the same VM; 0 for 30
	// seconds.
	LockWait time.Duration
	// Recovery bounds the recovery after a failure: dialling again, queries, and rollback;
	// 0 for 30 seconds.
	Recovery time.Duration
	// Disks returns the disks that the VM's manager, such as libvirt, has given it: a new
	// disk must not have their targets, serials or WWNs. It is nil for a VM without a
	// manager.
	Disks func(ctx context.Context) ([]blockgraph.OtherDisk, error)
	// OnStep is called after each step of a plan, nil for nothing.
	OnStep func(StepReport)
	// OnUnfinished is called before and after each change of an attach or detach that is not
	// complete, with the names of what would be left in the VM and on the host if the program
	// ended now; with none when nothing would be. It must not wait. It is nil for nothing.
	OnUnfinished func(left []string)
	// OnWait is called once when a longer wait begins, with what is waited for; nil for
	// nothing.
	OnWait func(what string)
	// OnUnlock is called repeatedly while a LUKS header is being unlocked, by one
	// goroutine at a time; nil for nothing.
	OnUnlock func(luks.Progress)
	// OnDaemon is called when a storage daemon has begun to serve a disk, or a helper its
	// reservations, before the VM is changed; nil for nothing. To end the daemon with the
	// VM, the caller runs [WatchDaemon] in a process or goroutine that outlives the call.
	// An error ends the attach.
	OnDaemon func(ctx context.Context, d Daemon) error
}

// Values of MaxStall of [AttachOptions].
const (
	DefaultMaxStall = check.DefaultMaxStall // 10 seconds
	NoMaxStall      = check.NoMaxStall
)

// FileAccess tells where the VM's files are.
type FileAccess string

const (
	// FilesAuto is FilesLocal if the monitor is a unix socket, else FilesRemote.
	FilesAuto FileAccess = ""
	// FilesLocal: the paths are this machine's; they are checked before an attach.
	FilesLocal FileAccess = "local"
	// FilesRemote: the paths are another machine's and cannot be checked here.
	FilesRemote FileAccess = "remote"
)

const defaultLockWait = 30 * time.Second

// VM is a running virtual machine. It is not safe for concurrent use.
type VM struct {
	conn  *monitor.Conn
	host  *host.Host
	uuid  string
	check *check.VM
	opts  Options
}

// Connect dials the VM's monitor, and determines which VM it is. The caller closes the VM.
//
// The error is a [*PreflightError] with [ErrIdentity] if QEMU reports another UUID than
// Options.UUID or the arguments of its process, and if this host has something of another
// live process under the VM's UUID: nothing was changed then. A monitor that is dialled
// again must be that of the same VM.
func Connect(ctx context.Context, dial Dialer, opts Options) (*VM, error) {
	h := host.New(opts.Name, opts.Log)
	h.Run, h.Lock = opts.RunDir, opts.LockDir
	if opts.Recovery != 0 {
		h.Recovery = opts.Recovery
	}
	var vm *host.Identity // of the first connection
	identified := func(ctx context.Context) (*qmp.Client, error) {
		client, err := dial(ctx)
		if err != nil {
			return nil, err
		}
		id, err := host.Identify(ctx, client, opts.known(client))
		if err == nil && vm != nil && !vm.Same(id) {
			err = errOtherVM
		}
		if err != nil {
			_ = client.Close() // the first error counts
			return nil, err
		}
		vm = &id
		return client, nil
	}
	conn, err := monitor.Dial(ctx, identified, h.Log)
	if err != nil {
		return nil, err
	}
	if opts.LockWait == 0 {
		opts.LockWait = defaultLockWait
	}
	h.Local = opts.known(conn.Client()).Local
	h.FindID = func(context.Context) (string, error) { return vm.ID, nil }
	h.FindProcess = func(context.Context) (*Process, error) { return vm.Process, vm.Err }
	if err := h.Own(ctx); err != nil {
		_ = conn.Close() // the first error counts
		return nil, err
	}
	checked := &check.VM{Conn: conn, Properties: map[string]map[string]bool{}}
	return &VM{conn: conn, host: h, uuid: vm.UUID, check: checked, opts: opts}, nil
}

// known returns what is known of the VM at the other end of a connection.
func (o Options) known(client *qmp.Client) host.Known {
	_, unix := client.PeerPID()
	local := unix && o.Files == FilesAuto || o.Files == FilesLocal
	return host.Known{Name: o.Name, Local: local, UUID: o.UUID, Process: o.Process}
}

var errOtherVM = errors.New("another VM answers at the monitor that was dialled again")

// Close closes the monitor connection. The VM and its disks stay as they are.
func (vm *VM) Close() error { return vm.conn.Close() }

// Client returns the monitor connection in use. It changes when a lost connection is
// dialled again.
func (vm *VM) Client() *qmp.Client { return vm.conn.Client() }

// UUID returns the VM's UUID as its manager or its process has it; "" for a VM without one,
// and where only QEMU reports it: behind a proxy, and on another machine without a manager.
// A key of a VM may be chosen by it.
func (vm *VM) UUID(context.Context) (string, error) { return vm.uuid, nil }

// State queries what exists in the VM. The queries are sent at once and change nothing.
func (vm *VM) State(ctx context.Context) (*State, error) {
	return apply.State(ctx, vm.conn, vm.host)
}

// List returns what luksplug has attached to the VM, including leftovers of interrupted
// runs, sorted by target. It changes nothing and takes no lock.
func (vm *VM) List(ctx context.Context) ([]*AttachedDisk, error) {
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	disks := state.Disks()
	return disks, inventory.AddFrontends(ctx, vm.conn, disks)
}

// ChooseUnlock selects the method by which the disk's volume is opened in this VM in its
// present state. It changes nothing. Errors in the disk's files are reported by Attach,
// not here.
func (vm *VM) ChooseUnlock(ctx context.Context, disk *blockgraph.Disk, state *State, policy UnlockPolicy) (Choice, error) {
	return unlock.Choose(ctx, vm.conn, vm.host, disk, state, policy)
}

// Plan builds the plan of a disk for this VM in its present state. u selects how its
// volume is opened; see [VM.ChooseUnlock]. It changes nothing. The graph of the plan has the
// warnings for the user.
func (vm *VM) Plan(ctx context.Context, disk *blockgraph.Disk, state *State, u blockgraph.Unlock) (*blockgraph.Plan, error) {
	return vm.plan(ctx, disk, state, u, nil)
}

// PlannedHeaders is what is known of the LUKS headers of a planned disk: Unread has an error for
// each encrypted image whose header cannot be read here, Doubts are refusals of an attach that
// its Spec may allow, and Warnings are for the user.
type PlannedHeaders = check.Headers

// CheckHeaders examines the LUKS headers of a disk that is planned and not attached, as far as
// this host can read them: that its method opens them, and that images are encrypted where the
// XML says so. It changes nothing, and examines neither permissions nor who uses the images. The
// errors are those of [VM.Attach].
func CheckHeaders(ctx context.Context, disk *blockgraph.Disk, u blockgraph.Unlock) (PlannedHeaders, error) {
	return check.Planned(ctx, disk, u)
}

// CheckHeaders is [CheckHeaders] for this VM. Of a VM on another machine it reads nothing.
func (vm *VM) CheckHeaders(ctx context.Context, disk *blockgraph.Disk, u blockgraph.Unlock) (PlannedHeaders, error) {
	if !vm.host.Local {
		return check.PlannedElsewhere(disk, host.ErrOtherHost), nil
	}
	return check.Planned(ctx, disk, u)
}

// CheckPlan checks that the VM's QEMU supports every command of the plan, and changes
// nothing. [VM.Attach] calls it before its first change. Arguments are validated against
// QEMU's schema (query-qmp-schema), those of devices, which the schema lacks, against the
// devices' properties (device-list-properties). Known bugs of this version are refused.
// Errors that QEMU detects only when it executes a command, such as an occupied port, are
// not found.
//
// The error is a [*VersionError], or that of a query.
func (vm *VM) CheckPlan(ctx context.Context, plan *blockgraph.Plan) error {
	return vm.check.Schema(ctx, vm.host, plan)
}

// Apply executes a plan whose secrets are in store. It returns when every step is done,
// or after a rollback: the error is then a [*RolledBackError], or a [*LeftBehindError] if
// the rollback failed. The plan's names must be free in the VM, and a storage daemon that
// the plan needs must run; Attach ensures both.
func (vm *VM) Apply(ctx context.Context, plan *blockgraph.Plan, store secrets.Store) ([]StepReport, error) {
	values, err := unlock.Resolve(ctx, plan.Graph, store, unlock.ToQEMU(ctx, vm.host), unlock.Unlocker{})
	if err != nil {
		return nil, err
	}
	defer values.Wipe()
	return vm.run(plan, values).Do(ctx)
}

// run returns the execution of a plan.
func (vm *VM) run(plan *blockgraph.Plan, values *unlock.Values) *apply.Run {
	return &apply.Run{Conn: vm.conn, Host: vm.host, Plan: plan, Values: values, OnStep: vm.opts.OnStep, OnUnfinished: vm.opts.OnUnfinished}
}

// unfinished tells what would be left if the program ended now.
func (vm *VM) unfinished(left []string) {
	if vm.opts.OnUnfinished != nil {
		vm.opts.OnUnfinished(left)
	}
}

// lock takes the VM's lock. It waits for another run for at most LockWait, and calls
// OnWait once.
func (vm *VM) lock(ctx context.Context) (*rundir.Lock, error) {
	file, err := vm.host.LockFile(ctx)
	if err != nil {
		return nil, err
	}
	ctx, cancel := ending.After(ctx, vm.opts.LockWait)
	defer cancel()
	return rundir.TakeLock(ctx, file, func(holder int) {
		if vm.opts.OnWait != nil {
			vm.opts.OnWait(fmt.Sprintf("another luksplug run on this VM (process %d)", holder))
		}
	})
}

// LookUpProcess reads about a process of this machine in /proc (proc(5)).
func LookUpProcess(pid int) (*Process, error) { return host.LookUpProcess(pid) }

// Uses returns the encrypted disks that luksplug has attached to VMs of this host, as far
// as this user may read the notes, sorted by directory and target. It queries no VM, but
// reads the notes in runDir, see [Options]; "" is the default. Disks of VMs that have
// ended are left out.
func Uses(runDir string) ([]Use, error) {
	base, err := rundir.BaseOf(runDir)
	if err != nil {
		return nil, err
	}
	return base.Uses()
}

// CheckRunDir returns an error if this host has no directory in memory for files that
// QEMU opens by path. It creates nothing.
func CheckRunDir() error {
	base, err := rundir.BaseOf("")
	if err != nil {
		return err
	}
	return base.Check()
}

// CheckSecret returns an error that wraps [ErrUnusableSecret] if QEMU refuses a value for
// a secret of that type.
func CheckSecret(value []byte, kind secrets.Type) error { return unlock.CheckSecret(value, kind) }

// ProcessID identifies a process by its number and start time, so that a later process
// with the same number differs.
type ProcessID = hostproc.Process

// WatchDaemon waits until the VM's QEMU or the process of a disk with that directory, of
// [Daemon], ends, and then ends the latter. It returns when both have ended, or with
// ctx's error.
func WatchDaemon(ctx context.Context, dir string, qemu ProcessID) error {
	return daemon.Watch(ctx, dir, qemu)
}
