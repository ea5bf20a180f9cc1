package hook

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// DefaultTimeout bounds one call: libvirt and everybody who asks it something
// wait for the hook.
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
	// Gone is called when a domain has left this host for good, migrated or
	// destroyed, with its UUID: keys that were cached for it have to go. nil for
	// nothing.
	Gone func(ctx context.Context, uuid string) error
}

// ErrTimeout: the hook did not come to an end in the time that it has.
var ErrTimeout = errors.New("the hook's time is up")

// Run does what the event calls for. Output is what has to be printed, all of it
// or nothing: libvirt takes it for the domain's XML.
//
// At an operation that must succeed, output holds even when there is an error;
// the error is then for the log. A panic is an error as well.
func (h Host) Run(ctx context.Context, e Event) (output []byte, err error) {
	defer func() {
		if p := recover(); p != nil {
			output = nil
			err = fmt.Errorf("luksplug has a bug, please report it: %v\n%s", p, debug.Stack())
		}
	}()
	timeout := h.Timeout
	if timeout == 0 {
		timeout = DefaultTimeout
	}
	ctx, cancel := context.WithTimeoutCause(ctx, timeout, fmt.Errorf("%w: %s", ErrTimeout, timeout))
	defer cancel()
	d, err := e.read()
	if err != nil {
		return nil, err
	}
	if !d.concerns() {
		return nil, nil
	}
	c := call{Host: h, Event: e, domain: d}
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
		return c.arrive(ctx, hotplug.ArrivalRestore)
	case Migrate:
		return c.arrive(ctx, hotplug.ArrivalMigration)
	case Stopped, Release:
		return nil, c.gone(ctx)
	}
	return nil, nil
}

// options are those of the domain in package hotplug.
func (c call) options() hotplug.Options {
	return hotplug.Options{Name: c.Domain, Log: c.Log, RunDir: c.RunDir, LockDir: c.LockDir, OnDaemon: c.OnDaemon, Files: hotplug.FilesLocal}
}

// connect opens our own monitor of the domain.
func (c call) connect(ctx context.Context) (*hotplug.VM, error) {
	return hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, c.monitor) }, c.options())
}
