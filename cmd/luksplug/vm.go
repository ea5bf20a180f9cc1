package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// defaultConnect is the libvirt that has the domain if no other is named.
const defaultConnect = "qemu:///system"

// virtualMachine is what a command works on: a libvirt domain, whose disks are recorded
// in its metadata, or a bare QEMU, whose disks are recorded nowhere.
type virtualMachine interface {
	// VM connects to the QEMU, which must be running.
	VM(ctx context.Context) (*hotplug.VM, error)
	// Attach plugs a disk and records it.
	Attach(ctx context.Context, disk *libvirtvm.Disk, store secrets.Store, options libvirtvm.AttachOptions) (*libvirtvm.Attached, error)
	// Detach unplugs a disk and removes its record.
	Detach(ctx context.Context, target string, options libvirtvm.DetachOptions) (*hotplug.Detached, error)
	// States compares what is attached with what is recorded. It returns nil if nothing
	// is ever recorded.
	States(ctx context.Context, disks []*hotplug.AttachedDisk) ([]libvirtvm.State, error)
	// Repair removes leftovers and fixes records.
	Repair(ctx context.Context) (*libvirtvm.Repaired, error)
	// Close closes the connections. The VM and its disks stay as they are.
	Close() error
}

// bareVM is a QEMU without a libvirt.
type bareVM struct{ vm *hotplug.VM }

var _, _ virtualMachine = bareVM{}, (*libvirtvm.Domain)(nil)

// VM implements virtualMachine.
func (b bareVM) VM(context.Context) (*hotplug.VM, error) { return b.vm, nil }

// Attach implements virtualMachine.
func (b bareVM) Attach(ctx context.Context, disk *libvirtvm.Disk, store secrets.Store, options libvirtvm.AttachOptions) (*libvirtvm.Attached, error) {
	attached, err := b.vm.Attach(ctx, disk.Disk, store, options.AttachOptions)
	if err != nil {
		return nil, err
	}
	return &libvirtvm.Attached{Attached: *attached}, nil
}

// Detach implements virtualMachine.
func (b bareVM) Detach(ctx context.Context, target string, options libvirtvm.DetachOptions) (*hotplug.Detached, error) {
	detached, err := b.vm.Detach(ctx, target, options.Wait)
	if options.IgnoreMissing && is[*hotplug.NotHeldError](err) {
		return &hotplug.Detached{Target: target}, nil
	}
	return detached, err
}

// States implements virtualMachine.
func (bareVM) States(context.Context, []*hotplug.AttachedDisk) ([]libvirtvm.State, error) {
	return nil, nil
}

// Repair implements virtualMachine.
func (b bareVM) Repair(ctx context.Context) (*libvirtvm.Repaired, error) {
	removed, err := b.vm.Repair(ctx)
	return &libvirtvm.Repaired{Removed: removed}, err
}

// Close implements virtualMachine.
func (b bareVM) Close() error { return b.vm.Close() }

// withVM runs f on the VM that the flags name.
func (a *app) withVM(ctx context.Context, f func(context.Context, virtualMachine) error) error {
	m, err := a.openVM(ctx)
	if err != nil {
		return err
	}
	defer func() { _ = m.Close() }() // nothing is lost with it
	return f(ctx, m)
}

// openVM opens the VM that the flags name. The caller closes it.
func (a *app) openVM(ctx context.Context) (virtualMachine, error) {
	switch {
	case a.flags.domain != "":
		return a.openDomain(ctx, a.flags.domain)
	case a.flags.qmp != "":
		return a.openBare(ctx, a.flags.qmp)
	}
	return nil, &usageError{errors.New("which VM? give --qmp ADDRESS for a QEMU monitor, or --domain NAME for a libvirt domain")}
}

// options are those of every VM.
func (a *app) options(name string) hotplug.Options {
	return hotplug.Options{
		Name: name,
		Log:  a.log,
		OnWait: func(what string) {
			_, _ = fmt.Fprintf(a.err, "luksplug: waiting for %s\n", what)
		},
		OnUnlock: a.progress.update,
		OnDaemon: a.watch,
	}
}

// openDomain opens a libvirt domain, which need not be running.
func (a *app) openDomain(ctx context.Context, name string) (*libvirtvm.Domain, error) {
	uri, from, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	d, err := libvirtvm.Open(ctx, uri, name, libvirtvm.Options{Options: a.options(name), QMP: a.monitorOptions(), Schemas: a.schemas()})
	if err != nil {
		return nil, ofURI(from, err)
	}
	a.vm = d.UUID()
	return d, nil
}

// openBare connects to the monitor of a bare QEMU.
func (a *app) openBare(ctx context.Context, address string) (virtualMachine, error) {
	o := a.options(address)
	if port, ok := loopback(address); ok {
		o.Files = hotplug.FilesLocal
		o.Process = func(context.Context) (*hotplug.Process, error) { return listener(port) }
	}
	opts := append(a.monitorOptions(), qmp.WithSchemaSource(a.schemas()))
	vm, err := hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) {
		// A monitor serves one client; the next one waits unseen in the socket's queue.
		slow := time.AfterFunc(2*time.Second, func() {
			o.OnWait("the monitor " + address + ", which another client may hold")
		})
		defer slow.Stop()
		return qmp.Dial(ctx, address, opts...)
	}, o)
	if err != nil {
		return nil, err
	}
	if a.vm, err = vm.UUID(ctx); err != nil {
		_ = vm.Close() // nothing is lost with it
		return nil, err
	}
	return bareVM{vm}, nil
}

// listener returns the process that listens on a TCP port of this machine, which
// is the VM's if a monitor answers there.
func listener(port int) (*hotplug.Process, error) {
	pid, err := hostproc.Listener(port)
	if err != nil {
		return nil, fmt.Errorf("%w: run luksplug as root, or use the monitor's unix socket", err)
	}
	return hotplug.LookUpProcess(pid)
}

// monitorOptions are those of every monitor connection.
func (a *app) monitorOptions() []qmp.Option {
	if t := a.traced(); t != nil {
		return []qmp.Option{qmp.WithTrace(t)}
	}
	return nil
}

// libvirtURI returns the URI of the flag --connect, or that of the configuration,
// and which of them it is.
func (a *app) libvirtURI() (uri, from string, err error) {
	if a.flags.connect != "" {
		return a.flags.connect, "--connect", nil
	}
	c, err := readConfig(a.flags.config)
	if err != nil {
		return "", "", err
	}
	if c != nil && c.Connect != "" {
		return c.Connect, "configuration, connect", nil
	}
	return defaultConnect, "the default", nil
}

// ofURI says where a URI comes from that is wrong.
func ofURI(from string, err error) error {
	if errors.Is(err, libvirtvm.ErrInvalidURI) || errors.Is(err, libvirtvm.ErrUnsupportedURI) {
		return fmt.Errorf("%s: %w", from, err)
	}
	return err
}

// checkClear refuses to send the secrets of a disk over a network in clear, before
// anything is asked for.
func (a *app) checkClear(disk *libvirtvm.Disk) error {
	if a.flags.domain == "" {
		return nil
	}
	uri, from, err := a.libvirtURI()
	if err != nil {
		return err
	}
	return ofURI(from, libvirtvm.CheckClear(uri, disk.Disk))
}

// schemas is where QEMU's schema is looked up, so that no guest is held up by the
// question.
func (a *app) schemas() *schemacache.Cache {
	cache := &schemacache.Cache{Report: func(err error) { a.log.Debug(err) }}
	dir, err := schemacache.DefaultDir()
	if err != nil {
		a.log.Debug(err)
	}
	cache.Dir = dir
	return cache
}

// loopback returns the port of HOST:PORT, if that is on this machine.
func loopback(address string) (port int, ok bool) {
	host, service, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp:"))
	if err != nil {
		return 0, false
	}
	port, err = net.LookupPort("tcp", service)
	ip := net.ParseIP(host)
	return port, err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
