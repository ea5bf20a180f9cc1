package main

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"
	"github.com/spf13/cobra"
	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/domainxml"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/secrets"
)

// recordFlags say what a libvirt domain is to remember of a disk.
type recordFlags struct {
	persistent, optional bool
}

func (f *recordFlags) register(cmd *cobra.Command) {
	cmd.Flags().BoolVar(&f.persistent, "persistent", false, "the disk belongs to the libvirt domain: it is there at every start, by luksplug's hook; also for a domain that is off")
	cmd.Flags().BoolVar(&f.optional, "optional", false, "with --persistent: the domain may start without the disk")
}

func (f recordFlags) check(a *app) error {
	switch {
	case f.persistent && a.flags.domain == "":
		return &usageError{errors.New("--persistent is about a libvirt domain: give --domain")}
	case f.optional && !f.persistent:
		return &usageError{errors.New("--optional is about the start of a domain: give --persistent as well")}
	}
	return nil
}

// attach attaches a disk and has it recorded.
func (a *app) attach(ctx context.Context, vm *hotplug.VM, disk *diskDocument, store secrets.Store, options hotplug.AttachOptions, flags recordFlags) (*hotplug.Attached, error) {
	r, err := a.recorder(disk, flags, options)
	if err != nil {
		return nil, err
	}
	if r != nil {
		options.Before = func(ctx context.Context, p hotplug.Prepared) (string, error) { return r.before(ctx, disk.Disk, p) }
	}
	attached, err := vm.Attach(ctx, disk.Disk, store, options)
	if err != nil && r != nil {
		after, cancel := context.WithTimeout(context.WithoutCancel(ctx), recording)
		defer cancel()
		return nil, errors.Join(err, r.undo(after))
	}
	if err == nil && attached.Already && r != nil {
		err = a.recordAgain(ctx, r, attached)
	}
	return attached, err
}

// recordAgain has a disk recorded that is attached already.
func (a *app) recordAgain(ctx context.Context, r *recorder, at *hotplug.Attached) error {
	live, persistent, err := a.libvirt.readRecords(ctx)
	if err != nil {
		return err
	}
	known := live.Disk(at.Target)
	if known == nil {
		if kept, ok := keptRecord([]*hotplug.Holding{&at.Holding}, at.Target); ok {
			known = &kept
		}
	}
	if known == nil {
		a.log.WithField("disk", at.Target).Warn("it is not recorded in the domain's metadata, and cannot be now: detach and attach it again, or it is lost when the domain is saved and restored, or migrated")
		return nil
	}
	r.disk.Devices, r.disk.Start, r.disk.Relabel, r.disk.Owners = known.Devices, known.Start, known.Relabel, known.Owners
	if live.Disk(at.Target) == nil {
		if err := r.write(ctx, record.Live); err != nil {
			return err
		}
	}
	if r.persistent && persistent.Disk(at.Target) == nil {
		return r.write(ctx, record.Persistent)
	}
	return nil
}

// attachOff adds a disk to a domain that is off; done is false for one that runs.
func (a *app) attachOff(ctx context.Context, disk *diskDocument, flags recordFlags, options hotplug.AttachOptions) (done bool, err error) {
	if err := flags.check(a); err != nil || !flags.persistent {
		return false, err
	}
	d, off, err := a.openOff(ctx)
	if err != nil || !off {
		return false, err
	}
	doc, err := d.definition(ctx)
	if err != nil {
		return false, err
	}
	old, err := record.FromDomain(doc)
	if err != nil {
		return false, err
	}
	if old.Disk(disk.Target) != nil {
		return false, &hotplug.PreflightError{Target: disk.Target, Reason: "a disk with this target belongs to the domain already: detach it with --persistent first, or give this one another target"}
	}
	r, err := a.recorder(disk, flags, options)
	if err != nil {
		return false, err
	}
	machine, err := definitionMachine(doc, old)
	if err != nil {
		return false, err
	}
	graph, err := blockgraph.Build(disk.Disk, machine, blockgraph.Unlock{})
	var noRoom *blockgraph.PlacementError
	if errors.As(err, &noRoom) && disk.Bus == blockgraph.BusVirtio {
		return false, &hotplug.PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the definition has no free root port that is luksplug's alone, and others may be given to another device before the next start: run luksplug hook enable %s, or use bus='scsi' with an existing controller", d.name)}
	}
	if err != nil {
		return false, err
	}
	p := hotplug.Prepared{Way: blockgraph.ByHeader}
	for _, device := range graph.Devices {
		p.Devices = append(p.Devices, device.Options)
	}
	r.disk.Devices, r.disk.Start = p.Devices, hotplug.StartWay(disk.Disk, p.Way)
	if options.Relabel && d.uri.Local() {
		r.disk.Owners = hotplug.Owners(disk.Disk)
	}
	if err := r.write(ctx, record.Persistent); err != nil {
		return false, err
	}
	if a.flags.output == "json" {
		return true, a.printJSON(struct {
			Target   string   `json:"target"`
			State    string   `json:"state"`
			Recorded []string `json:"recorded"`
		}{disk.Target, "off", []string{string(record.Persistent)}})
	}
	return true, a.print(fmt.Sprintf("%s belongs to %s, which is off: it is there from the next start on\n", disk.Target, d.name))
}

// definitionMachine is what the definition says of the VM, with the ports that
// are ours.
func definitionMachine(doc *domainxml.Document, r record.Record) (blockgraph.Machine, error) {
	m, err := diskxml.ParseDomain(doc.Text())
	if err != nil {
		return m, err
	}
	var devices []blockgraph.Object
	for _, d := range r.Disks {
		devices = append(devices, d.Devices...)
	}
	// Those that libvirt has it may give to another device before the next start.
	m.Ports, m.PCI = hook.FreePorts(doc.Arguments(), devices), true
	return m, nil
}

// detachOff removes a disk from a domain that is off; done is false for one that
// runs.
func (a *app) detachOff(ctx context.Context, target string, persistent bool) (done bool, err error) {
	if !persistent {
		return false, nil
	}
	if a.flags.domain == "" {
		return false, &usageError{errors.New("--persistent is about a libvirt domain: give --domain")}
	}
	d, off, err := a.openOff(ctx)
	if err != nil || !off {
		return false, err
	}
	old, err := d.records().Read(ctx, record.Persistent)
	if err != nil {
		return false, err
	}
	if old.Disk(target) == nil {
		e := &hotplug.NotHeldError{Target: target}
		for _, disk := range old.Disks {
			e.Held = append(e.Held, disk.Target)
		}
		return false, e
	}
	err = d.changeRecord(ctx, record.Persistent, func(r record.Record) record.Record { return r.Without(target) })
	if err != nil {
		return false, err
	}
	return true, a.printDetached(&hotplug.Detached{Target: target, Removed: []string{"the disk from the domain's definition"}})
}

// openOff opens the domain at libvirt and tells whether it is off.
func (a *app) openOff(ctx context.Context) (d *domain, off bool, err error) {
	d, err = a.openDomain(ctx)
	if err != nil {
		return nil, false, err
	}
	active, err := libvirtconn.Within(ctx, func() (int32, error) { return d.libvirt.DomainIsActive(d.handle) })
	return d, active == 0, err
}

// definition returns the domain's definition, with what libvirt keeps to itself.
func (d *domain) definition(ctx context.Context) (*domainxml.Document, error) {
	if err := d.connected(ctx); err != nil {
		return nil, err
	}
	text, err := libvirtconn.Within(ctx, func() (string, error) {
		return d.libvirt.DomainGetXMLDesc(d.handle, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
	})
	if err != nil {
		return nil, fmt.Errorf("the definition of domain %s: %w", d.name, err)
	}
	return domainxml.Parse([]byte(text))
}

// redefine changes the domain's definition. libvirt validates it.
func (d *domain) redefine(ctx context.Context, change func(*domainxml.Document) (*domainxml.Document, error)) error {
	doc, err := d.definition(ctx)
	if err != nil {
		return err
	}
	if doc, err = change(doc); err != nil {
		return err
	}
	_, err = libvirtconn.Within(ctx, func() (libvirt.Domain, error) {
		return d.libvirt.DomainDefineXMLFlags(string(doc.Text()), libvirt.DomainDefineValidate)
	})
	if err != nil {
		return fmt.Errorf("change the definition of domain %s: %w", d.name, err)
	}
	return nil
}

// user returns as whom the domain's QEMU runs, or is going to, as libvirt writes
// it; "" where nobody knows.
func (d *domain) user(ctx context.Context) (string, error) {
	if err := d.connected(ctx); err != nil {
		return "", err
	}
	active, err := libvirtconn.Within(ctx, func() (int32, error) { return d.libvirt.DomainIsActive(d.handle) })
	if err != nil {
		return "", fmt.Errorf("domain %s: %w", d.name, err)
	}
	if active != 0 {
		p, err := d.process(ctx)
		if err != nil || p.User == nil {
			return "", err
		}
		return fmt.Sprintf("+%d:+%d", p.User.UID, p.User.GID), nil
	}
	text, err := libvirtconn.Within(ctx, func() (string, error) { return d.libvirt.ConnectGetCapabilities() })
	if err != nil {
		return "", fmt.Errorf("the capabilities of libvirt: %w", err)
	}
	caps := &libvirtxml.Caps{}
	if err := caps.Unmarshal(text); err != nil {
		return "", fmt.Errorf("the capabilities of libvirt: %w", err)
	}
	for _, model := range caps.Host.SecModel {
		if model.Name == "dac" && len(model.Labels) > 0 {
			return model.Labels[0].Value, nil
		}
	}
	return "", nil
}
