package libvirtvm

import (
	"context"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/secrets"
)

// AdoptDisk makes a disk that was attached without luksplug, by 'virsh qemu-monitor-command'
// for example, a disk of luksplug's, as [hotplug.VM.AdoptDisk] does, and records it in the
// domain's metadata. The record is removed if the adoption fails. A disk that was adopted
// before is recorded if it is not.
//
// The errors are those of hotplug.VM.AdoptDisk. The adoption of a record is another thing: see
// [Domain.Adopt].
func (d *Domain) AdoptDisk(ctx context.Context, store secrets.Store, options hotplug.AdoptOptions) (*hotplug.AdoptedDisk, error) {
	vm, err := d.VM(ctx)
	if err != nil {
		return nil, err
	}
	var attach AttachOptions
	attach.AllowPayloadSignature = options.AllowPayloadSignature
	var r *recorder
	options.Before = func(ctx context.Context, xml []byte, p hotplug.Prepared) (string, error) {
		disk, err := ParseDisk(xml, Reading{})
		if err != nil {
			return "", err
		}
		d.noteUser(ctx)
		if r, err = newRecorder(d, disk, attach, d.log); err != nil {
			return "", err
		}
		return r.before(ctx, p)
	}
	out, err := vm.AdoptDisk(ctx, store, options)
	if err != nil && r != nil {
		err = r.undoAfter(ctx, err)
	}
	if err != nil || !out.Already || options.DryRun {
		return out, err
	}
	disk, err := ParseDisk(out.XML, Reading{})
	if err != nil {
		return nil, err
	}
	if r, err = newRecorder(d, disk, attach, d.log); err != nil {
		return nil, err
	}
	recorded, err := r.again(ctx, &out.AttachedDisk)
	if err == nil && !recorded {
		d.log.WithField("disk", out.Target).Warn(notRecordable)
	}
	return out, err
}
