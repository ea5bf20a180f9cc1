package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// virtualMachine is the VM that a command works on: a libvirt domain, whose disks are
// recorded in its metadata, or a bare QEMU, whose disks are not recorded. The methods are
// those of [libvirtvm.Domain], which may be off except for VM; a bare QEMU has no States.
type virtualMachine interface {
	VM(ctx context.Context) (*hotplug.VM, error)
	Attach(ctx context.Context, disk *libvirtvm.Disk, store secrets.Store, options libvirtvm.AttachOptions) (*libvirtvm.Attached, error)
	AdoptDisk(ctx context.Context, store secrets.Store, options hotplug.AdoptOptions) (*hotplug.AdoptedDisk, error)
	Detach(ctx context.Context, target string, options libvirtvm.DetachOptions) (*libvirtvm.Detached, error)
	List(ctx context.Context) (*libvirtvm.Listing, error)
	Repair(ctx context.Context) (*libvirtvm.Repaired, error)
	Close() error
}

// bareVM is a QEMU without libvirt.
type bareVM struct{ vm *hotplug.VM }

var _, _ virtualMachine = bareVM{}, (*libvirtvm.Domain)(nil)

func (b bareVM) VM(context.Context) (*hotplug.VM, error) { return b.vm, nil }

func (b bareVM) Attach(ctx context.Context, disk *libvirtvm.Disk, store secrets.Store, options libvirtvm.AttachOptions) (*libvirtvm.Attached, error) {
	attached, err := b.vm.Attach(ctx, disk.Disk, store, options.AttachOptions)
	if err != nil {
		return nil, err
	}
	return &libvirtvm.Attached{Attached: *attached}, nil
}

func (b bareVM) AdoptDisk(ctx context.Context, store secrets.Store, options hotplug.AdoptOptions) (*hotplug.AdoptedDisk, error) {
	return b.vm.AdoptDisk(ctx, store, options)
}

func (b bareVM) Detach(ctx context.Context, target string, options libvirtvm.DetachOptions) (*libvirtvm.Detached, error) {
	detached, err := b.vm.Detach(ctx, target, options.DetachOptions)
	if options.IgnoreMissing && is[*hotplug.NotHeldError](err) {
		return &libvirtvm.Detached{Detached: hotplug.Detached{Target: target}}, nil
	}
	if err != nil {
		return nil, err
	}
	return &libvirtvm.Detached{Detached: *detached}, nil
}

func (b bareVM) List(ctx context.Context) (*libvirtvm.Listing, error) {
	disks, err := b.vm.List(ctx)
	return &libvirtvm.Listing{Disks: disks}, err
}

func (b bareVM) Repair(ctx context.Context) (*libvirtvm.Repaired, error) {
	removed, err := b.vm.Repair(ctx)
	return &libvirtvm.Repaired{Removed: removed}, err
}

func (b bareVM) Close() error { return b.vm.Close() }

// withVM runs f, within a time limit, on the VM that the flags name.
func withVM(ctx context.Context, a *app, limit time.Duration, f func(context.Context, virtualMachine) error) error {
	at, err := a.address()
	if err != nil {
		return err
	}
	return at.with(ctx, a, limit, f)
}

// vmAddress is how a VM is reached: a libvirt domain, or a bare QEMU by its monitor.
type vmAddress struct {
	uri    libvirtURI
	domain string // "" for a bare QEMU
	name   string // of the domain in messages; "" is domain
	qmp    string
	pid    int // of the QEMU, 0 for the process at the other end of the monitor
}

// address returns the VM that the flags name.
func (a *app) address() (vmAddress, error) {
	switch {
	case a.flags.domain != "":
		uri, err := a.libvirtURI()
		return vmAddress{uri: uri, domain: a.flags.domain}, err
	case a.flags.qmp != "":
		return vmAddress{qmp: a.flags.qmp, pid: a.flags.qemuPID}, nil
	}
	return vmAddress{}, &usageError{errors.New("no VM is named: give --qmp ADDRESS for a QEMU monitor, or --domain NAME for a libvirt domain, or set " + qmpVariable + " or " + domainVariable + "")}
}

// with runs f, within a time limit, on the VM.
func (v vmAddress) with(ctx context.Context, a *app, limit time.Duration, f func(context.Context, virtualMachine) error) error {
	ctx, cancel := ending.After(ctx, limit)
	defer cancel()
	var vm virtualMachine
	var err error
	if v.domain != "" {
		vm, err = v.openDomain(ctx, a)
	} else {
		vm, err = v.openBare(ctx, a)
	}
	if err != nil {
		return err
	}
	defer func() { _ = vm.Close() }() // nothing is lost
	return f(ctx, vm)
}

// withDomain runs f, within the time limit of a command, on the libvirt domain that an
// argument names.
func withDomain(ctx context.Context, a *app, name string, f func(context.Context, *libvirtvm.Domain) error) error {
	if a.flags.domain != "" && a.flags.domain != name {
		return &usageError{fmt.Errorf("--domain %s and the argument %s name two domains", a.flags.domain, name)}
	}
	a.flags.domain = name
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	d, err := openDomain(ctx, a)
	if err != nil {
		return err
	}
	defer func() { _ = d.Close() }() // nothing is lost
	return f(ctx, d)
}

func vmOptions(a *app, name, repair string) hotplug.Options {
	return hotplug.Options{
		Name: name,
		Log:  a.log,
		OnWait: func(what string) {
			_ = a.note("waiting for %s", what) // it is only a note
		},
		OnUnlock: a.progress.update,
		OnUnfinished: func(left []string) {
			a.progress.end() // the key is known
			a.unfinished.set(left, repair)
		},
		OnDaemon: func(_ context.Context, d hotplug.Daemon) error { return watchDaemon(a.log, d) },
	}
}

// openDomain opens the libvirt domain of --domain, which need not be running.
func openDomain(ctx context.Context, a *app) (*libvirtvm.Domain, error) {
	uri, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	return vmAddress{uri: uri, domain: a.flags.domain}.openDomain(ctx, a)
}

func (v vmAddress) openDomain(ctx context.Context, a *app) (*libvirtvm.Domain, error) {
	c, _, err := readConfig(a.flags.config)
	if err != nil {
		return nil, err
	}
	o := vmOptions(a, cmp.Or(v.name, v.domain), v.repairCommand(a))
	d, err := libvirtvm.Open(ctx, v.uri.text, v.domain, libvirtvm.Options{Options: o, QMP: a.monitorOptions(), Schemas: schemas(a), RecordKey: c.RecordKey})
	if err != nil {
		return nil, v.uri.explain(err)
	}
	a.vm = d.UUID()
	return d, nil
}

// openBare connects to the monitor of a QEMU.
func (v vmAddress) openBare(ctx context.Context, a *app) (virtualMachine, error) {
	address := v.qmp
	o := vmOptions(a, v.vmOf("").Name, v.repairCommand(a))
	if loopback(address) {
		o.Files = hotplug.FilesLocal
	}
	if pid := v.pid; pid != 0 {
		o.Process = func(context.Context) (*hotplug.Process, error) { return hotplug.LookUpProcess(pid) }
	}
	opts := append(a.monitorOptions(), qmp.WithSchemaSource(schemas(a)))
	vm, err := hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) {
		// A monitor serves one client. The next one waits in the queue of the socket.
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
		_ = vm.Close() // nothing is lost
		return nil, err
	}
	return bareVM{vm}, nil
}

// libvirtURI is the URI of a libvirt and its source.
type libvirtURI struct{ text, from string }

// libvirtURI returns the URI of --connect or the environment, else that of the configuration.
func (a *app) libvirtURI() (libvirtURI, error) {
	if a.flags.connect != "" {
		return libvirtURI{a.flags.connect, a.flags.connectFrom}, nil
	}
	c, _, err := readConfig(a.flags.config)
	return libvirtURI{cmp.Or(c.Connect, defaultConnect), "configuration, connect"}, err
}

// explain adds the URI's source to an error about the URI.
func (u libvirtURI) explain(err error) error {
	if errors.Is(err, libvirtvm.ErrInvalidURI) || errors.Is(err, libvirtvm.ErrUnsupportedURI) {
		return fmt.Errorf("%s: %w", u.from, err)
	}
	return err
}

// checkClear refuses to send the secrets of a disk over a network in clear.
func checkClear(a *app, disk *libvirtvm.Disk) error {
	if a.flags.domain == "" {
		return nil
	}
	uri, err := a.libvirtURI()
	if err != nil {
		return err
	}
	return uri.explain(libvirtvm.CheckClear(uri.text, disk.Disk))
}

// checkPersistent refuses --persistent without a libvirt domain.
func (f *flags) checkPersistent(persistent bool) error {
	if persistent && f.domain == "" {
		return &usageError{errors.New("--persistent needs a libvirt domain: give --domain")}
	}
	return nil
}

// schemas returns the cache of QEMU's schemas: a query for one would stall the guest.
func schemas(a *app) *schemacache.Cache {
	dir, err := schemacache.DefaultDir()
	if err != nil {
		a.log.Debug(err)
	}
	return &schemacache.Cache{Dir: dir, Report: func(err error) { a.log.Debug(err) }}
}

// loopback reports whether an address is a TCP port of this host.
func loopback(address string) bool {
	host, service, err := net.SplitHostPort(strings.TrimPrefix(address, "tcp:"))
	if err != nil {
		return false
	}
	_, err = net.LookupPort("tcp", service)
	ip := net.ParseIP(host)
	return err == nil && (host == "localhost" || ip != nil && ip.IsLoopback())
}
