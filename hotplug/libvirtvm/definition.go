package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/coldstart"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Change is a change of a domain's definition that was not made yet.
type Change struct {
	// Before and After are the definition as it is and as it is going to be. They are
	// equal if there is nothing to change.
	Before, After string

	at     descriptions
	change func(*domainxml.Document) (*domainxml.Document, error)
}

// Enable returns the change that gives the domain what the hook needs: a monitor of
// luksplug's own, and root ports that libvirt gives to no other device. It takes
// effect at the domain's next start. A change that is not possible is a
// [*hotplug.PreflightError] that wraps [ErrPorts].
func (d *Domain) Enable(ctx context.Context, e EnableOptions) (*Change, error) {
	return newChange(ctx, d, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return enable(ctx, doc, e)
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
	if errors.Is(err, ErrDisks) || errors.Is(err, ErrPorts) {
		return nil, &hotplug.PreflightError{Reason: "the definition of domain " + before.Name() + " is not changed", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &Change{Before: string(before.Text()), After: string(after.Text()), at: at, change: change}, nil
}

// Apply makes the change, in the definition as it is now. libvirt validates it.
func (c *Change) Apply(ctx context.Context) error { return redefine(ctx, c.at, c.change) }

// EnableOptions are what a domain gets.
type EnableOptions struct {
	// Ports is how many root ports there are to be for luksplug's disks alone, at most
	// [hook.MaxPorts]; a machine without PCI Express gets none.
	Ports int
	// ColdPlug puts the disks that belong to the domain among QEMU's arguments, so
	// that the guest can boot from them.
	ColdPlug bool
}

// ErrPorts reports a number of root ports that is more than possible, or fewer than the
// recorded disks use.
var ErrPorts = errors.New("this number of root ports is not possible")

// enable gives a domain the monitor and the ports that the hook needs. Doing it
// again changes their number.
func enable(ctx context.Context, doc *domainxml.Document, e EnableOptions) (*domainxml.Document, error) {
	r, err := record.FromDomain(doc)
	if err != nil {
		return nil, err
	}
	if e.Ports < 0 || e.Ports > hook.MaxPorts {
		return nil, fmt.Errorf("%w: there can be %d", ErrPorts, hook.MaxPorts)
	}
	if !pciExpress(doc) {
		e.Ports = 0
	}
	if doc.UUID() == "" {
		return nil, errors.New("the domain's XML has no <uuid>")
	}
	ports := hook.PortArguments(e.Ports)
	for _, disk := range r.Disks {
		for _, device := range disk.Devices {
			if bus := device.Text("bus"); slices.Contains(hook.Ports(doc.Arguments()), bus) && !slices.Contains(hook.Ports(ports), bus) {
				return nil, fmt.Errorf("%w: disk %s is plugged into %s", ErrPorts, disk.Target, bus)
			}
		}
	}
	// Ports come first: devices name them.
	arguments := append(hook.MonitorArguments(hook.MonitorDir, doc.UUID()), ports...)
	if doc, err = doc.WithArguments(append(withoutOurs(doc.Arguments()), arguments...)); err != nil {
		return nil, err
	}
	r.ColdPlug = e.ColdPlug
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
		return nil, fmt.Errorf("%w: %s", ErrDisks, targets(r))
	}
	if doc, err = doc.WithArguments(withoutOurs(doc.Arguments())); err != nil {
		return nil, err
	}
	return doc.WithMetadata(record.Namespace, nil)
}

func targets(r record.Record) string {
	var out []string
	for _, d := range r.Disks {
		out = append(out, d.Target)
	}
	return strings.Join(out, ", ")
}

// withoutOurs returns the arguments without anything of luksplug's: disks, ports and the
// monitor.
func withoutOurs(arguments []string) []string {
	arguments = domainxml.Foreign(arguments)
	var out []string
	for i := 0; i < len(arguments); i++ {
		if i+1 < len(arguments) {
			pair := arguments[i : i+2]
			monitor := pair[0] == "-mon" && strings.HasPrefix(pair[1], "chardev="+hook.MonitorID+",")
			if monitor || hook.MonitorSocket(pair) != "" || len(hook.Ports(pair)) > 0 {
				i++
				continue
			}
		}
		out = append(out, arguments[i])
	}
	return out
}

// withRecord puts a record into a definition and, where disks are plugged cold,
// those of its disks among QEMU's arguments that the domain cannot start without.
func withRecord(ctx context.Context, doc *domainxml.Document, r record.Record) (*domainxml.Document, error) {
	arguments := domainxml.Foreign(doc.Arguments())
	starting := coldstart.New(doc.UUID(), coldstart.Options{})
	for _, disk := range r.Disks {
		if !r.ColdPlug || disk.Optional {
			continue
		}
		start, err := hook.StartDisk(doc, disk)
		if err != nil {
			return nil, err
		}
		ours, err := starting.Arguments(ctx, start)
		if err != nil {
			return nil, fmt.Errorf("disk %s: %w", disk.Target, err)
		}
		arguments = append(arguments, ours.Arguments...)
	}
	doc, err := doc.WithArguments(arguments)
	if err != nil {
		return nil, err
	}
	if r.Empty() {
		return doc.WithMetadata(record.Namespace, nil)
	}
	if old, err := record.FromDomain(doc); err == nil && reflect.DeepEqual(old, r) {
		return doc, nil // in libvirt's own layout
	}
	text, err := r.XML()
	if err != nil {
		return nil, err
	}
	return doc.WithMetadata(record.Namespace, []byte(text))
}
