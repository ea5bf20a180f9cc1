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
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// DefaultTimeout bounds one call: libvirt and its clients wait for the hook.
const DefaultTimeout = 20 * time.Second

// Host is what a hook works with on this host.
type Host struct {
	// Store is where secrets are looked up. It must not be libvirt's.
	Store secrets.Store
	// Log takes what the user of virsh does not see.
	Log logrus.FieldLogger
	// Timeout bounds a call; 0 is DefaultTimeout.
	Timeout time.Duration
	// RunDir and LockDir are as in [hotplug.Options]; "" for the system's places.
	RunDir, LockDir string
	// OnDaemon is as in [hotplug.Options].
	OnDaemon func(ctx context.Context, d hotplug.Daemon) error
	// Gone is called when a domain has left this host in one of the ways of Forget,
	// with its UUID: keys that were cached for it have to go. nil for nothing.
	Gone func(ctx context.Context, uuid string) error
	// Forget are the reasons of [Release] for which Gone is called; nil is
	// [ReasonMigrated] and [ReasonDestroyed].
	Forget []string
}

// ErrTimeout reports that a call did not end within its time.
var ErrTimeout = errors.New("the hook's time is up")

// unwinding is how long a call may take beyond its time, to undo what it has begun.
const unwinding = cleaningUp + time.Second

// Run does what the event calls for. Output is what has to be printed, all of it
// or nothing: libvirt takes it for the domain's XML.
//
// At an operation that must succeed, output holds even when there is an error;
// the error is then for the log. A panic is an error as well. Run returns a few
// seconds after its time at the latest, whatever a key store or a file system
// does, and what is under way then goes on without being waited for.
//
// Where QEMU has started and an error would kill a VM that was restored or has
// moved here, which saves nothing, the error goes to the log, and Run returns nil.
func (h Host) Run(ctx context.Context, e Event) (output []byte, err error) {
	timeout := h.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %s", ErrTimeout, timeout))
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
		err = fmt.Errorf("%w: %s, and more: something that cannot be interrupted has not come to an end", ErrTimeout, timeout)
	}
	if err != nil && spared {
		h.Log.Errorf("%s is kept running: %v", e.Domain, err)
		return nil, nil
	}
	return output, err
}

// arrived reports whether the domain is noted as one that was restored or has migrated
// here. If that is unknown, arrived returns false.
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
			output, err = nil, fmt.Errorf("luksplug has a bug, please report it with its log: %v", p)
		}
	}()
	d, err := e.read()
	if d == nil {
		return nil, err
	}
	c := call{Host: h, Event: e, domain: d}
	if e.Operation == Stopped || e.Operation == Release {
		// Also where the record cannot be read, and where there is none any more.
		return nil, errors.Join(err, c.gone(ctx))
	}
	if err != nil || !d.concerns() {
		return nil, err
	}
	output, err = c.run(ctx)
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", context.Cause(ctx), err)
	}
	return output, err
}

// call is one call of the hook that concerns us.
type call struct {
	Host
	Event
	*domain
}

func (c call) run(ctx context.Context) (output []byte, err error) {
	switch c.Operation {
	case Prepare:
		return nil, c.prepare(ctx)
	case Started:
		return nil, c.started(ctx)
	case Restore:
		return c.arrive(ctx, coldstart.ArrivalRestore)
	case Migrate:
		return c.arrive(ctx, coldstart.ArrivalMigration)
	}
	return nil, nil
}

// options are those of the domain in package hotplug.
func (c call) options() hotplug.Options {
	return hotplug.Options{Name: c.Domain, Log: c.Log, RunDir: c.RunDir, LockDir: c.LockDir, OnDaemon: c.OnDaemon,
		Files: hotplug.FilesLocal, Recovery: cleaningUp}
}

// connect opens our own monitor of the domain.
func (c call) connect(ctx context.Context) (*hotplug.VM, error) {
	pid := 0
	dial := func(ctx context.Context) (*qmp.Client, error) {
		client, err := qmp.Dial(ctx, c.monitor)
		if err == nil {
			pid, _ = client.PeerPID()
		}
		return client, err
	}
	options := c.options()
	options.Process = func(context.Context) (*hotplug.Process, error) {
		p, err := hotplug.LookUpProcess(pid)
		if err == nil {
			p.Labels = hotplug.Labels{AppArmor: c.doc.Label("apparmor"), Image: c.doc.ImageLabel("selinux")}
		}
		return p, err
	}
	return hotplug.Connect(ctx, dial, options)
}
