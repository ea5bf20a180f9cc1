package blockgraph

import (
	"fmt"
	"strconv"
	"strings"
)

// device reads the attributes of <disk> itself, and the elements without any
// content that say how it may be used.
func (p *parser) device(d *Disk) error {
	e := p.tree
	d.Device = DeviceKind(orDefault(e.attr("device"), string(DeviceDisk)))
	switch d.Device {
	case DeviceDisk, DeviceLUN, DeviceCDROM, DeviceFloppy:
	default:
		return e.invalid("device", "unknown device %q: use disk, lun, cdrom or floppy", shorten(string(d.Device)))
	}
	d.Empty = e.child("source") == nil
	if d.Empty && !d.Device.removable() {
		return e.invalid("", "has no <source>: only a cdrom or floppy drive can be empty")
	}
	d.Model = Model(e.attr("model"))
	d.ReadOnly = e.child("readonly") != nil || d.Device == DeviceCDROM
	d.Shareable = e.child("shareable") != nil
	if err := oneOf(e, "snapshot", "no", "internal", "external", "manual"); err != nil {
		return err
	}
	if s := e.attr("snapshot"); s != "" && s != "no" && !d.Empty && e.attr("type") == string(SourceVHostUser) {
		return e.invalid("snapshot", "only snapshot=no is supported with vhostuser disk")
	}
	return p.passThrough(d)
}

// transient reads <transient>. Its shareBacking says that other disks may have the
// image below as well: all that do are transient and only read it, and so they may
// in any case.
func (p *parser) transient(d *Disk) error {
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

// passThrough reads what concerns the SCSI commands of a LUN.
func (p *parser) passThrough(d *Disk) error {
	e := p.tree
	for attr, words := range map[string][]string{"sgio": {"filtered", "unfiltered"}, "rawio": {"yes", "no"}} {
		if err := oneOf(e, attr, words...); err != nil {
			return err
		}
		if e.attr(attr) != "" && d.Device != DeviceLUN {
			return e.invalid(attr, "%s can be used only with device='lun'", attr)
		}
	}
	if e.attr("sgio") == "unfiltered" {
		return e.unsupported("sgio", "unfiltered sgio is no longer supported by Linux: use sgio='filtered', or leave it out")
	}
	d.RawIO = e.attr("rawio") == "yes"
	return nil
}

func (p *parser) target(d *Disk) error {
	t := p.tree.child("target")
	if t == nil || t.attr("dev") == "" {
		return p.tree.invalid("", "has no <target dev=...>: it names the disk, such as <target dev='vdb' bus='virtio'/>")
	}
	d.Target = t.attr("dev")
	prefix, _, err := splitTarget(d.Target)
	if err != nil {
		return t.invalid("dev", "%s", err.Error())
	}
	if err := oneOf(t, "tray", "open", "closed"); err != nil {
		return err
	}
	if t.attr("tray") == "open" && !d.Device.removable() {
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

func (p *parser) bus(d *Disk, t *element, prefix string) error {
	if bus := t.attr("bus"); bus != "" {
		switch d.Bus = Bus(bus); d.Bus {
		case BusVirtio, BusSCSI, BusUSB, BusIDE, BusSATA, BusFDC:
			return nil
		case "sd":
			return t.unsupported("bus", "an SD card has no device of its own that can be plugged (QEMU's -drive if=sd): use virtio, scsi or usb")
		case "xen", "uml", "nvme":
			return t.unsupported("bus", "the bus %q is not supported: use virtio, scsi or usb", bus)
		}
		return t.invalid("bus", "unknown bus %q: use virtio, scsi, usb, ide, sata or fdc", shorten(bus))
	}
	switch {
	case d.Device == DeviceFloppy:
		d.Bus = BusFDC
	case prefix == "hd", prefix == "fd": // the latter of a cdrom
		d.Bus = BusIDE
	case prefix == "sd":
		d.Bus = BusSCSI
	case prefix == "vd":
		d.Bus = BusVirtio
	case prefix == "xvd", prefix == "ubd":
		return t.unsupported("dev", "disks of Xen and user-mode Linux (%s) are not supported: use a name such as vda or sda", prefix)
	default:
		return t.invalid("bus", "is missing, and %q does not tell which: give bus='virtio', 'scsi' or 'usb'", d.Target)
	}
	return nil
}

// splitTarget takes a target such as "vdb" apart: the prefix, and the number
// that the letters make (a is 0, z 25, aa 26).
func splitTarget(dev string) (prefix string, index int, err error) {
	for _, p := range []string{"vd", "sd", "hd", "fd", "xvd", "ubd"} {
		rest, ok := strings.CutPrefix(dev, p)
		if !ok || rest == "" {
			continue
		}
		letters := strings.TrimRight(rest, "0123456789")
		if letters == "" {
			break
		}
		n := 0
		for _, c := range letters {
			if c < 'a' || c > 'z' || n > 1<<20 {
				return "", 0, fmt.Errorf("unknown disk name %q: use a name such as vda, sdb or hdc, and fda for a floppy", shorten(dev))
			}
			n = n*26 + int(c-'a') + 1
		}
		if letters != rest {
			return "", 0, fmt.Errorf("invalid disk target %q: partitions can't appear in disk targets", shorten(dev))
		}
		return p, n - 1, nil
	}
	return "", 0, fmt.Errorf("unknown disk name %q: use a name such as vda, sdb or hdc, and fda for a floppy", shorten(dev))
}

func (p *parser) identity(d *Disk) error {
	// From libvirtxml, which keeps the blanks: they are part of a serial.
	d.Serial = p.doc.Serial
	if w := p.tree.child("wwn"); w != nil {
		text := p.doc.WWN
		digits := strings.TrimPrefix(text, "0x")
		n, err := strconv.ParseUint(digits, 16, 64)
		if err != nil || len(digits) != 16 {
			return w.invalid("", "malformed wwn %q: 16 hexadecimal digits are needed", shorten(text))
		}
		if n == 0 {
			return w.invalid("", "the all-zero wwn means none to QEMU: give another, or leave <wwn> out")
		}
		d.WWN = n
	}
	if b := p.tree.child("boot"); b != nil {
		n, err := strconv.ParseUint(b.attr("order"), 10, 31)
		if err != nil || n == 0 {
			return b.invalid("order", "%q is no boot order: use 1, 2, ...", shorten(b.attr("order")))
		}
		d.BootOrder = uint(n)
		d.Tuning.LoadParm = b.attr("loadparm")
	}
	// libvirt makes up aliases of its own and ignores all but a user's on input.
	if p.doc.Alias != nil && strings.HasPrefix(p.doc.Alias.Name, userAlias) {
		d.Alias = p.doc.Alias.Name
	}
	return nil
}
