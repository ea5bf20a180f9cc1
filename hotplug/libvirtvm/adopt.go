package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"reflect"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Saved is the state that 'virsh managedsave' has saved: the disks with which the domain is
// restored.
const Saved Scope = "saved"

// Adoption is a record of a domain that is to be signed.
type Adoption struct {
	Scope Scope
	// Reason is why the record does not verify, nil if it does.
	Reason error
	// User is the user of QEMU that the record names, in libvirt's form; ColdPlug is true
	// if the disks are among QEMU's arguments.
	User     string
	ColdPlug bool
	Disks    []RecordedDisk

	record record.Record
}

// RecordedDisk is a disk as a record describes it.
type RecordedDisk struct {
	Target string
	// XML is the disk's <disk>; Images are the images that it names, Secrets its secrets.
	XML             string
	Images, Secrets []string
	// Devices are the devices that QEMU is given, as JSON.
	Devices []string
	// Options are the other properties of the record, such as "relabel".
	Options []string
	// Problem is why the domain cannot start with the disk as it is recorded; nil for none.
	Problem error
}

// Adoptions returns the records of the domain: in its running state, its definition and
// its managed save, as far as there are any.
func (d *Domain) Adoptions(ctx context.Context) ([]Adoption, error) {
	s, err := d.signer()
	if err != nil {
		return nil, err
	}
	if s.Key == nil {
		return nil, &hotplug.PreflightError{Cause: ErrNotHere, Reason: "the record of domain " + d.name + " is not signed", Err: ErrNotHere}
	}
	running, err := d.running(ctx)
	if err != nil {
		return nil, err
	}
	var out []Adoption
	for _, scope := range []Scope{Live, Persistent, Saved} {
		if scope == Live && !running {
			continue
		}
		doc, err := d.document(ctx, scope)
		if err != nil {
			return nil, err
		}
		if doc == nil {
			continue
		}
		r, err := record.FromDomain(doc)
		if err != nil {
			return nil, err
		}
		if !r.Empty() {
			out = append(out, newAdoption(ctx, scope, doc, r, s.Verify(r)))
		}
	}
	return out, nil
}

// document returns the domain's XML in a scope, nil if it has none.
func (d *Domain) document(ctx context.Context, scope Scope) (*domainxml.Document, error) {
	switch scope {
	case Live:
		return d.describe(ctx)
	case Persistent:
		persistent, err := call(ctx, d, func() (int32, error) { return d.libvirt.DomainIsPersistent(d.handle) })
		if err != nil {
			return nil, d.failed(err)
		}
		if persistent == 0 {
			return nil, nil
		}
		return d.definition(ctx)
	}
	text, err := call(ctx, d, func() (string, error) {
		saved, err := d.libvirt.DomainHasManagedSaveImage(d.handle, 0)
		if err != nil || saved == 0 {
			return "", err
		}
		return d.libvirt.DomainManagedSaveGetXMLDesc(d.handle, libvirt.DomainXMLFlags(libvirt.DomainSaveImageXMLSecure))
	})
	if err != nil {
		return nil, fmt.Errorf("the saved state of domain %s: %w", d.name, err)
	}
	if text == "" {
		return nil, nil
	}
	return domainxml.Parse([]byte(text))
}

func newAdoption(ctx context.Context, scope Scope, doc *domainxml.Document, r record.Record, reason error) Adoption {
	a := Adoption{Scope: scope, Reason: reason, User: r.User, ColdPlug: r.ColdPlug, record: r}
	starting := coldstart.New(doc.CanonicalUUID(), coldstart.Options{})
	for _, one := range r.Disks {
		disk := RecordedDisk{Target: one.Target, XML: one.XML, Options: one.Options()}
		for _, device := range one.Devices {
			disk.Devices = append(disk.Devices, device.String())
		}
		start, err := coldstart.RecordedDisk(doc, one)
		if err == nil {
			for _, image := range start.Disk.Images() {
				disk.Images = append(disk.Images, image.Source.String())
			}
			for _, ref := range start.Disk.Secrets() {
				disk.Secrets = append(disk.Secrets, ref.String())
			}
			_, err = starting.Arguments(ctx, start)
		}
		disk.Problem = err
		a.Disks = append(a.Disks, disk)
	}
	return a
}

// ErrChanged reports that a record was changed between [Domain.Adoptions] and
// [Domain.Adopt].
var ErrChanged = errors.New("the record was changed meanwhile: look at it again")

// Adopt signs records that the caller has examined, exactly as they were then: from then
// on the domain starts with these disks. A record with a disk that has a Problem is
// refused by a [*hotplug.PreflightError]; no record is signed then.
func (d *Domain) Adopt(ctx context.Context, all []Adoption) error {
	for _, a := range all {
		for _, disk := range a.Disks {
			if disk.Problem != nil {
				return &hotplug.PreflightError{Target: disk.Target, Cause: ErrUnverified, Reason: "its record is not signed", Err: disk.Problem}
			}
		}
	}
	for _, a := range all {
		if a.Reason == nil {
			continue
		}
		if err := d.adopt(ctx, a); err != nil {
			return fmt.Errorf("sign the %s record of domain %s: %w", a.Scope, d.name, err)
		}
	}
	return nil
}

func (d *Domain) adopt(ctx context.Context, a Adoption) error {
	doc, err := d.document(ctx, a.Scope)
	if err != nil {
		return err
	}
	if doc == nil {
		return ErrChanged
	}
	now, err := record.FromDomain(doc)
	if err != nil {
		return err
	}
	if !reflect.DeepEqual(now, a.record) {
		return ErrChanged
	}
	for i := range now.Disks {
		now.Disks[i].Owners = nil // of an earlier version
	}
	if now, err = sign(d, now); err != nil {
		return err
	}
	if a.Scope != Saved {
		return put(ctx, d, a.Scope, now)
	}
	text, err := now.XML()
	if err != nil {
		return err
	}
	if doc, err = doc.WithMetadata(Namespace, []byte(text)); err != nil {
		return err
	}
	_, err = call(ctx, d, func() (struct{}, error) {
		return struct{}{}, d.libvirt.DomainManagedSaveDefineXML(d.handle, libvirt.OptString{string(doc.Text())}, 0)
	})
	return err
}
