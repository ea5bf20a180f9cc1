package record

import (
	"context"
	"errors"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// Scope says which of a domain's two descriptions is meant.
type Scope string

const (
	// Live is the running domain: the disks that are attached.
	Live Scope = "live"
	// Persistent is the definition: the disks that belong to the domain when it
	// starts.
	Persistent Scope = "persistent"
)

func (s Scope) flags() libvirt.DomainModificationImpact {
	if s == Live {
		return libvirt.DomainAffectLive
	}
	return libvirt.DomainAffectConfig
}

// Domain is the record that libvirt keeps of one domain. Reading and writing are
// two calls: whoever changes a record sees to it that nobody else does, as
// hotplug's lock of the VM does.
type Domain struct {
	Libvirt *libvirt.Libvirt
	Handle  libvirt.Domain
}

// Read returns the record; an empty one where there is none. A libvirt that does
// not answer is left to itself when ctx ends.
func (d Domain) Read(ctx context.Context, scope Scope) (Record, error) {
	text, err := libvirtconn.Within(ctx, func() (string, error) {
		return d.Libvirt.DomainGetMetadata(d.Handle, int32(libvirt.DomainMetadataElement), libvirt.OptString{Namespace}, scope.flags())
	})
	var e libvirt.Error
	if errors.As(err, &e) && e.Code == uint32(libvirt.ErrNoDomainMetadata) {
		return Record{}, nil
	}
	if err != nil {
		return Record{}, fmt.Errorf("read the %s metadata of domain %s: %w", scope, d.Handle.Name, err)
	}
	return Parse([]byte(text))
}

// Write replaces the record. An empty one is removed.
func (d Domain) Write(ctx context.Context, scope Scope, r Record) error {
	var text libvirt.OptString
	if !r.Empty() {
		xml, err := r.text("", "") // libvirt adds the namespace itself
		if err != nil {
			return err
		}
		text = libvirt.OptString{xml}
	}
	_, err := libvirtconn.Within(ctx, func() (struct{}, error) {
		return struct{}{}, d.Libvirt.DomainSetMetadata(d.Handle, int32(libvirt.DomainMetadataElement), text, libvirt.OptString{Prefix}, libvirt.OptString{Namespace}, scope.flags())
	})
	if err != nil {
		return fmt.Errorf("write the %s metadata of domain %s: %w", scope, d.Handle.Name, err)
	}
	return nil
}

// Change reads a record, has it changed and writes it.
func (d Domain) Change(ctx context.Context, scope Scope, change func(Record) Record) error {
	r, err := d.Read(ctx, scope)
	if err != nil {
		return err
	}
	return d.Write(ctx, scope, change(r))
}
