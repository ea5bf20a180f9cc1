package diskxml

import (
	"encoding/xml"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
)

// ParseDomain reads a libvirt <domain> document and returns the data for planning
// a disk: the machine type, the PCI ports, the SCSI and USB controllers, the
// addresses in use, the other disks, the I/O threads and the throttle groups. The
// XML of a running domain has all addresses; for one that was never started
// libvirt has yet to choose some.
func ParseDomain(data []byte) (blockgraph.Machine, error) {
	if len(data) > 16*maxXMLBytes {
		return blockgraph.Machine{}, &XMLError{Element: "domain", Reason: fmt.Sprintf("%d bytes are more than a <domain> can need", len(data))}
	}
	data, err := utf8Text("domain", data)
	if err != nil {
		return blockgraph.Machine{}, err
	}
	var dom libvirtxml.Domain
	if err := xml.Unmarshal(data, &dom); err != nil {
		return blockgraph.Machine{}, malformed("domain", err)
	}
	m := machine{blockgraph.Machine{Name: dom.Name, Domain: true}}
	if dom.OS != nil && dom.OS.Type != nil {
		m.Type = dom.OS.Type.Machine
	}
	if m.Type == "" {
		return blockgraph.Machine{}, &XMLError{Element: "domain/os/type@machine", Reason: "is missing: it decides where a device can be plugged"}
	}
	if dom.Devices == nil {
		dom.Devices = &libvirtxml.DomainDeviceList{}
	}
	addresses := findAddresses(data)
	m.PCIUsed = usedPCI(addresses)
	taken := map[uint]map[uint]bool{}
	for _, a := range m.PCIUsed {
		markTaken(taken, a.Bus, a.Slot)
	}
	m.readControllers(&dom, taken)
	m.readUSB(&dom, addresses)
	m.Memory = memoryAccess(&dom)
	if m.I440FX() {
		// The host bridge and the PIIX3 are always there and have no element.
		markTaken(taken, 0, 0)
		markTaken(taken, 0, 1)
		m.PCIUsed = append(m.PCIUsed, blockgraph.PCIAddress{}, blockgraph.PCIAddress{Slot: 1})
	}
	for slot := range uint(0x20) {
		if taken[0][slot] {
			m.RootSlots = append(m.RootSlots, slot)
		}
	}
	m.readDisks(&dom)
	m.readIOThreads(&dom)
	err = m.readThrottleGroups(&dom)
	return m.Machine, err
}

// machine is a Machine under construction.
type machine struct{ blockgraph.Machine }

// readControllers reads the controllers, ports and buses for disks.
func (m *machine) readControllers(dom *libvirtxml.Domain, taken map[uint]map[uint]bool) {
	used := map[string]bool{}
	for _, c := range dom.Devices.Controllers {
		if c.Index != nil {
			used[fmt.Sprint(c.Type, *c.Index)] = true
		}
	}
	for _, c := range dom.Devices.Controllers {
		index := value(c.Index)
		if c.Index == nil { // libvirt gives it the lowest free one
			for used[fmt.Sprint(c.Type, index)] {
				index++
			}
			used[fmt.Sprint(c.Type, index)] = true
		}
		switch c.Type {
		case "pci":
			m.PCI = true
			bus := fmt.Sprintf("pci.%d", index)
			switch c.Model {
			case "pcie-root-port", "pcie-switch-downstream-port":
				// Each takes one device.
				off := c.PCI != nil && c.PCI.Target != nil && c.PCI.Target.Hotplug == "off"
				m.Ports = append(m.Ports, blockgraph.Port{Bus: bus, Taken: off || len(taken[index]) > 0})
			case "pci-bridge", "pcie-to-pci-bridge":
				b := blockgraph.Bridge{Bus: bus}
				for slot := range taken[index] {
					b.Slots = append(b.Slots, slot)
				}
				slices.Sort(b.Slots)
				m.Bridges = append(m.Bridges, b)
			}
		case "scsi":
			model := c.Model
			if model == "" || model == "auto" {
				model = m.DefaultSCSIModel()
			}
			m.SCSI = append(m.SCSI, blockgraph.SCSIController{ID: fmt.Sprintf("scsi%d", index), Model: model, Units: takenUnits(dom, index)})
		}
		m.readAlias(c, index)
	}
	for _, d := range dom.Devices.Disks { // libvirt adds their controllers if the domain has none
		if d.Target == nil || d.Target.Bus != "scsi" {
			continue
		}
		a, ok := driveOf(&d)
		id := fmt.Sprintf("scsi%d", a.Controller)
		if ok && !slices.ContainsFunc(m.SCSI, func(c blockgraph.SCSIController) bool { return c.ID == id }) {
			m.SCSI = append(m.SCSI, blockgraph.SCSIController{ID: id, Model: m.DefaultSCSIModel(), Units: takenUnits(dom, a.Controller)})
		}
	}
}

// readAlias records the user alias of a controller.
func (m *machine) readAlias(c libvirtxml.DomainController, index uint) {
	if c.Alias == nil || !strings.HasPrefix(c.Alias.Name, blockgraph.UserAlias) {
		return
	}
	name := c.Type + strconv.FormatUint(uint64(index), 10)
	switch {
	case c.Type == "pci":
		name = fmt.Sprintf("pci.%d", index)
	case c.Type == "usb" && index == 0:
		name = "usb"
	}
	if m.Aliases == nil {
		m.Aliases = map[string]string{}
	}
	m.Aliases[name] = c.Alias.Name
}

// memoryAccess returns whether other processes can access the guest's memory:
// only if the domain shares all of it, or each cell.
func memoryAccess(dom *libvirtxml.Domain) blockgraph.MemoryAccess {
	all := blockgraph.MemoryUnsaid
	if b := dom.MemoryBacking; b != nil {
		all = blockgraph.MemoryPrivate
		if b.MemoryAccess != nil && b.MemoryAccess.Mode == "shared" {
			all = blockgraph.MemoryShared
		}
	}
	if dom.CPU == nil || dom.CPU.Numa == nil || len(dom.CPU.Numa.Cell) == 0 {
		return all
	}
	for _, c := range dom.CPU.Numa.Cell {
		if c.MemAccess != "shared" && (c.MemAccess != "" || all != blockgraph.MemoryShared) {
			return blockgraph.MemoryPrivate
		}
	}
	return blockgraph.MemoryShared
}

// readDisks reads the values that another disk must not repeat.
func (m *machine) readDisks(dom *libvirtxml.Domain) {
	for _, d := range dom.Devices.Disks {
		if d.Target == nil {
			continue
		}
		o := blockgraph.OtherDisk{Target: d.Target.Dev, Serial: d.Serial}
		if n, err := strconv.ParseUint(strings.TrimPrefix(d.WWN, "0x"), 16, 64); err == nil {
			o.WWN = n
		}
		if t := d.IOTune; t != nil {
			o.Tune = tuneOf(*t)
		}
		m.Disks = append(m.Disks, o)
		switch bus := blockgraph.Bus(d.Target.Bus); bus {
		case blockgraph.BusIDE, blockgraph.BusSATA, blockgraph.BusFDC:
			if a, ok := driveOf(&d); ok {
				m.Drives = append(m.Drives, blockgraph.UsedDrive{Bus: bus, Address: a})
			}
		case blockgraph.BusVirtio:
			m.addCCW(d.Address)
		}
	}
	for _, n := range dom.Devices.Interfaces {
		m.addCCW(n.Address)
	}
	for _, c := range dom.Devices.Controllers {
		m.addCCW(c.Address)
	}
}

func (m *machine) addCCW(a *libvirtxml.DomainAddress) {
	if a != nil && a.CCW != nil {
		m.CCW = append(m.CCW, blockgraph.CCWAddress{CSSID: value(a.CCW.CSSID), SSID: value(a.CCW.SSID), DevNo: value(a.CCW.DevNo)})
	}
}

// driveOf returns the address of a disk of the domain: its own, or the one that
// follows from its target.
func driveOf(d *libvirtxml.DomainDisk) (blockgraph.DriveAddress, bool) {
	if a := d.Address; a != nil && a.Drive != nil {
		return blockgraph.DriveAddress{Controller: value(a.Drive.Controller), Bus: value(a.Drive.Bus), Target: value(a.Drive.Target), Unit: value(a.Drive.Unit)}, true
	}
	_, index, err := blockgraph.ParseTarget(d.Target.Dev)
	return blockgraph.DefaultDrive(blockgraph.Bus(d.Target.Bus), uint(max(index, 0))), err == nil
}

// readIOThreads reads the numbers of the I/O threads: the given ones, and the
// lowest free numbers up to the count in <iothreads>.
func (m *machine) readIOThreads(dom *libvirtxml.Domain) {
	if dom.IOThreadIDs != nil {
		for _, t := range dom.IOThreadIDs.IOThreads {
			m.IOThreads = append(m.IOThreads, t.ID)
		}
	}
	const most = 1 << 16 // more than any QEMU starts
	for id := uint(1); uint(len(m.IOThreads)) < min(dom.IOThreads, most); id++ {
		if !slices.Contains(m.IOThreads, id) {
			m.IOThreads = append(m.IOThreads, id)
		}
	}
}

// readThrottleGroups reads <throttlegroups>.
func (m *machine) readThrottleGroups(dom *libvirtxml.Domain) error {
	if dom.ThrottleGroups == nil {
		return nil
	}
	for _, g := range dom.ThrottleGroups.ThrottleGroups {
		group := blockgraph.ThrottleGroup{Limits: *tuneOf(libvirtxml.DomainDiskIOTune(g))}
		if err := group.Validate(); err != nil {
			return at(0, err)
		}
		m.ThrottleGroups = append(m.ThrottleGroups, group)
	}
	return nil
}

// findAddresses returns every <address> of a device in the document. Those in a
// <source> are the host's, and omitted.
func findAddresses(data []byte) []*element {
	var out []*element
	d := xml.NewDecoder(strings.NewReader(string(data)))
	sources := 0
	for {
		token, err := d.Token()
		if err != nil {
			return out // the whole document was read before, so this is its end
		}
		if end, ok := token.(xml.EndElement); ok && end.Name.Local == "source" {
			sources--
		}
		start, ok := token.(xml.StartElement)
		if ok && start.Name.Local == "source" {
			sources++
		}
		if ok && start.Name.Local == "address" && sources == 0 {
			out = append(out, &element{name: "address", path: "address", attrs: start.Attr})
		}
	}
}

// usedPCI returns the PCI addresses in use.
func usedPCI(addresses []*element) []blockgraph.PCIAddress {
	var out []blockgraph.PCIAddress
	for _, e := range addresses {
		n := numbers{e: e}
		a := blockgraph.PCIAddress{Bus: n.get("bus", 0xff), Slot: n.get("slot", 0x1f), Function: n.get("function", 7)}
		if e.attr("type") == "pci" && n.err == nil {
			out = append(out, a)
		}
	}
	return out
}

func markTaken(taken map[uint]map[uint]bool, bus, slot uint) {
	if taken[bus] == nil {
		taken[bus] = map[uint]bool{}
	}
	taken[bus][slot] = true
}

func takenUnits(dom *libvirtxml.Domain, controller uint) []blockgraph.SCSIUnit {
	var units []blockgraph.SCSIUnit
	for _, d := range dom.Devices.Disks {
		if d.Target == nil || d.Target.Bus != "scsi" {
			continue
		}
		if a, ok := driveOf(&d); ok && a.Controller == controller {
			units = append(units, blockgraph.SCSIUnit{Target: a.Target, LUN: a.Unit})
		}
	}
	for _, h := range dom.Devices.Hostdevs { // SCSI pass-through: the only ones with a drive address
		if a := h.Address; a != nil && a.Drive != nil && value(a.Drive.Controller) == controller {
			units = append(units, blockgraph.SCSIUnit{Target: value(a.Drive.Target), LUN: value(a.Drive.Unit)})
		}
	}
	return units
}

func value(n *uint) uint {
	if n == nil {
		return 0
	}
	return *n
}
