package hotplug

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Dialer opens a monitor connection to the VM. It is called again when a
// connection is lost, and must then reach the same VM.
type Dialer func(ctx context.Context) (*qmp.Client, error)

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
	// path: a folder in memory; "" for the system's own place, /run/luksplug/vm.
	RunDir string
	// Process returns the process of the VM, for a VM on this machine; nil for
	// the one at the other end of the monitor's unix socket.
	Process func(ctx context.Context) (*Process, error)
	// LockWait is how long to wait for another luksplug that works on the same
	// VM; 0 for 30 seconds.
	LockWait time.Duration
	// Recovery bounds what is done after a failure: dialling again, asking what
	// exists, taking back; 0 for 30 seconds.
	Recovery time.Duration
	// Disks returns the disks that the VM's manager has given it, such as
	// libvirt's: a further one must not have their targets, serials or WWNs. It is
	// nil where nobody manages the VM.
	Disks func(ctx context.Context) ([]blockgraph.OtherDisk, error)
	// OnStep is called after each step of a plan, nil for nothing.
	OnStep func(StepReport)
	// OnWait is called once when a wait begins that a person would wonder
	// about, with what is being waited for; nil for nothing.
	OnWait func(what string)
	// OnUnlock is called now and then while a LUKS header is being unlocked, by
	// one goroutine at a time; nil for nothing.
	OnUnlock func(luks.Progress)
	// OnDaemon is called when a storage daemon has begun to serve a disk, or a
	// helper its reservations, before the VM hears of it; nil for nothing. Whoever wants the daemon to end with
	// the VM has [daemon.Watch] run from here on, in a process or goroutine that
	// outlives the call. An error ends the attach.
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

const (
	defaultLockWait = 30 * time.Second
	defaultRecovery = 30 * time.Second
)

// VM is a running virtual machine. It is not safe for concurrent use.
type VM struct {
	dial   Dialer
	client *qmp.Client
	opts   Options
	log    logrus.FieldLogger
	// properties caches device-list-properties by driver: asking for it makes
	// QEMU build a device.
	properties map[string]map[string]bool
	// id is what identity has found out.
	id string
	// proc is what process has found out.
	proc *Process
}

// Connect dials the VM's monitor. The caller closes the VM.
func Connect(ctx context.Context, dial Dialer, opts Options) (*VM, error) {
	client, err := dial(ctx)
	if err != nil {
		return nil, fmt.Errorf("connect to the VM's monitor: %w", err)
	}
	if opts.LockWait == 0 {
		opts.LockWait = defaultLockWait
	}
	if opts.Recovery == 0 {
		opts.Recovery = defaultRecovery
	}
	return &VM{dial: dial, client: client, opts: opts, log: opts.logger(), properties: map[string]map[string]bool{}}, nil
}

// logger returns where log entries go.
func (o Options) logger() logrus.FieldLogger {
	log := o.Log
	if log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		log = silent
	}
	if o.Name != "" {
		log = log.WithField("vm", o.Name)
	}
	return log
}

// Close closes the monitor connection. The VM and its disks stay as they are.
func (vm *VM) Close() error { return vm.client.Close() }

// Client returns the monitor connection in use. It changes when a lost
// connection was dialled again.
func (vm *VM) Client() *qmp.Client { return vm.client }

// recovery returns the context for what must be done after ctx has failed.
func (vm *VM) recovery(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), vm.opts.Recovery)
}

// redial bounds the attempts to open a lost connection again. A monitor that is
// alive takes a new connection at once, and a libvirtd that restarts is back in
// a second or two; without one, the user should hear of it soon.
const redial = 5 * time.Second

// errMonitorGone: the connection is lost and could not be opened again.
var errMonitorGone = errors.New("the monitor connection is lost and cannot be opened again")

// reconnect dials again if the connection is lost.
func (vm *VM) reconnect(ctx context.Context) error {
	select {
	case <-vm.client.Done():
	default:
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, redial)
	defer cancel()
	const first, longest = 20 * time.Millisecond, time.Second
	for wait := first; ; wait = min(2*wait, longest) {
		client, err := vm.dial(ctx)
		if err == nil {
			_ = vm.client.Close() // lost already: only its resources are released
			vm.client = client
			vm.log.Warn("the monitor connection was lost and has been opened again")
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: %w", errMonitorGone, err)
		case <-time.After(wait):
		}
	}
}

// query runs a command that changes nothing. A lost connection is opened again
// and the command repeated: asking twice does no harm.
func (vm *VM) query(ctx context.Context, cmd qmp.Command) ([]byte, error) {
	value, err := vm.client.Execute(ctx, cmd)
	if err == nil || ctx.Err() != nil || !lost(err) {
		return value, err
	}
	if err := vm.reconnect(ctx); err != nil {
		return nil, err
	}
	return vm.client.Execute(ctx, cmd)
}

// lost tells whether a command failed because the connection is gone.
func lost(err error) bool {
	return errors.Is(err, qmp.ErrConnectionLost) || errors.Is(err, qmp.ErrClosed)
}
