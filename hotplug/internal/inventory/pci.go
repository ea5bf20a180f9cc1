package inventory

import (
	"context"

	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/qmp"
)

// PCIFunction is a function of a PCI device, by the guest's numbers of buses.
type PCIFunction struct{ Bus, Slot, Function int }

// pciFunctions is the number of functions of a slot.
const pciFunctions = 8

var queryPCI = qmp.Command{Execute: "query-pci"}

// pciBus is PciInfo of QEMU's qapi/pci.json.
type pciBus struct {
	Bus     int         `json:"bus"`
	Devices []pciDevice `json:"devices"`
}

// pciDevice is PciDeviceInfo of the same.
type pciDevice struct {
	Bus      int    `json:"bus"`
	Slot     int    `json:"slot"`
	Function int    `json:"function"`
	ID       string `json:"qdev_id"`
	Class    struct {
		Class int `json:"class"`
	} `json:"class_info"`
	Bridge *struct {
		Devices []pciDevice `json:"devices"`
	} `json:"pci_bridge"`
}

func decodePCI(value []byte, cmd qmp.Command) ([]pciBus, error) {
	var buses []pciBus
	return buses, monitor.Decode(value, &buses, cmd)
}

// deepestPCI bounds bridges behind bridges: there are 256 buses.
const deepestPCI = 256

// eachPCI calls f for devices and for those behind them.
func eachPCI(devices []pciDevice, f func(pciDevice)) { eachBelow(devices, deepestPCI, f) }

func eachBelow(devices []pciDevice, depth int, f func(pciDevice)) {
	for _, d := range devices {
		f(d)
		if d.Bridge != nil && depth > 0 {
			eachBelow(d.Bridge.Devices, depth-1, f)
		}
	}
}

// PCIFunctions returns the functions of the devices that have an id, by their ids. Devices behind a bridge are listed
// once the guest's firmware has numbered its bus.
func PCIFunctions(ctx context.Context, q monitor.Querier) (map[string]PCIFunction, error) {
	buses, err := monitor.Get[[]pciBus](ctx, q, queryPCI)
	if err != nil {
		return nil, err
	}
	out := map[string]PCIFunction{}
	for _, b := range buses {
		eachPCI(b.Devices, func(d pciDevice) {
			if d.ID != "" {
				out[d.ID] = PCIFunction{d.Bus, d.Slot, d.Function}
			}
		})
	}
	return out, nil
}
