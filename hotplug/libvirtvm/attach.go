package libvirtvm

import (
	"context"
	"errors"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/secrets"
)

// AttachOptions are the options of an attach. The zero value suits most callers.
type AttachOptions struct {
	hotplug.AttachOptions
	// Persistent makes the disk belong to the domain: luksplug's hook attaches it at every
	// start. The domain may be off.
	Persistent bool
	// Optional lets the domain start without a persistent disk that cannot be attached.
	Optional bool
	// CheckStart, if not nil, is called with Persistent before the first change: an error
	// refuses the disk, because the domain would not start with it. It is not called for a
	// domain whose record this run cannot sign. Host.CheckStart of package hook examines a
	// definition.
	CheckStart func(ctx context.Context, s NextStart) error
}

// NextStart is a domain as it is going to start the next time.
type NextStart struct {
	Domain string // its name
	XML    []byte // its definition
	Target string // the disk that is being attached, "" for none
}

// NextStart returns the domain as it is going to start the next time.
func (d *Domain) NextStart(ctx context.Context) (NextStart, error) {
	doc, err := d.definition(ctx)
	if err != nil {
		return NextStart{}, err
	}
	return NextStart{Domain: doc.Name(), XML: doc.Text()}, nil
}

// Attached is the result of an attach.
type Attached struct {
	hotplug.Attached
	// Off is true if the domain is off: the disk is in its definition only, and of
	// Attached only Target is set.
	Off bool
}

// Errors of the attach to a domain that is off. They are wrapped in a
// [*hotplug.PreflightError].
var (
	// ErrRecorded reports that a disk with the same target belongs to the domain.
	ErrRecorded = errors.New("a disk with this target belongs to the domain already")
	// ErrNoPort reports that the definition has no root port for another disk of
	// luksplug's: see [Domain.Enable].
	ErrNoPort = errors.New("the definition has no free root port that is luksplug's alone, and others may be given to another device before the next start")
)

// ErrNextStart reports that the domain would not start with a persistent disk, or would
// start without it. It is wrapped in a [*hotplug.PreflightError].
var ErrNextStart = errors.New("the domain would not start with the disk")

// ErrClear reports that the secrets of a disk would cross a network in clear. It is
// wrapped in a [*hotplug.PreflightError].
var ErrClear = errors.New("the connection is not encrypted, and the disk's secrets would cross it: use +ssh or +tls")

// CheckClear returns an error that wraps [ErrClear] if the secrets of a disk would
// cross the connection to the libvirt at uri in clear. It connects to nothing.
func CheckClear(uri string, disk *blockgraph.Disk) error {
	u, err := libvirtconn.Parse(uri)
	if err != nil || !u.Clear() || len(disk.Secrets()) == 0 {
		return err
	}
	return &hotplug.PreflightError{Target: disk.Target, Cause: ErrClear, Reason: "libvirt " + u.String() + ": " + ErrClear.Error()}
}

// Attach plugs a disk into the domain and records it, as [hotplug.VM.Attach] does for a VM.
// The disk is recorded in the domain's metadata before it is in QEMU, and the record is
// removed if the attach fails. A disk that is attached already is recorded if it is not.
//
// A transient disk, and one with [ErrSecretInXML], is attached without a record, with
// a warning in the log. With Persistent it is refused.
//
// With Persistent and a domain that is off, the disk is added to the definition, and
// store is not used.
//
// The errors are those of hotplug.VM.Attach, and wrap [ErrClear],
// [ErrSecretInXML], [ErrRecorded], [ErrNoPort] and [ErrNextStart].
func (d *Domain) Attach(ctx context.Context, disk *Disk, store secrets.Store, options AttachOptions) (*Attached, error) {
	if err := CheckClear(d.uri.String(), disk.Disk); err != nil {
		return nil, err
	}
	if options.Persistent {
		running, err := d.running(ctx)
		if err != nil {
			return nil, err
		}
		if !running {
			return d.attachOff(ctx, disk, options)
		}
	}
	vm, err := d.VM(ctx)
	if err != nil {
		return nil, err
	}
	r, err := newRecorder(d, disk, options, d.log)
	if err != nil {
		return nil, err
	}
	if r == nil {
		return attached(vm.Attach(ctx, disk.Disk, store, options.AttachOptions))
	}
	d.noteUser(ctx)
	first := options.Before
	options.Before = func(ctx context.Context, p hotplug.Prepared) (string, error) {
		if first != nil {
			if _, err := first(ctx, p); err != nil {
				return "", err
			}
		}
		return r.before(ctx, p)
	}
	at, err := attached(vm.Attach(ctx, disk.Disk, store, options.AttachOptions))
	if err != nil {
		return nil, r.undoAfter(ctx, err)
	}
	if !at.Already {
		return at, nil
	}
	recorded, err := r.again(ctx, &at.AttachedDisk)
	if err == nil && !recorded {
		d.log.WithField("disk", at.Target).Warn(notRecordable)
	}
	return at, err
}

// notRecordable warns of a disk whose record neither the domain nor this host has.
const notRecordable = "it is not recorded in the domain's metadata, and cannot be now: detach and attach it again, or it is lost when the domain is saved and restored, or migrated"

func attached(at *hotplug.Attached, err error) (*Attached, error) {
	if err != nil {
		return nil, err
	}
	return &Attached{Attached: *at}, nil
}

// attachOff adds a disk to the definition of a domain that is off.
func (d *Domain) attachOff(ctx context.Context, disk *Disk, options AttachOptions) (*Attached, error) {
	r, err := newRecorder(d, disk, options, d.log)
	if err != nil {
		return nil, err
	}
	if err := r.define(ctx); err != nil {
		return nil, err
	}
	d.noteUser(ctx)
	out := &Attached{Off: true}
	out.Target = disk.Target
	return out, nil
}

// define adds the disk to the definition of a domain that is off.
func (r *recorder) define(ctx context.Context) error {
	disk := r.source
	doc, err := r.at.definition(ctx)
	if err != nil {
		return err
	}
	old, err := record.FromDomain(doc)
	if err != nil {
		return err
	}
	if err := verify(r.at, old); len(old.Disks) > 0 && err != nil {
		return unrecorded(disk.Target, err)
	}
	if old.Disk(disk.Target) != nil {
		return &hotplug.PreflightError{Target: disk.Target, Cause: ErrRecorded, Reason: "domain " + doc.Name() + ": " + ErrRecorded.Error()}
	}
	machine, err := definitionMachine(doc, old)
	if err != nil {
		return err
	}
	graph, err := blockgraph.Build(disk, machine, blockgraph.Unlock{})
	var noRoom *blockgraph.PlacementError
	if errors.As(err, &noRoom) && disk.Bus == blockgraph.BusVirtio {
		return &hotplug.PreflightError{Target: disk.Target, Cause: ErrNoPort, Reason: "domain " + doc.Name() + ": " + ErrNoPort.Error()}
	}
	if err != nil {
		return err
	}
	for _, device := range graph.Devices {
		r.disk.Devices = append(r.disk.Devices, device.Options)
	}
	r.disk.Start = coldstart.Method(disk, blockgraph.MethodEphemeralHeader)
	if err := r.checkNext(ctx); err != nil {
		return err
	}
	return r.write(ctx, Persistent)
}

// unrecorded returns the refusal of a disk that cannot be recorded.
func unrecorded(target string, err error) error {
	return &hotplug.PreflightError{Target: target, Cause: hotplug.ErrNotRecorded, Reason: "the attach cannot be recorded", Err: err}
}

// definitionMachine returns the VM of the definition, with luksplug's root ports only:
// libvirt may give any other port to another device before the next start.
func definitionMachine(doc *domainxml.Document, r record.Record) (blockgraph.Machine, error) {
	m, err := diskxml.ParseDomain(doc.Text())
	if err != nil {
		return m, err
	}
	var devices []blockgraph.Object
	for _, d := range r.Disks {
		devices = append(devices, d.Devices...)
	}
	m.Ports, m.PCI = nil, true
	for _, port := range domainxml.Ports(doc.Arguments()) {
		taken := slices.ContainsFunc(devices, func(o blockgraph.Object) bool { return o.Text("bus") == port })
		m.Ports = append(m.Ports, blockgraph.Port{Bus: port, Taken: taken})
	}
	return m, nil
}
