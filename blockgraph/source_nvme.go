package blockgraph

// NVMe is a drive of the host that QEMU accesses directly.
type NVMe struct {
	Device    string // the PCI address, such as "0000:01:00.0"
	Namespace uint64 // from 1
}

// node returns the options of a node.
//
//	<source><address type='pci'> -> device "dddd:bb:ss.f"
//	source@namespace             -> namespace
//	source@managed               -> nothing: the host's drive must be bound to vfio-pci
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsNVMe.
func (n *NVMe) node() nodeOptions {
	return nodeOptions{Object: Object{{"driver", "nvme"}, {"device", n.Device}, {"namespace", n.Namespace}}}
}

func (n *NVMe) validate(element string) error {
	switch {
	case n == nil || n.Device == "":
		return invalid(element, "NVMe disk source is missing address")
	case n.Namespace == 0:
		return invalid(element+"@namespace", "NVMe namespace can't be zero")
	}
	return nil
}
