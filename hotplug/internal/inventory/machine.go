package inventory

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// Machine queries what the planner needs to place the disk, and no more: a VM may have
// dozens of ports, and each query is a round trip.
func Machine(ctx context.Context, q monitor.Querier, disk *blockgraph.Disk, state *State) (blockgraph.Machine, error) {
	kind := monitor.QOMGet("/machine", "type")
	pci := queryPCI
	results, err := q.Query(ctx, kind, pci)
	if err != nil {
		return blockgraph.Machine{}, err
	}
	var m blockgraph.Machine
	if err := monitor.Decode(results[0], &m.Type, kind); err != nil {
		return m, err
	}
	m.Type = strings.TrimSuffix(m.Type, "-machine")
	if err := readPCI(&m, results[1], pci); err != nil {
		return m, err
	}
	for _, kind := range state.Devices {
		// query-pci does not list devices behind a port that the firmware has not numbered
		// yet.
		m.USB = m.USB || strings.HasSuffix(kind, "xhci") || strings.Contains(kind, "usb-ehci") || strings.Contains(kind, "usb-uhci")
	}
	addShared(&m, state)
	if disk.Bus == blockgraph.BusSCSI {
		if m.SCSI, err = scsiControllers(ctx, q, state); err != nil {
			return m, err
		}
	}
	if disk.Bus == blockgraph.BusUSB && disk.Address == nil {
		if m.USBFree, err = usbPorts(ctx, q, state); err != nil {
			return m, err
		}
	}
	if disk.Bus == blockgraph.BusVirtio || disk.Bus == blockgraph.BusSCSI && len(m.SCSI) == 0 {
		if m.Ports, err = ports(ctx, q, disk, state); err != nil {
			return m, err
		}
		if m.Bridges, err = bridges(ctx, q, state); err != nil {
			return m, err
		}
		if m.I440FX() {
			readConventional(ctx, q, disk, &m)
		}
	}
	return m, nil
}

// readConventional reads whether the conventional buses of an i440FX take a hot plug: its own, and that of the bridge at
// which the disk's address is.
func readConventional(ctx context.Context, q monitor.Querier, disk *blockgraph.Disk, m *blockgraph.Machine) {
	m.RootFixed = rootFixed(ctx, q)
	if disk.Address == nil || disk.Address.PCI == nil || disk.Address.PCI.Bus == 0 {
		return
	}
	bridge := fmt.Sprintf("pci.%d", disk.Address.PCI.Bus)
	if handler, err := hotplugHandler(ctx, q, Peripheral+bridge+"/"+bridge); err == nil && handler == "" {
		m.Ports = append(m.Ports, blockgraph.Port{Bus: bridge, Taken: true})
	}
}

// hotplugHandler returns the QOM path of what handles hot plug on a bus, "" if nothing does.
func hotplugHandler(ctx context.Context, q monitor.Querier, bus string) (string, error) {
	return monitor.Get[string](ctx, q, monitor.QOMGet(bus, "hotplug-handler"))
}

// rootFixed reports whether the PCI bus of an i440FX takes no hot plug: QEMU was started with acpi=off, as libvirt does
// for a domain without <acpi/>, or with PIIX4_PM.acpi-root-pci-hotplug=off. A QEMU that does not say so refuses the device.
func rootFixed(ctx context.Context, q monitor.Querier) bool {
	handler, err := hotplugHandler(ctx, q, "/machine/i440fx/pci.0")
	if err != nil || handler == "" {
		return err == nil
	}
	on, err := monitor.Get[bool](ctx, q, monitor.QOMGet(handler, "acpi-root-pci-hotplug"))
	return err == nil && !on
}

// addShared adds the objects that the disks of a VM share, under libvirt's names: I/O
// threads and throttle groups.
func addShared(m *blockgraph.Machine, state *State) {
	for id, kind := range state.Objects {
		if number, ok := strings.CutPrefix(id, "iothread"); ok && kind == "iothread" {
			if n, err := strconv.ParseUint(number, 10, 31); err == nil {
				m.IOThreads = append(m.IOThreads, uint(n))
			}
		}
		if name, ok := strings.CutPrefix(id, "throttle-"); ok && kind == "throttle-group" {
			m.ThrottleGroups = append(m.ThrottleGroups, blockgraph.ThrottleGroup{Limits: blockgraph.IOTune{Group: name}, Exists: true})
		}
	}
}

// readPCI takes the reliable parts of query-pci: the slots of the root bus and whether
// there is a USB controller. query-pci does not list devices behind a port before the
// guest's firmware has numbered the buses.
func readPCI(m *blockgraph.Machine, value []byte, cmd qmp.Command) error {
	buses, err := decodePCI(value, cmd)
	if err != nil {
		return err
	}
	const serialBusUSB = 0x0c03 // PCI class code: serial bus controller, USB
	const pciSlots = 32
	m.NoPCI = len(buses) == 0
	var root [pciSlots]bool
	for _, b := range buses {
		for _, d := range b.Devices {
			if b.Bus == 0 && d.Slot >= 0 && d.Slot < pciSlots && !root[d.Slot] {
				root[d.Slot] = true
				m.RootSlots = append(m.RootSlots, uint(d.Slot))
			}
		}
		eachPCI(b.Devices, func(d pciDevice) { m.USB = m.USB || d.Class.Class == serialBusUSB })
	}
	return nil
}

// portsAtOnce is the number of ports in one batch of queries.
const portsAtOnce = 8

// ports queries the port that the disk's address names or, without one, ports in the
// planner's order until it has found a free port and, unless the port is reserved for
// luksplug, another one.
func ports(ctx context.Context, q monitor.Querier, disk *blockgraph.Disk, state *State) ([]blockgraph.Port, error) {
	var ids []string
	for id, kind := range state.Devices {
		switch kind {
		case "pcie-root-port", "ioh3420", "xio3130-downstream", "x3130-upstream":
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, blockgraph.ComparePorts)
	explicit := disk.Address != nil && disk.Address.PCI != nil
	var ports []blockgraph.Port
	found, reserved := 0, false
	for batch := range slices.Chunk(ids, portsAtOnce) {
		var commands []qmp.Command
		for _, id := range batch {
			// A port's bus has the port's id; a device on it is a link child[0], even if the
			// guest has not detected it yet.
			commands = append(commands, monitor.QOMList(Peripheral+id+"/"+id), monitor.QOMGet(Peripheral+id, "hotplug"))
		}
		results := q.QueryEach(ctx, commands...)
		for i, id := range batch {
			bus, hotplug := results[2*i], results[2*i+1]
			if bus.Err != nil {
				return nil, fmt.Errorf("query PCI port %s: %w", id, bus.Err)
			}
			var onBus properties
			if err := monitor.Decode(bus.Value, &onBus, commands[2*i]); err != nil {
				return nil, err
			}
			taken := hotplug.Err == nil && string(hotplug.Value) == "false"
			for _, p := range onBus {
				taken = taken || strings.HasPrefix(p.Name, "child[")
			}
			ports = append(ports, blockgraph.Port{Bus: id, Taken: taken})
			if !taken {
				found++
				reserved = reserved || blockgraph.IsReservedPort(id)
			}
		}
		if !explicit && (reserved || found > 1) {
			break
		}
	}
	return ports, nil
}

// scsiControllers returns the virtio-scsi controllers and the units in use on
// each, in the order of their ids.
func scsiControllers(ctx context.Context, q monitor.Querier, state *State) ([]blockgraph.SCSIController, error) {
	var out []blockgraph.SCSIController
	for id, kind := range state.Devices {
		if !strings.HasPrefix(kind, "virtio-scsi-") {
			continue
		}
		units, err := scsiUnits(ctx, q, scsiBus(id, kind))
		if err != nil {
			return nil, fmt.Errorf("query SCSI controller %s: %w", id, err)
		}
		out = append(out, blockgraph.SCSIController{ID: id, Units: units})
	}
	slices.SortFunc(out, func(a, b blockgraph.SCSIController) int { return strings.Compare(a.ID, b.ID) })
	return out, nil
}

func scsiUnits(ctx context.Context, q monitor.Querier, bus string) ([]blockgraph.SCSIUnit, error) {
	paths, err := linksOf(ctx, q, bus)
	if err != nil {
		return nil, err
	}
	targets, err := propertyOf[int](ctx, q, paths, "scsi-id")
	if err != nil {
		return nil, err
	}
	luns, err := propertyOf[int](ctx, q, paths, "lun")
	if err != nil {
		return nil, err
	}
	units := make([]blockgraph.SCSIUnit, len(paths))
	for i := range paths {
		units[i] = blockgraph.SCSIUnit{Target: uint(max(targets[i], 0)), LUN: uint(max(luns[i], 0))}
	}
	return units, nil
}
