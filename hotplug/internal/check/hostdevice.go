package check

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/qmp"
)

// hostDevices checks the source of a disk without an image: a device or server of the
// host that QEMU drives itself.
func hostDevices(ctx context.Context, c *Candidate) (Findings, error) {
	for _, image := range c.Disk.Images() {
		var err error
		switch s := image.Source; s.Kind {
		case blockgraph.SourceVHostUser:
			err = c.checkVHostUser(ctx, s)
		case blockgraph.SourceVHostVDPA:
			if !c.Host.Local || !c.VM.Conn.Client().PassesFiles() {
				err = fmt.Errorf("%s has to be passed to QEMU as a descriptor, which this connection to the VM cannot do: use a monitor that is a unix socket", s.Path)
				break
			}
			err = checkVDPA(s.Path)
		case blockgraph.SourceNVMe:
			if c.Host.Local {
				err = checkNVMe(s.NVMe, "/sys/bus/pci")
			}
		}
		if err != nil {
			return Findings{}, c.refuse(outcome.ErrHostDevice, nil, "%v", err)
		}
	}
	return Findings{}, nil
}

// checkVHostUser checks that the guest's memory is shared with the server, which reads
// requests from it. Otherwise QEMU (10.0.2) accepts the device, and the guest waits for
// its disk forever. QEMU also stalls while it waits for a missing server.
func (c *Candidate) checkVHostUser(ctx context.Context, s blockgraph.Source) error {
	if c.Host.Local {
		switch info, err := os.Stat(s.Path); {
		case err != nil:
			return fmt.Errorf("the socket of the vhost-user server cannot be used: %w: start the server first", err)
		case info.Mode().Type() != fs.ModeSocket:
			return fmt.Errorf("%s is not the socket of a vhost-user server: it is a %s", s.Path, info.Mode().Type())
		}
	}
	type backend struct {
		ID    string
		Share bool
	}
	backends, err := monitor.Get[[]backend](ctx, c.VM.Conn, qmp.Command{Execute: "query-memdev"})
	if err != nil {
		return err
	}
	for _, b := range backends {
		if !b.Share {
			return fmt.Errorf("'vhostuser' requires shared memory, and that of the VM (%s) is its own: start the VM with a memory backend that has share=on, in libvirt's XML <memoryBacking><access mode='shared'/></memoryBacking>", b.ID)
		}
	}
	return nil
}

// checkVDPA checks the device that is passed to QEMU as a descriptor.
func checkVDPA(path string) error {
	switch info, err := os.Stat(path); {
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("this host has no %s: make the vhost-vdpa device first (vdpa dev add, and the module vhost_vdpa)", path)
	case err != nil:
		return fmt.Errorf("the vhost-vdpa device cannot be used: %w", err)
	case info.Mode().Type() != fs.ModeDevice|fs.ModeCharDevice:
		return fmt.Errorf("%s is not a vhost-vdpa device", path)
	}
	return nil
}

// checkNVMe checks that the drive exists and is not bound to the host's own driver, which
// must not use it at the same time. libvirt unbinds it for managed='yes'; luksplug does
// not. bus is /sys/bus/pci.
func checkNVMe(n *blockgraph.NVMe, bus string) error {
	device := filepath.Join(bus, "devices", n.Device)
	if _, err := os.Stat(device); err != nil {
		return fmt.Errorf("this host has no PCI device %s: see lspci -D", n.Device)
	}
	driver, err := os.Readlink(filepath.Join(device, "driver"))
	if name := filepath.Base(driver); err != nil || name != "vfio-pci" {
		if err != nil {
			name = "none"
		}
		return fmt.Errorf("the NVMe drive %s is not bound to vfio-pci (its driver is %s), and luksplug takes no drive from the host: bind it first (driverctl set-override %[1]s vfio-pci)", n.Device, name)
	}
	return nil
}
