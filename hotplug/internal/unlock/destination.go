package unlock

import (
	"context"

	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

// ToQEMU returns the destination of values that go to the QEMU of a running VM, through its
// monitor, as a descriptor, or as files on tmpfs. The QEMU is on this node if its process is:
// the other end of a monitor can be a proxy or a forwarded socket.
func ToQEMU(ctx context.Context, h *host.Host) secrets.Destination {
	to := secrets.Destination{Name: "the VM's QEMU", Reader: secrets.Hypervisor, Medium: secrets.Memory}
	if !h.Local {
		to.Node = secrets.OtherNode
		return to
	}
	p, err := h.Process(ctx)
	if err != nil {
		return to // on an unknown node
	}
	if _, qemu := hostproc.QEMUOf(p.PID); qemu {
		to.Node = secrets.ThisNode
	}
	return to
}

// ToNewQEMU returns the destination of values that go to a QEMU that is about to start on
// this host, as files on tmpfs.
func ToNewQEMU() secrets.Destination {
	return secrets.Destination{Name: "the VM's QEMU", Node: secrets.ThisNode, Reader: secrets.Hypervisor, Medium: secrets.Memory}
}

// ToStorageDaemon returns the destination of values that go to a storage daemon, which this
// process has started, through a socket in a private directory. It is a part of the
// hypervisor, as the QEMU that it serves.
func ToStorageDaemon() secrets.Destination {
	return secrets.Destination{Name: "the storage daemon", Node: secrets.ThisNode, Reader: secrets.Hypervisor, Medium: secrets.Memory}
}
