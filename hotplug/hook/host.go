package hook

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// DefaultTimeout bounds one call: libvirt and its clients wait for the hook.
const DefaultTimeout = 20 * time.Second

// Host is the hook on this host. Its methods may be called concurrently for different
// domains.
type Host struct {
	// Store has the secrets. It must not be libvirt's.
	Store secrets.Store
	// AnyVolume gives secrets that are bound to a volume to any disk.
	AnyVolume bool
	// Log takes entries that the user of virsh does not see.
	Log logrus.FieldLogger
	// Timeout bounds a call; 0 is DefaultTimeout.
	Timeout time.Duration
	// RunDir and LockDir are as in [hotplug.Options].
	RunDir, LockDir string
	// OnDaemon is as in [hotplug.Options].
	OnDaemon func(ctx context.Context, d hotplug.Daemon) error
	// Keys, if set, follows the life of domains for which the host holds keys, as [Keys.Event]
	// does: it is called at [Prepare], before anything else is done for a domain whose record
	// verifies, and at [Release] of every domain.
	Keys func(ctx context.Context, e Event) error
	// RecordKey is the path of the key by which records are verified; "" is the usual one.
	RecordKey string
	// QEMUUser determines the user of this host's QEMUs. The zero value is right for
	// libvirt's usual directories.
	QEMUUser QEMUUser
	// MonitorDir is the parent of the monitors' directories; "" is [MonitorDir].
	MonitorDir string
}

// QEMUUser has the paths of files that name the user of this host's QEMUs.
type QEMUUser = access.QEMUUser

// ErrTimeout reports that a call did not end within its time.
var ErrTimeout = errors.New("the hook timed out")

// unwinding is the time after a call's limit in which it may still undo its changes.
const unwinding = cleaningUp + time.Second

// Run handles the event. The caller prints output, which libvirt takes for the domain's
// XML, completely or not at all.
//
// At an operation that must succeed, output is valid also with an error, which is for
// the log. A panic becomes an error. Run returns a few seconds after its time at the
// latest, with an error that wraps [ErrTimeout], even if a key store or a file system
// hangs: it does not wait for that then.
//
// An error at [Started] would kill the VM. If the VM was restored or has migrated here,
// the error is logged and Run returns nil.
func (h Host) Run(ctx context.Context, e Event) (output []byte, err error) {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := ending.After(ctx, timeout)
	defer cancel()
	spared := e.Operation == Started && h.arrived(ctx, e)
	type result struct {
		output []byte
		err    error
	}
	done := make(chan result, 1)
	go func() {
		output, err := h.run(ctx, e)
		done <- result{output, err}
	}()
	limit := time.NewTimer(timeout + unwinding)
	defer limit.Stop()
	select {
	case r := <-done:
		output, err = r.output, r.err
	case <-limit.C:
		err = fmt.Errorf("%w: %s, and an operation that cannot be interrupted is still running", ErrTimeout, timeout)
	}
	if err != nil && spared {
		h.Log.Errorf("%s is kept running: %v", e.Domain, err)
		return nil, nil
	}
	return output, err
}

// arrived reports whether the domain is noted as restored or migrated here. If that is
// unknown, it returns false.
func (h Host) arrived(ctx context.Context, e Event) bool {
	id := e.UUID()
	if id == "" {
		return false
	}
	arrival, err := coldstart.New(id, coldstart.Options{RunDir: h.RunDir}).Arrival(ctx)
	return err == nil && arrival != coldstart.ArrivalBoot
}

func (h Host) run(ctx context.Context, e Event) (output []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			h.Log.Errorf("panic: %v\n%s", p, debug.Stack())
			output, err = nil, fmt.Errorf("a fault in luksplug, to be reported with its log: %v", p)
		}
	}()
	d, err := e.read()
	if d == nil {
		return nil, err
	}
	c := call{Host: h, Event: e, domain: d}
	if e.Operation == Stopped || e.Operation == Release {
		// Also if the record is unreadable or no longer exists.
		return nil, errors.Join(err, c.gone(ctx))
	}
	if err != nil || !d.concerns() || !c.Operation.acted() {
		return nil, err
	}
	if err := c.verify(); err != nil {
		return nil, err // the domain does not start; where a failure costs something, the caller logs it
	}
	if c.Operation == Prepare {
		if err := c.keys(ctx); err != nil {
			return nil, err
		}
	}
	output, err = c.run(ctx)
	var limit *ending.Error
	if err != nil && errors.As(ctx.Err(), &limit) && limit.Timeout() {
		err = fmt.Errorf("%w: %s: %w", ErrTimeout, limit.Limit, err)
	}
	return output, err
}

// call is one call of the hook for a domain with disks of luksplug's.
type call struct {
	Host
	Event
	*domain
}

func (c call) run(ctx context.Context) (output []byte, err error) {
	switch c.Operation {
	case Prepare:
		return nil, c.prepare(ctx)
	case Start:
		return nil, c.confine(ctx)
	case Started:
		return nil, c.started(ctx)
	case Restore:
		return c.arrive(ctx, coldstart.ArrivalRestore)
	case Migrate:
		return c.arrive(ctx, coldstart.ArrivalMigration)
	}
	return nil, nil
}

// keys follows the life of the domain's keys.
func (c call) keys(ctx context.Context) error {
	if c.Keys == nil {
		return nil
	}
	return c.Keys(ctx, c.Event)
}

func (c call) options() hotplug.Options {
	return hotplug.Options{Name: c.Domain, Log: c.Log, RunDir: c.RunDir, LockDir: c.LockDir, OnDaemon: c.OnDaemon,
		Files: hotplug.FilesLocal, Recovery: cleaningUp}
}

// connect opens luksplug's monitor of the domain.
func (c call) connect(ctx context.Context) (*hotplug.VM, error) {
	pid := 0
	dial := func(ctx context.Context) (*qmp.Client, error) {
		address, end, err := c.monitors().Open(c.uuid)
		if err != nil {
			return nil, fmt.Errorf("luksplug's monitor: %w", err)
		}
		defer end()
		client, err := qmp.Dial(ctx, address)
		if err == nil {
			pid, _ = client.PeerPID()
		}
		return client, err
	}
	options := c.options()
	options.UUID = c.uuid
	options.Process = func(context.Context) (*hotplug.Process, error) {
		p, err := hotplug.LookUpProcess(pid)
		if err == nil {
			p.Labels = hotplug.Labels{AppArmor: c.doc.GeneratedLabel("apparmor"), Image: c.doc.GeneratedImageLabel("selinux")}
		}
		return p, err
	}
	return hotplug.Connect(ctx, dial, options)
}
