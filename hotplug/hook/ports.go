package hook

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
)

// MaxPorts is how many root ports a domain can have for our disks: the functions
// of one slot.
const MaxPorts = 8

// The place of the ports: libvirt numbers its own slots and chassis from below.
const (
	portSlot    = 0x1e
	portChassis = 200
)

// PortArguments are the arguments that give a PCI Express machine n root ports
// for our disks alone, at most [MaxPorts]. libvirt does not know them, and so does
// not use them.
func PortArguments(n int) []string {
	var out []string
	for i := range min(n, MaxPorts) {
		o := blockgraph.Object{{Name: "driver", Value: "pcie-root-port"}, {Name: "id", Value: blockgraph.ReservedPort(i)}, {Name: "bus", Value: "pcie.0"},
			{Name: "addr", Value: fmt.Sprintf("0x%x.0x%x", portSlot, i)}, {Name: "chassis", Value: portChassis + i}}
		if i == 0 {
			o = append(o, blockgraph.Member{Name: "multifunction", Value: true})
		}
		out = append(out, "-device", o.String())
	}
	return out
}

// Ports returns the names of such ports among QEMU's arguments.
func Ports(arguments []string) []string {
	var out []string
	for i := 0; i+1 < len(arguments); i++ {
		var device struct{ Driver, ID string }
		if arguments[i] != "-device" || json.Unmarshal([]byte(arguments[i+1]), &device) != nil {
			continue
		}
		if blockgraph.IsReservedPort(device.ID) && !slices.Contains(out, device.ID) {
			out = append(out, device.ID)
		}
	}
	return out
}

// FreePorts returns those that no recorded disk has.
func FreePorts(arguments []string, devices []blockgraph.Object) []blockgraph.Port {
	var out []blockgraph.Port
	for _, port := range Ports(arguments) {
		taken := slices.ContainsFunc(devices, func(o blockgraph.Object) bool { return o.Text("bus") == port })
		out = append(out, blockgraph.Port{Bus: port, Taken: taken})
	}
	return out
}
