package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Change is a change of a domain's definition that has not been made yet.
type Change struct {
	// Before and After are the definition before and after the change. They are equal if
	// there is nothing to change.
	Before, After string

	at     descriptions
	change func(*domainxml.Document) (*domainxml.Document, error)
}

// Enable returns the change that gives the domain what the hook needs: a monitor of
// luksplug's own, and root ports that libvirt gives to no other device. It takes
// effect at the domain's next start. A change that is not possible is a
// [*hotplug.PreflightError] that wraps [ErrPorts].
func (d *Domain) Enable(ctx context.Context, e EnableOptions) (*Change, error) {
	d.noteUser(ctx)
	return newChange(ctx, d, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return enable(ctx, d, doc, e)
	})
}

// Disable returns the change that removes what [Domain.Enable] has added. A domain
// with disks of luksplug's is refused by a [*hotplug.PreflightError] that wraps
// [ErrDisks].
func (d *Domain) Disable(ctx context.Context) (*Change, error) {
	return newChange(ctx, d, disable)
}

func newChange(ctx context.Context, at descriptions, change func(*domainxml.Document) (*domainxml.Document, error)) (*Change, error) {
	before, err := at.definition(ctx)
	if err != nil {
		return nil, err
	}
	after, err := change(before)
	for _, cause := range []error{ErrDisks, ErrPorts, ErrUnverified} {
		if errors.Is(err, cause) {
			return nil, &hotplug.PreflightError{Cause: cause, Reason: "the definition of domain " + before.Name() + " is not changed", Err: err}
		}
	}
	if err != nil {
		return nil, err
	}
	return &Change{Before: string(before.Text()), After: string(after.Text()), at: at, change: change}, nil
}

// Apply makes the change, in the definition as it is now. libvirt validates it.
func (c *Change) Apply(ctx context.Context) error { return redefine(ctx, c.at, c.change) }

// MaxPorts is how many root ports a domain can have for luksplug's disks.
const MaxPorts = domainxml.MaxPorts

// EnableOptions are the options of [Domain.Enable].
type EnableOptions struct {
	// Ports is how many root ports there are to be for luksplug's disks alone, at most
	// [MaxPorts]; a machine without PCI Express gets none.
	Ports int
	// ColdPlug puts the disks that belong to the domain among QEMU's arguments, so
	// that the guest can boot from them.
	ColdPlug bool
}

// ErrPorts reports a number of root ports that is more than possible, or fewer than the
// recorded disks use.
var ErrPorts = errors.New("this number of root ports is not possible")

// enable gives a domain the monitor and the ports that the hook needs. Repeating it
// changes their number. A record that does not verify is refused.
func enable(ctx context.Context, at descriptions, doc *domainxml.Document, e EnableOptions) (*domainxml.Document, error) {
	r, err := record.FromDomain(doc)
	if err != nil {
		return nil, err
	}
	if len(r.Disks) == 0 {
		r.User = "" // an empty record may be unsigned
	} else if err := verify(at, r); err != nil {
		return nil, err
	}
	if e.Ports < 0 || e.Ports > domainxml.MaxPorts {
		return nil, fmt.Errorf("%w: there can be %d", ErrPorts, domainxml.MaxPorts)
	}
	if !pciExpress(doc) {
		e.Ports = 0
	}
	id := doc.CanonicalUUID()
	if id == "" {
		return nil, errors.New("the domain's XML has no valid <uuid>")
	}
	ports := domainxml.PortArguments(e.Ports)
	for _, disk := range r.Disks {
		for _, device := range disk.Devices {
			if bus := device.Text("bus"); slices.Contains(domainxml.Ports(doc.Arguments()), bus) && !slices.Contains(domainxml.Ports(ports), bus) {
				return nil, fmt.Errorf("%w: disk %s is plugged into %s", ErrPorts, disk.Target, bus)
			}
		}
	}
	// Ports come first: devices name them.
	arguments := slices.Concat(domainxml.Theirs(doc.Arguments()), domainxml.MonitorArguments(domainxml.MonitorDir, id), ports)
	if doc, err = doc.WithArguments(arguments); err != nil {
		return nil, err
	}
	r.ColdPlug = e.ColdPlug
	if r, err = sign(at, r); err != nil {
		return nil, err
	}
	return withRecord(ctx, doc, r)
}

// pciExpress reports whether the domain's machine has a PCI Express root.
func pciExpress(doc *domainxml.Document) bool {
	machine := doc.Attribute("machine", "os", "type")
	return machine == "virt" || strings.HasPrefix(machine, "virt-") || strings.Contains(machine, "q35")
}

// ErrDisks reports that the domain has disks of luksplug's.
var ErrDisks = errors.New("disks of luksplug's belong to the domain")

// disable removes everything of luksplug's from a definition.
func disable(doc *domainxml.Document) (*domainxml.Document, error) {
	r, err := record.FromDomain(doc)
	if err != nil {
		return nil, err
	}
	if len(r.Disks) > 0 {
		return nil, fmt.Errorf("%w: %s", ErrDisks, strings.Join(r.Targets(), ", "))
	}
	if doc, err = doc.WithArguments(domainxml.Theirs(doc.Arguments())); err != nil {
		return nil, err
	}
	return doc.WithMetadata(record.Namespace, nil)
}
