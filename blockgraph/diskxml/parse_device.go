package diskxml

import (
	"cmp"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// device reads the attributes of <disk> itself, and its empty elements.
func (p *parser) device(d *blockgraph.Disk) error {
	e := p.tree
	d.Device = blockgraph.DeviceKind(cmp.Or(e.attr("device"), string(blockgraph.DeviceDisk)))
	switch d.Device {
	case blockgraph.DeviceDisk, blockgraph.DeviceLUN, blockgraph.DeviceCDROM, blockgraph.DeviceFloppy:
	default:
		return e.invalid("device", "unknown device %q: use disk, lun, cdrom or floppy", message.Shorten(string(d.Device)))
	}
	d.Empty = emptySource(e)
	if e.child("source") == nil && !d.Device.Removable() {
		return e.invalid("", "has no <source>: only a cdrom or floppy drive can be empty")
	}
	d.Model = blockgraph.Model(e.attr("model"))
	d.ReadOnly = e.child("readonly") != nil || d.Device == blockgraph.DeviceCDROM
	d.Shareable = e.child("shareable") != nil
	if err := oneOf(e, "snapshot", "no", "internal", "external", "manual"); err != nil {
		return err
	}
	if s := e.attr("snapshot"); s != "" && s != "no" && !d.Empty && e.attr("type") == string(blockgraph.SourceVHostUser) {
		return e.invalid("snapshot", "only snapshot=no is supported with vhostuser disk")
	}
	return p.passThrough(d)
}

// transient reads <transient>. Its shareBacking lets other transient disks use the
// same image. They only read it, so luksplug always allows that.
func (p *parser) transient(d *blockgraph.Disk) error {
	t := p.tree.child("transient")
	if t == nil {
		return nil
	}
	d.Transient = true
	if err := oneOf(t, "shareBacking", "yes", "no"); err != nil {
		return err
	}
	if t.attr("shareBacking") == "yes" && !d.Bus.Hotpluggable() {
		return t.unsupported("shareBacking", "disk bus '%s' doesn't support transient disk backing image sharing: use virtio, scsi or usb", d.Bus)
	}
	return nil
}

// passThrough reads the attributes for the SCSI commands of a LUN.
func (p *parser) passThrough(d *blockgraph.Disk) error {
	e := p.tree
	for _, values := range [][]string{{"rawio", "yes", "no"}, {"sgio", "filtered", "unfiltered"}} {
		attr := values[0]
		if err := oneOf(e, attr, values[1:]...); err != nil {
			return err
		}
		if e.attr(attr) != "" && d.Device != blockgraph.DeviceLUN {
			return e.invalid(attr, "%s can be used only with device='lun'", attr)
		}
	}
	if e.attr("sgio") == "unfiltered" {
		return e.unsupported("sgio", "unfiltered sgio is no longer supported by Linux: use sgio='filtered', or leave it out")
	}
	d.RawIO = e.attr("rawio") == "yes"
	return nil
}

func (p *parser) target(d *blockgraph.Disk) error {
	t := p.tree.child("target")
	if t == nil || t.attr("dev") == "" {
		return p.tree.invalid("", "has no <target dev=...>: it names the disk, such as <target dev='vdb' bus='virtio'/>")
	}
	d.Target = t.attr("dev")
	prefix, _, err := blockgraph.ParseTarget(d.Target)
	if err != nil {
		return t.invalid("dev", "%s", err.Error())
	}
	if err := oneOf(t, "tray", "open", "closed"); err != nil {
		return err
	}
	if t.attr("tray") == "open" && !d.Device.Removable() {
		return t.invalid("tray", "tray is only valid for cdrom and floppy")
	}
	if err := p.bus(d, t, prefix); err != nil {
		return err
	}
	if a := p.tree.child("address"); a != nil {
		d.Address, err = parseAddress(a, d.Bus)
	}
	return err
}

func (p *parser) bus(d *blockgraph.Disk, t *element, prefix string) error {
	if bus := t.attr("bus"); bus != "" {
		switch d.Bus = blockgraph.Bus(bus); d.Bus {
		case blockgraph.BusVirtio, blockgraph.BusSCSI, blockgraph.BusUSB, blockgraph.BusIDE, blockgraph.BusSATA, blockgraph.BusFDC:
			return nil
		case "sd":
			return t.unsupported("bus", "an SD card has no device of its own that can be plugged (QEMU's -drive if=sd): use virtio, scsi or usb")
		case "xen", "uml", "nvme":
			return t.unsupported("bus", "the bus %q is not supported: use virtio, scsi or usb", bus)
		}
		return t.invalid("bus", "unknown bus %q: use virtio, scsi, usb, ide, sata or fdc", message.Shorten(bus))
	}
	switch {
	case d.Device == blockgraph.DeviceFloppy:
		d.Bus = blockgraph.BusFDC
	case prefix == "hd", prefix == "fd": // the latter of a cdrom
		d.Bus = blockgraph.BusIDE
	case prefix == "sd":
		d.Bus = blockgraph.BusSCSI
	case prefix == "vd":
		d.Bus = blockgraph.BusVirtio
	case prefix == "xvd", prefix == "ubd":
		return t.unsupported("dev", "disks of Xen and user-mode Linux (%s) are not supported: use a name such as vda or sda", prefix)
	default:
		return t.invalid("bus", "is missing, and %q does not tell which: give bus='virtio', 'scsi' or 'usb'", d.Target)
	}
	return nil
}

func (p *parser) identity(d *blockgraph.Disk) error {
	// From libvirtxml, which keeps the blanks, as they are part of a serial.
	d.Serial = p.doc.Serial
	if w := p.tree.child("wwn"); w != nil {
		text := p.doc.WWN
		digits := strings.TrimPrefix(text, "0x")
		n, err := strconv.ParseUint(digits, 16, 64)
		if err != nil || len(digits) != 16 {
			return w.invalid("", "malformed wwn %q: 16 hexadecimal digits are needed", message.Shorten(text))
		}
		if n == 0 {
			return w.invalid("", "the all-zero wwn means none to QEMU: give another, or leave <wwn> out")
		}
		d.WWN = n
	}
	if b := p.tree.child("boot"); b != nil {
		n, err := strconv.ParseUint(b.attr("order"), 10, 31)
		if err != nil || n == 0 {
			return b.invalid("order", "%q is no boot order: use 1, 2 and so on", message.Shorten(b.attr("order")))
		}
		d.BootOrder = uint(n)
		d.Tuning.LoadParm = b.attr("loadparm")
	}
	// libvirt generates aliases itself and ignores all but a user's on input.
	if p.doc.Alias != nil && strings.HasPrefix(p.doc.Alias.Name, blockgraph.UserAlias) {
		d.Alias = p.doc.Alias.Name
	}
	return nil
}
