package blockgraph

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/luksplug/luksplug/secrets"
)

// maxName is the longest node-name that QEMU takes (31 characters and a NUL).
const maxName = 31

// Validate tells whether the disk makes sense, by the rules that libvirt has
// for one. The error is an [*XMLError] or an [*UnsupportedError] that names the
// element, also for a disk that was not read from XML.
func (d *Disk) Validate() error {
	for _, check := range []func() error{d.validateTarget, d.validateImages, d.validateDriver, d.validateIdentity, d.validateFrontend, d.validateAddress} {
		if err := check(); err != nil {
			return err
		}
	}
	return nil
}

func invalid(element, reason string) error { return &XMLError{Element: element, Reason: reason} }

func (d *Disk) validateTarget() error {
	prefix, _, err := splitTarget(d.Target)
	if err != nil {
		return invalid("disk/target@dev", err.Error())
	}
	if n := len(namePrefix(d.Target)) + len(longestRole); n > maxName {
		return invalid("disk/target@dev", "the name "+d.Target+" is too long: QEMU's node names end at 31 characters")
	}
	switch {
	case d.Device == DeviceFloppy && prefix != "fd":
		return invalid("disk/target@dev", "Invalid floppy device name: "+d.Target+": use fda or fdb")
	case d.Device == DeviceDisk && prefix == "fd":
		return invalid("disk/target@dev", "Invalid harddisk device name: "+d.Target+": use a name such as vda, sda or hda")
	}
	return nil
}

func (d *Disk) validateImages() error {
	if err := validateImage("disk/source", d.Image); err != nil {
		return err
	}
	enc := d.Image.Encryption
	if enc == nil {
		return nil
	}
	const element = "disk/source/encryption"
	if enc.Secret.Type != secrets.Passphrase {
		return invalid(element+"/secret@type", "an encrypted disk needs a secret of the type passphrase")
	}
	if err := enc.Secret.Validate(); err != nil {
		return invalid(element+"/secret", err.Error())
	}
	h := enc.Header
	if h == nil {
		return nil
	}
	if err := validateImage(element+"/header/source", *h); err != nil {
		return err
	}
	if h.Encryption != nil {
		return &UnsupportedError{Element: element + "/header/source/encryption", Reason: "a header that is encrypted itself is not supported"}
	}
	if path.Clean(h.Source.Path) == path.Clean(d.Image.Source.Path) {
		return invalid(element+"/header/source", "the header and the payload are the same file: leave <header> out where the header is part of the image")
	}
	return nil
}

func validateImage(element string, i Image) error {
	if i.Format != FormatRaw && i.Format != FormatQcow2 {
		return &UnsupportedError{Element: element, Reason: "the image format " + strconv.Quote(shorten(string(i.Format))) + " is not supported: use raw or qcow2"}
	}
	switch p := i.Source.Path; {
	case i.Source.Kind != SourceFile && i.Source.Kind != SourceBlock:
		return &UnsupportedError{Element: element, Reason: "sources of type \"" + shorten(string(i.Source.Kind)) + "\" are not supported: use file or block"}
	case !path.IsAbs(p):
		return invalid(element, "the path "+strconv.Quote(shorten(p))+" is not absolute")
	case strings.ContainsRune(p, 0):
		return invalid(element, "the path holds a NUL character")
	case !utf8.ValidString(p):
		return invalid(element, "the path is not UTF-8, and a QMP command must be: rename the file")
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
			return invalid("disk/driver@"+w.attr, "unknown value "+strconv.Quote(shorten(w.value))+": use "+strings.Join(w.allowed, ", "))
		}
	}
	if d.Driver.IO == "native" && d.Driver.Cache != "none" && d.Driver.Cache != "directsync" {
		return invalid("disk/driver@io", "native I/O needs either no disk cache or directsync cache mode, QEMU will fallback to aio=threads: add cache='none'")
	}
	return nil
}

func (d *Disk) validateIdentity() error {
	for _, c := range d.Serial {
		if !alphanumeric(c) && !strings.ContainsRune("_-.+ \\", c) {
			return invalid("disk/serial", "the character "+quoteRune(c)+" is not allowed: use letters, digits, spaces and _ - . + \\")
		}
	}
	if d.WWN != 0 && d.Bus != BusIDE && d.Bus != BusSCSI {
		return invalid("disk/wwn", "only ide and scsi disks support a wwn")
	}
	for _, c := range d.Alias {
		if !alphanumeric(c) && c != '-' && c != '_' {
			return invalid("disk/alias@name", "the character "+quoteRune(c)+" is not allowed: use letters, digits, - and _")
		}
	}
	if d.Alias != "" && !strings.HasPrefix(d.Alias, userAlias) {
		return invalid("disk/alias@name", "a user's alias begins with "+userAlias)
	}
	return nil
}

// validateFrontend checks that the bus and the device go together.
func (d *Disk) validateFrontend() error {
	if !slices.Contains([]Bus{BusVirtio, BusSCSI, BusUSB, BusIDE, BusSATA, BusFDC}, d.Bus) {
		return &UnsupportedError{Element: "disk/target@bus", Reason: "the bus " + strconv.Quote(shorten(string(d.Bus))) + " is not supported: use virtio, scsi or usb"}
	}
	if !slices.Contains([]DeviceKind{DeviceDisk, DeviceCDROM, DeviceFloppy}, d.Device) {
		return &UnsupportedError{Element: "disk@device", Reason: "the device " + strconv.Quote(shorten(string(d.Device))) + " is not supported: use disk, cdrom or floppy"}
	}
	if (d.Device == DeviceFloppy) != (d.Bus == BusFDC) {
		return invalid("disk/target@bus", "a floppy drive belongs on the bus fdc, and nothing else does")
	}
	if d.Device == DeviceCDROM && !d.ReadOnly {
		return invalid("disk/readonly", "a cdrom is always read-only")
	}
	if d.Device == DeviceCDROM && d.Bus == BusVirtio {
		return invalid("disk/target@bus", "disk type of '"+d.Target+"' does not support ejectable media: use bus='scsi', 'usb', 'sata' or 'ide' for a cdrom")
	}
	if d.ReadOnly && d.Device == DeviceDisk && (d.Bus == BusIDE || d.Bus == BusSATA) {
		return &UnsupportedError{Element: "disk/readonly", Reason: "readonly " + string(d.Bus) + " disks are not supported by QEMU: use another bus, or device='cdrom'"}
	}
	if d.Bus != BusFDC {
		return nil
	}
	// QEMU's floppy device has none of these properties.
	for _, p := range []struct {
		element string
		given   bool
	}{
		{"disk/serial", d.Serial != ""},
		{"disk/boot@order", d.BootOrder != 0},
		{"disk/driver@error_policy", d.Driver.ErrorPolicy != ""},
		{"disk/driver@rerror_policy", d.Driver.ReadErrorPolicy != ""},
	} {
		if p.given {
			return &UnsupportedError{Element: p.element, Reason: "QEMU's floppy drive does not have this setting: remove it"}
		}
	}
	return nil
}

func (d *Disk) validateAddress() error {
	if d.Address == nil {
		if n := d.fixedAddress().Controller; n > 0 && (d.Bus == BusIDE || d.Bus == BusFDC) {
			return invalid("disk/target@dev", "only a single "+string(d.Bus)+" controller is supported, and "+d.Target+" would be on a further one: use a name from the start of the alphabet")
		}
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
	if a := d.Address.Drive; a != nil {
		return d.validateDrive(*a)
	}
	if p := d.Address.PCI; p != nil && p.Domain != 0 {
		return &UnsupportedError{Element: "disk/address@domain", Reason: "QEMU's machines have one PCI domain: use domain='0x0000'"}
	}
	return nil
}

// validateDrive refuses the numbers that the bus does not have: QEMU is not told
// of them, so they would be lost. It is told the unit; how many units a
// controller has is between QEMU and the user, as libvirt has it.
func (d *Disk) validateDrive(a DriveAddress) error {
	most := map[Bus]DriveAddress{
		BusSCSI: {Controller: 255, Target: 255, Unit: 16383},
		BusIDE:  {Bus: 1, Unit: 255},
		BusSATA: {Controller: 255, Unit: 255},
		BusFDC:  {Unit: 255},
	}[d.Bus]
	for _, n := range []struct {
		attr       string
		value, max uint
	}{
		{"controller", a.Controller, most.Controller},
		{"bus", a.Bus, most.Bus},
		{"target", a.Target, most.Target},
		{"unit", a.Unit, most.Unit},
	} {
		if n.value > n.max {
			return invalid("disk/address@"+n.attr, fmt.Sprintf("%d is more than the bus type '%s' has: %d at most", n.value, d.Bus, n.max))
		}
	}
	return nil
}

func quoteRune(c rune) string { return strconv.Quote(string(c)) }

// alphanumeric tells whether c is an ASCII letter or digit.
func alphanumeric(c rune) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9'
}
