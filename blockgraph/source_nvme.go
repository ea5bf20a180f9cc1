package blockgraph

// NVMe is a drive of the host's, which QEMU drives by itself.
type NVMe struct {
	// Device is its PCI address, such as "0000:01:00.0".
	Device string
	// Namespace is the number of the namespace, from 1.
	Namespace uint64
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
