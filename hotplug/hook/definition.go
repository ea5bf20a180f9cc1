package hook

import (
	"context"
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/record"
)

// Definition changes the definitions of domains, which take effect at the next start.
// Programs use it through package libvirtvm.
type Definition struct {
	// RunDir is as in [hotplug.Options], MonitorDir replaces [MonitorDir] if it is not
	// empty.
	RunDir, MonitorDir string
}

// Enabling is what a domain gets.
type Enabling struct {
	// Ports is how many root ports there are to be for our disks alone, at most
	// [MaxPorts]; a machine without PCI Express gets none.
	Ports int
	// ColdPlug puts the disks that belong to the domain among QEMU's arguments, so
	// that the guest can boot from them.
	ColdPlug bool
}

// ErrPorts reports a number of root ports that is more than possible, or fewer than the
// recorded disks use.
var ErrPorts = errors.New("this number of root ports is not possible")

// Enable gives a domain the monitor and the ports that the hook needs. Doing it
// again changes their number.
func (d Definition) Enable(ctx context.Context, doc *domainxml.Document, e Enabling) (*domainxml.Document, error) {
	r, err := record.FromDomain(doc)
	if err != nil {
		return nil, err
	}
	if e.Ports < 0 || e.Ports > MaxPorts {
		return nil, fmt.Errorf("%w: there can be %d", ErrPorts, MaxPorts)
	}
	if !pciExpress(doc) {
		e.Ports = 0
	}
	if doc.UUID() == "" {
		return nil, errors.New("the domain's XML has no <uuid>")
	}
	ports := PortArguments(e.Ports)
	for _, disk := range r.Disks {
		for _, device := range disk.Devices {
			if bus := device.Text("bus"); slices.Contains(Ports(doc.Arguments()), bus) && !slices.Contains(Ports(ports), bus) {
				return nil, fmt.Errorf("%w: disk %s is plugged into %s", ErrPorts, disk.Target, bus)
			}
		}
	}
	dir := d.MonitorDir
	if dir == "" {
		dir = MonitorDir
	}
	// Ports come first: devices name them.
	arguments := append(MonitorArguments(dir, doc.UUID()), ports...)
	if doc, err = doc.WithArguments(append(withoutOurs(doc.Arguments()), arguments...)); err != nil {
		return nil, err
	}
	r.ColdPlug = e.ColdPlug
	return d.WithRecord(ctx, doc, r)
}

// pciExpress reports whether the domain's machine has a PCI Express root.
func pciExpress(doc *domainxml.Document) bool {
	machine := doc.Attribute("machine", "os", "type")
	return machine == "virt" || strings.HasPrefix(machine, "virt-") || strings.Contains(machine, "q35")
}

// ErrDisks reports that the domain has disks of luksplug's.
var ErrDisks = errors.New("disks of luksplug's belong to the domain")

// Disable removes everything of luksplug's from a definition.
func (d Definition) Disable(doc *domainxml.Document) (*domainxml.Document, error) {
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
			monitor := pair[0] == "-mon" && strings.HasPrefix(pair[1], "chardev="+MonitorID+",")
			if monitor || MonitorSocket(pair) != "" || len(Ports(pair)) > 0 {
				i++
				continue
			}
		}
		out = append(out, arguments[i])
	}
	return out
}

// WithRecord puts a record into a definition and, where disks are plugged cold,
// those of its disks among QEMU's arguments that the domain cannot start without.
func (d Definition) WithRecord(ctx context.Context, doc *domainxml.Document, r record.Record) (*domainxml.Document, error) {
	arguments := domainxml.Foreign(doc.Arguments())
	starting := hotplug.NewStarting(doc.UUID(), nil, hotplug.Options{RunDir: d.RunDir})
	for _, disk := range r.Disks {
		if !r.ColdPlug || disk.Optional {
			continue
		}
		start, err := StartDisk(doc, disk)
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
