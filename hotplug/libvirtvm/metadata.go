package libvirtvm

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Namespace is the XML namespace of luksplug's element in a domain's metadata.
const Namespace = record.Namespace

// Scope is one of a domain's two descriptions.
type Scope string

const (
	// Live is the running domain: the disks that are attached.
	Live Scope = "live"
	// Persistent is the definition: the disks that belong to the domain when it
	// starts.
	Persistent Scope = "persistent"
)

// descriptions are the two descriptions of a domain: those of libvirt, or documents
// in memory in tests. Reading and changing are two calls: the caller has to prevent
// other changes in between, as hotplug's lock of the VM does.
type descriptions interface {
	// read returns the record. It returns an empty record if there is none, and
	// if the domain has no such description.
	read(ctx context.Context, scope Scope) (record.Record, error)
	// write replaces the record. An empty record is removed.
	write(ctx context.Context, scope Scope, r record.Record) error
	// definition returns the domain's definition, with what libvirt shows only on
	// request.
	definition(ctx context.Context) (*domainxml.Document, error)
	// define replaces the definition.
	define(ctx context.Context, doc *domainxml.Document) error
	// user returns the user that the domain's QEMU runs as, or is going to, in the form
	// of libvirt; "" if that is not known.
	user(ctx context.Context) (string, error)
	// signer signs and verifies the records of the domain. It has no key if this is not
	// the domain's host, or this user is not the one whose key the host's hook uses.
	signer() (record.Signer, error)
	// unsigned is called with a record that is written without a signature.
	unsigned(r record.Record)
}

func (s Scope) flags() libvirt.DomainModificationImpact {
	if s == Live {
		return libvirt.DomainAffectLive
	}
	return libvirt.DomainAffectConfig
}

// read implements descriptions.
func (d *Domain) read(ctx context.Context, scope Scope) (record.Record, error) {
	text, err := call(ctx, d, func() (string, error) {
		exists := d.libvirt.DomainIsActive
		if scope == Persistent { // a transient domain has no definition
			exists = d.libvirt.DomainIsPersistent
		}
		if there, err := exists(d.handle); err != nil || there == 0 {
			return "", err
		}
		return d.libvirt.DomainGetMetadata(d.handle, int32(libvirt.DomainMetadataElement), libvirt.OptString{Namespace}, scope.flags())
	})
	if isLibvirt(err, libvirt.ErrNoDomainMetadata) || err == nil && text == "" {
		return record.Record{}, nil
	}
	if err != nil {
		return record.Record{}, fmt.Errorf("read the %s metadata of domain %s: %w", scope, d.name, err)
	}
	return record.Parse([]byte(text))
}

// write implements descriptions.
func (d *Domain) write(ctx context.Context, scope Scope, r record.Record) error {
	var text libvirt.OptString
	if !r.Empty() {
		xml, err := r.Plain() // libvirt adds the namespace itself
		if err != nil {
			return err
		}
		text = libvirt.OptString{xml}
	}
	_, err := call(ctx, d, func() (struct{}, error) {
		return struct{}{}, d.libvirt.DomainSetMetadata(d.handle, int32(libvirt.DomainMetadataElement), text, libvirt.OptString{record.Prefix}, libvirt.OptString{Namespace}, scope.flags())
	})
	if err != nil {
		return fmt.Errorf("write the %s metadata of domain %s: %w", scope, d.name, err)
	}
	return nil
}

// definition implements descriptions.
func (d *Domain) definition(ctx context.Context) (*domainxml.Document, error) {
	text, err := call(ctx, d, func() (string, error) {
		return d.libvirt.DomainGetXMLDesc(d.handle, libvirt.DomainXMLInactive|libvirt.DomainXMLSecure)
	})
	if err != nil {
		return nil, fmt.Errorf("the definition of domain %s: %w", d.name, err)
	}
	return domainxml.Parse([]byte(text))
}

// define implements descriptions. libvirt validates the definition.
func (d *Domain) define(ctx context.Context, doc *domainxml.Document) error {
	_, err := call(ctx, d, func() (libvirt.Domain, error) {
		return d.libvirt.DomainDefineXMLFlags(string(doc.Text()), libvirt.DomainDefineValidate)
	})
	if err != nil {
		return fmt.Errorf("change the definition of domain %s: %w", d.name, err)
	}
	return nil
}
