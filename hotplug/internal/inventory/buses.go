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

// mostBuses bounds the buses that are queried for one disk: QEMU may list any number.
const mostBuses = 64

// devicesOf returns the ids of the devices of one of the types, in their order, at most mostBuses.
func devicesOf(state *State, kinds ...string) []string {
	var ids []string
	for id, kind := range state.Devices {
		if slices.Contains(kinds, kind) {
			ids = append(ids, id)
		}
	}
	slices.SortFunc(ids, blockgraph.ComparePorts)
	return ids[:min(len(ids), mostBuses)]
}

// linksAtOnce is the number of devices of a bus in one batch of queries: each of the answers may be as long as the
// monitor's bound.
const linksAtOnce = 32

// linksOf returns the QOM paths of the devices on a bus, to which its links child[0] and so on lead. They exist although
// the guest has not detected the device yet.
func linksOf(ctx context.Context, q monitor.Querier, bus string) ([]string, error) {
	list, err := monitor.Get[properties](ctx, q, monitor.QOMList(bus))
	if err != nil {
		return nil, err
	}
	var links []qmp.Command
	for _, p := range list {
		if strings.HasPrefix(p.Name, "child[") {
			links = append(links, monitor.QOMGet(bus, p.Name))
		}
	}
	return inBatches[string](ctx, q, links)
}

// propertyOf returns a property of each device.
func propertyOf[T any](ctx context.Context, q monitor.Querier, paths []string, name string) ([]T, error) {
	commands := make([]qmp.Command, 0, len(paths))
	for _, path := range paths {
		commands = append(commands, monitor.QOMGet(path, name))
	}
	return inBatches[T](ctx, q, commands)
}

// onBus returns a property of each device on a bus.
func onBus[T any](ctx context.Context, q monitor.Querier, bus, name string) ([]T, error) {
	paths, err := linksOf(ctx, q, bus)
	if err != nil {
		return nil, err
	}
	return propertyOf[T](ctx, q, paths, name)
}

// inBatches runs queries and decodes their values.
func inBatches[T any](ctx context.Context, q monitor.Querier, commands []qmp.Command) ([]T, error) {
	var out []T
	for part := range slices.Chunk(commands, linksAtOnce) {
		values, err := q.Query(ctx, part...)
		if err != nil {
			return nil, err
		}
		for i, v := range values {
			var value T
			if err := monitor.Decode(v, &value, part[i]); err != nil {
				return nil, err
			}
			out = append(out, value)
		}
	}
	return out, nil
}

// bridges returns the conventional PCI buses behind bridges, with the slots in use. A bus without hot plug is left out.
func bridges(ctx context.Context, q monitor.Querier, state *State) ([]blockgraph.Bridge, error) {
	var out []blockgraph.Bridge
	for _, id := range devicesOf(state, "pci-bridge", "pcie-pci-bridge") {
		bus := Peripheral + id + "/" + id
		handler, err := hotplugHandler(ctx, q, bus)
		if err != nil {
			return nil, fmt.Errorf("query PCI bridge %s: %w", id, err)
		}
		if handler == "" {
			continue
		}
		used, err := onBus[int](ctx, q, bus, "addr")
		if err != nil {
			return nil, fmt.Errorf("query PCI bridge %s: %w", id, err)
		}
		b := blockgraph.Bridge{Bus: id}
		for _, devfn := range used {
			b.Slots = append(b.Slots, uint(max(devfn, 0))/pciFunctions)
		}
		out = append(out, b)
	}
	return out, nil
}

// usbPorts returns the free ports of the USB 3 controllers, whose number of ports is a property. Other controllers are
// left to QEMU: then no port is returned.
func usbPorts(ctx context.Context, q monitor.Querier, state *State) ([]blockgraph.USBPort, error) {
	var out []blockgraph.USBPort
	for _, id := range devicesOf(state, "qemu-xhci", "nec-usb-xhci") {
		p2, p3 := monitor.QOMGet(Peripheral+id, "p2"), monitor.QOMGet(Peripheral+id, "p3")
		values, err := q.Query(ctx, p2, p3)
		if err != nil {
			return nil, fmt.Errorf("query USB controller %s: %w", id, err)
		}
		var usb2, usb3 uint8 // QEMU has at most 15
		if err := monitor.Decode(values[0], &usb2, p2); err != nil {
			return nil, err
		}
		if err := monitor.Decode(values[1], &usb3, p3); err != nil {
			return nil, err
		}
		used, err := onBus[string](ctx, q, Peripheral+id+"/"+id+".0", "port")
		if err != nil {
			return nil, fmt.Errorf("query USB controller %s: %w", id, err)
		}
		for n := uint(max(usb2, usb3)); n > 0; n-- {
			if !slices.Contains(used, strconv.FormatUint(uint64(n), 10)) {
				out = append(out, blockgraph.USBPort{Bus: id + ".0", Number: n})
			}
		}
	}
	return out, nil
}
