package hook

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// DiskCheck is the result of a check for one disk.
type DiskCheck struct {
	Target string
	// Optional is true if the domain starts without the disk.
	Optional bool
	// Err is why the disk could not be there, nil if it could.
	Err error
}

// CheckArrival reports for each recorded disk of a running domain, whose XML is given,
// whether the domain could migrate to this host: whether the disk's files are here, and
// its secrets in the key stores. It derives no key and changes nothing.
func (h Host) CheckArrival(ctx context.Context, xml []byte) ([]DiskCheck, error) {
	c, s, err := h.examine(Event{Operation: Migrate, XML: xml})
	if err != nil {
		return nil, err
	}
	var out []DiskCheck
	for _, r := range c.record.Disks {
		disk, err := coldstart.RecordedDisk(c.doc, r)
		if err == nil {
			err = s.Check(ctx, disk, coldstart.ArrivalMigration, c.bound(disk.Disk))
		}
		out = append(out, DiskCheck{r.Target, r.Optional, err})
	}
	return out, nil
}

// examine returns the call for a domain that is only examined, and the domain as it would
// start on this host.
func (h Host) examine(e Event) (call, *coldstart.VM, error) {
	d, err := e.read()
	if err != nil {
		return call{}, nil, err
	}
	if e.Domain == "" {
		e.Domain = d.uuid
	}
	c := call{Host: h, Event: e, domain: d}
	if d.uuid == "" {
		return c, nil, errors.New("it has no valid <uuid>")
	}
	if err := c.verify(); err != nil {
		return c, nil, err
	}
	s, err := c.starting()
	return c, s, err
}

// StartCheck selects what [Host.CheckStart] examines.
type StartCheck struct {
	// Domain is the domain's name, XML its definition.
	Domain string
	XML    []byte
	// Target is the disk to examine, "" for all.
	Target string
}

// CheckStart reports for each recorded disk of a definition whether the domain would start
// with it. It does what the hook does at [Prepare] before its first change, keys are
// derived as well; only uses of images that end before the start are not looked at. An
// error is one of the domain as a whole, which would not start.
func (h Host) CheckStart(ctx context.Context, s StartCheck) ([]DiskCheck, error) {
	c, starting, err := h.examine(Event{Domain: s.Domain, Operation: Prepare, XML: s.XML})
	if err != nil {
		return nil, err
	}
	if err := c.checkArguments(); err != nil {
		return nil, err
	}
	var out []DiskCheck
	for _, r := range c.record.Disks {
		if s.Target != "" && r.Target != s.Target {
			continue
		}
		disk, err := c.startable(r)
		if err == nil {
			// A running QEMU of the domain hands its images over to the next one, as in a migration.
			err = starting.Rehearse(ctx, disk, coldstart.ArrivalMigration, c.bound(disk.Disk))
		}
		out = append(out, DiskCheck{r.Target, r.Optional, err})
	}
	return out, nil
}

// Warnings returns what a domain or its disks may lose with this definition, or on this
// host, although they start.
func (e Event) Warnings() []string {
	d, err := e.read()
	if err != nil || d.doc == nil {
		return nil // which the start reports
	}
	var out []string
	if arch := d.doc.Attribute("arch", "os", "type"); slices.Contains([]string{"x86_64", "i686", "aarch64"}, arch) && !d.doc.Has("features", "acpi") {
		out = append(out, "the domain has no <acpi/> in its <features>: QEMU may take devices away from the guest when one is unplugged, so add it")
	}
	for _, r := range d.record.Disks {
		disk, err := r.Parsed()
		if err != nil {
			continue
		}
		for _, layer := range disk.Layers() {
			images := []*blockgraph.Image{layer}
			if layer.Encryption != nil && layer.Encryption.Header != nil {
				images = append(images, layer.Encryption.Header)
			}
			for _, i := range images {
				if i.Source.Path != "" && fsutil.InMemory(i.Source.Path) {
					out = append(out, fmt.Sprintf("disk %s: %s is in memory, and a reboot of the host takes it", r.Target, i.Source.Path))
				}
			}
		}
	}
	return out
}
