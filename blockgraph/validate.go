package blockgraph

import (
	"path"
	"slices"
	"strings"
)

// maxName is the longest node-name that QEMU takes (31 characters and a NUL).
const maxName = 31

// Validate tells whether the disk makes sense, by the rules that libvirt has
// for one. The error is an [*XMLError] or an [*UnsupportedError] that names the
// element, also for a disk that was not read from XML.
func (d *Disk) Validate() error {
	if _, _, err := splitTarget(d.Target); err != nil {
		return invalid("disk/target@dev", err.Error())
	}
	if n := len(namePrefix(d.Target)) + len(longestRole); n > maxName {
		return invalid("disk/target@dev", "the name "+d.Target+" is too long: QEMU's node names end at 31 characters")
	}
	if err := d.validateImages(); err != nil {
		return err
	}
	if err := d.validateDriver(); err != nil {
		return err
	}
	if err := d.validateIdentity(); err != nil {
		return err
	}
	return d.validateAddress()
}

func invalid(element, reason string) error { return &XMLError{Element: element, Reason: reason} }

func (d *Disk) validateImages() error {
	if err := validatePath("disk/source", d.Image.Source); err != nil {
		return err
	}
	h := d.Header()
	if h == nil {
		return nil
	}
	if err := validatePath("disk/source/encryption/header/source", h.Source); err != nil {
		return err
	}
	if path.Clean(h.Source.Path) == path.Clean(d.Image.Source.Path) {
		return invalid("disk/source/encryption/header/source", "the header and the payload are the same file: leave <header> out where the header is part of the image")
	}
	return nil
}

func validatePath(element string, s Source) error {
	switch {
	case !path.IsAbs(s.Path):
		return invalid(element, "the path \""+shorten(s.Path)+"\" is not absolute")
	case strings.ContainsRune(s.Path, 0):
		return invalid(element, "the path holds a NUL character")
	}
	return nil
}

func (d *Disk) validateDriver() error {
	words := []struct {
		attr, value string
		allowed     []string
	}{
		{"cache", d.Driver.Cache, []string{"none", "writethrough", "writeback", "directsync", "unsafe"}},
		{"io", d.Driver.IO, []string{"native", "threads", "io_uring"}},
		{"discard", d.Driver.Discard, []string{"unmap", "ignore"}},
		{"detect_zeroes", d.Driver.DetectZeroes, []string{"off", "on", "unmap"}},
		{"error_policy", d.Driver.ErrorPolicy, []string{"stop", "report", "ignore", "enospace"}},
		{"rerror_policy", d.Driver.ReadErrorPolicy, []string{"stop", "report", "ignore"}},
	}
	for _, w := range words {
		if w.value != "" && !slices.Contains(w.allowed, w.value) {
			return invalid("disk/driver@"+w.attr, "unknown value \""+shorten(w.value)+"\": use "+strings.Join(w.allowed, ", "))
		}
	}
	if d.Driver.IO == "native" && d.Driver.Cache != "none" && d.Driver.Cache != "directsync" {
		return invalid("disk/driver@io", "native I/O needs either no disk cache or directsync cache mode, QEMU will fallback to aio=threads: add cache='none'")
	}
	return nil
}

func (d *Disk) validateIdentity() error {
	for _, c := range d.Serial {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || strings.ContainsRune("_-.+ \\", c)) {
			return invalid("disk/serial", "the character "+quoteRune(c)+" is not allowed: use letters, digits, spaces and _ - . + \\")
		}
	}
	if d.WWN != 0 && d.Bus != BusIDE && d.Bus != BusSCSI {
		return invalid("disk/wwn", "only ide and scsi disks support a wwn")
	}
	for _, c := range d.Alias {
		if !('a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' || c == '-' || c == '_') {
			return invalid("disk/alias@name", "the character "+quoteRune(c)+" is not allowed: use letters, digits, - and _")
		}
	}
	if d.ReadOnly && d.Device == DeviceDisk && (d.Bus == BusIDE || d.Bus == BusSATA) {
		return &UnsupportedError{Element: "disk/readonly", Reason: "readonly " + string(d.Bus) + " disks are not supported by QEMU: use another bus, or device='cdrom'"}
	}
	if (d.Device == DeviceFloppy) != (d.Bus == BusFDC) {
		return invalid("disk/target@bus", "a floppy drive belongs on the bus fdc, and nothing else does")
	}
	if d.Device == DeviceCDROM && d.Bus == BusVirtio {
		return invalid("disk/target@bus", "disk type of '"+d.Target+"' does not support ejectable media: use bus='scsi', 'usb', 'sata' or 'ide' for a cdrom")
	}
	return nil
}

func (d *Disk) validateAddress() error {
	if d.Address == nil {
		return nil
	}
	kind, want := "", ""
	switch {
	case d.Address.PCI != nil:
		kind = "pci"
	case d.Address.Drive != nil:
		kind = "drive"
	case d.Address.USB != nil:
		kind = "usb"
	}
	switch d.Bus {
	case BusVirtio:
		want = "pci"
	case BusUSB:
		want = "usb"
	default:
		want = "drive"
	}
	if kind != want {
		return invalid("disk/address@type", "Invalid address type '"+kind+"' for the disk '"+d.Target+"' with the bus type '"+string(d.Bus)+"': use type='"+want+"'")
	}
	if p := d.Address.PCI; p != nil && p.Domain != 0 {
		return &UnsupportedError{Element: "disk/address@domain", Reason: "QEMU's machines have one PCI domain: use domain='0x0000'"}
	}
	return nil
}

func quoteRune(c rune) string { return "\"" + string(c) + "\"" }
