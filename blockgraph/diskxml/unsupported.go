package diskxml

// reasons says why an element or attribute of libvirt is refused, by the name of the
// element, or of the element and the attribute.
var reasons = map[string]string{
	"backenddomain":      "names a domain of Xen's that serves the disk, which libvirt ignores for QEMU: remove it",
	"statistics":         "is of a libvirt that is newer than the one which luksplug follows (11.3): remove it, as it changes nothing for the guest",
	"zpci":               "is the PCI address of a mainframe (s390x), for which luksplug adds no zpci device: use <address type='ccw'> there, and remove it for other machines",
	"driver@max_bufsize": "is of a libvirt that is newer than the one which luksplug follows (11.3): remove it, as it changes nothing for the guest",
	"source@fdgroup":     "are descriptors that a program passed to libvirtd for its own domain, which other programs cannot use: name the file",
	"acpi@nodeset":       "is for passed-through devices, and a disk has no NUMA nodes: remove it",
}

// why returns the reason, or a general one.
func why(name string) string {
	if reason := reasons[name]; reason != "" {
		return reason
	}
	return "luksplug does not support this: remove it if the disk can do without"
}
