package domainxml

import (
	"encoding/json"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
)

// MaxPorts is how many root ports a domain can have for luksplug's disks: the functions
// of one slot.
const MaxPorts = 8

// libvirt numbers its own slots and chassis from below.
const (
	portSlot    = 0x1e
	portChassis = 200
)

// PortArguments returns the arguments that give a PCI Express machine n root ports, at
// most [MaxPorts]. libvirt does not know these ports, so it gives them to no device.
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
	for option, value := range pairs(arguments) {
		var device struct{ Driver, ID string }
		if option != "-device" || json.Unmarshal([]byte(value), &device) != nil {
			continue
		}
		if blockgraph.IsReservedPort(device.ID) && !slices.Contains(out, device.ID) {
			out = append(out, device.ID)
		}
	}
	return out
}
