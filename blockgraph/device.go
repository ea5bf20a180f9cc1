package blockgraph

import (
	"fmt"
	"strings"
)

// device adds the frontend device, after the controller that it may need.
//
//	target@bus                     -> driver
//	<address>, or what is free     -> bus, addr / channel, scsi-id, lun / unit / port
//	alias (ua-...)                 -> id
//	boot@order                     -> bootindex
//	<wwn>, <serial>                -> wwn, serial (scsi also device_id)
//	driver@cache                   -> write-cache
//	driver@error_policy            -> werror, rerror
//
// The order of the members is libvirt's.
func (b *builder) device(in medium, m Machine) error {
	d := b.disk
	where, err := findPlace(d, m)
	if err != nil {
		return err
	}
	if where.controller != nil {
		b.graph.Devices = append(b.graph.Devices, *where.controller)
	}
	driver, err := frontend(d)
	if err != nil {
		return err
	}
	id := Name(d.Target, RoleDevice)
	if d.Alias != "" {
		id = d.Alias
	}
	o := Object{{"driver", driver}}
	o = append(o, where.members...)
	if d.Bus == BusSCSI {
		// What the guest sees as the unit's identification (VPD page 0x83).
		identity := escapeSerial(d.Serial)
		if identity == "" {
			identity = "drive-" + id
		}
		o.add("device_id", identity)
	}
	o.addText("drive", in.node)
	o.addText("chardev", in.chardev)
	o.add("id", id)
	if d.BootOrder > 0 {
		o.add("bootindex", int(d.BootOrder))
	}
	if d.WWN != 0 {
		o.add("wwn", d.WWN)
	}
	if d.Bus == BusUSB {
		o.add("removable", false)
	}
	if mode, ok := cacheModes[d.Driver.Cache]; ok {
		o.add("write-cache", mode.writeCache)
	}
	o.addText("serial", escapeSerial(d.Serial))
	werror, rerror := d.errorPolicies()
	o.addText("werror", werror)
	o.addText("rerror", rerror)
	b.graph.Devices = append(b.graph.Devices, Device{ID: id, Role: RoleDevice, Options: o})
	return nil
}

func frontend(d *Disk) (string, error) {
	cdrom := d.Device == DeviceCDROM
	switch d.Bus {
	case BusVirtio:
		return "virtio-blk-pci", nil
	case BusUSB:
		return "usb-storage", nil
	case BusFDC:
		return "floppy", nil
	case BusSCSI:
		if cdrom {
			return "scsi-cd", nil
		}
		return "scsi-hd", nil
	case BusIDE, BusSATA:
		if cdrom {
			return "ide-cd", nil
		}
		return "ide-hd", nil
	}
	return "", &UnsupportedError{Element: "disk/target@bus", Reason: fmt.Sprintf("the bus %q is not supported", d.Bus)}
}

// errorPolicies translates error_policy and rerror_policy. libvirt's
// "enospace" is QEMU's "enospc", which only writes know; reads take over the
// write policy where they have none of their own.
func (d *Disk) errorPolicies() (werror, rerror string) {
	werror, rerror = d.Driver.ErrorPolicy, d.Driver.ReadErrorPolicy
	if rerror == "" && werror != "enospace" {
		rerror = werror
	}
	if werror == "enospace" {
		werror = "enospc"
	}
	return werror, rerror
}

// escapeSerial writes a backslash before every space, as libvirt does. The
// guest sees the backslashes: a serial with spaces reads differently there than
// in the XML, and a VM that moves between libvirt and us must not see a change.
func escapeSerial(s string) string { return strings.ReplaceAll(s, " ", `\ `) }

// Warnings returns what the user should know about a disk that is valid: where
// the guest will see something else than the XML says.
func (d *Disk) Warnings() []string {
	out := d.imageWarnings()
	serial := escapeSerial(d.Serial)
	if limit := 20; d.Bus == BusVirtio && len(serial) > limit {
		out = append(out, fmt.Sprintf("the serial of %s has %d characters: a virtio disk shows the guest the first %d, %q", d.Target, len(serial), limit, serial[:limit]))
	}
	if serial != d.Serial {
		out = append(out, fmt.Sprintf("the serial of %s holds spaces: the guest sees them with backslashes, as libvirt has it", d.Target))
	}
	return out
}
