package blockgraph

import (
	"regexp"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// sameDevices adds the devices of an earlier plan of the same disk, which come from a
// record: the guest must find exactly these again. They are compared with the devices that
// the disk's XML gives now. The driver is one that a disk of its kind can have, and there
// is no property that it does not give. The values are the same, except for the place: if
// the XML leaves that open, the record determines it, and only the syntax is checked. A
// property may be missing, since an earlier version may not have set it.
func (b *builder) sameDevices(in medium, m Machine) error {
	d, devices := b.disk, m.Devices
	if len(devices) == 0 || len(devices) > 2 {
		return d.noPlace("the record has %d devices of the disk, which can have one and a controller", len(devices))
	}
	last := len(devices) - 1
	for i, o := range devices {
		role, id := RoleDevice, b.deviceID()
		if i < last {
			role, id = RoleController, Name(d.Target, RoleController)
		}
		if o.Text("id") != id {
			return d.noPlace("the recorded device has the id %q and not %q: it belongs to another disk", message.Shorten(o.Text("id")), id)
		}
		b.graph.Devices = append(b.graph.Devices, Device{ID: id, Role: role, Options: o})
	}
	own := devices[last]
	if drive, chardev := own.Text("drive"), own.Text("chardev"); drive != in.node || chardev != in.chardev {
		return d.noPlace("the recorded device uses %q, and the disk's XML gives %q: the record and the XML describe different disks", message.Shorten(drive+chardev), in.node+in.chardev)
	}
	if last > 0 {
		if err := b.sameController(devices[0]); err != nil {
			return err
		}
	}
	if err := b.sameDevice(in, m, own); err != nil {
		return err
	}
	return b.limits(in, m)
}

// sameController checks the recorded controller of a SCSI disk, which [ownController] adds.
func (b *builder) sameController(o Object) error {
	d, driver := b.disk, o.Text("driver")
	if d.Bus != BusSCSI || driver != "virtio-scsi-pci" && driver != "virtio-scsi-ccw" {
		return d.noPlace("the recorded device %q is no controller that is added for a disk of the bus %s", message.Shorten(driver), d.Bus)
	}
	expected := Object{{"driver", driver}, {"id", o.Text("id")}}
	return d.compareDevice(o, expected, []string{"bus", "addr"})
}

// sameDevice checks the recorded device of the disk itself.
func (b *builder) sameDevice(in medium, m Machine, o Object) error {
	d := b.disk
	transport, err := d.recordedTransport(o.Text("driver"))
	if err != nil {
		return err
	}
	globals := b.graph.Globals // a start from a record sets none
	expected, err := b.frontend(in, m, Object{{"driver", o.Text("driver")}}, d.determined(transport, o))
	b.graph.Globals = globals
	if err != nil {
		return err
	}
	if o.Has("bootindex") && d.BootOrder > 0 { // a domain's other boot settings move it
		expected = expected.Without("bootindex")
		return d.compareDevice(o, expected, append(d.placeNames(transport), "bootindex"))
	}
	return d.compareDevice(o, expected, d.placeNames(transport))
}

// recordedTransport returns the transport of a recorded device, "" if it is not virtio's. A
// driver that no plan of the disk has is refused.
func (d *Disk) recordedTransport(driver string) (string, error) {
	transports := []string{""}
	if d.Bus == BusVirtio {
		transports = []string{"pci", "ccw", "device"}
	}
	for _, transport := range transports {
		if name, err := driverName(d, transport); err == nil && name != "" && name == driver {
			return transport, nil
		}
	}
	return "", d.noPlace("the recorded device has the driver %q, which is not one of a disk of the bus %s", message.Shorten(driver), d.Bus)
}

// placeNames returns the properties that are the place of the disk's device.
func (d *Disk) placeNames(transport string) []string {
	switch d.Bus {
	case BusVirtio:
		return map[string][]string{"pci": {"bus", "addr", "multifunction"}, "ccw": {"devno"}}[transport]
	case BusSCSI:
		return []string{"bus", "channel", "scsi-id", "lun"}
	case BusUSB:
		return []string{"bus", "port"}
	case BusIDE, BusSATA:
		return []string{"bus", "unit"}
	case BusFDC:
		return []string{"unit"}
	}
	return nil
}

// determined returns the parts of the place that the disk's XML determines. The names of
// buses are the VM's: controllers can have aliases.
func (d *Disk) determined(transport string, recorded Object) Object {
	var out Object
	a := d.Address
	switch {
	case d.Bus == BusFDC, d.Bus == BusIDE:
		out.Add("unit", int(d.driveAddress().Unit))
	case a == nil:
	case a.PCI != nil && transport == "pci":
		addr := hex(a.PCI.Slot)
		if a.PCI.Function != 0 {
			addr += "." + hex(a.PCI.Function)
		}
		out.Add("addr", addr)
		addSwitch(&out, "multifunction", a.PCI.Multifunction)
	case a.USB != nil:
		out.AddText("port", a.USB.Port)
	case a.Drive != nil && d.Bus == BusSCSI && !recorded.Has("lun"): // a narrow bus
		out.Add("scsi-id", int(a.Drive.Unit))
	case a.Drive != nil && d.Bus == BusSCSI:
		out = Object{{"channel", int(a.Drive.Bus)}, {"scsi-id", int(a.Drive.Target)}, {"lun", int(a.Drive.Unit)}}
	}
	return out
}

// placeSyntax are the values that the properties of a place can have.
var placeSyntax = map[string]*regexp.Regexp{
	"bus":           regexp.MustCompile(`^"[A-Za-z0-9][A-Za-z0-9_.-]{0,99}"$`),
	"addr":          regexp.MustCompile(`^"0x[0-9a-f]{1,2}(\.0x[0-7])?"$`),
	"multifunction": regexp.MustCompile(`^(true|false)$`),
	"devno":         regexp.MustCompile(`^"[0-9a-f]{1,2}\.[0-9a-f]\.[0-9a-f]{4}"$`),
	"channel":       regexp.MustCompile(`^[0-9]{1,5}$`),
	"scsi-id":       regexp.MustCompile(`^[0-9]{1,5}$`),
	"lun":           regexp.MustCompile(`^[0-9]{1,5}$`),
	"unit":          regexp.MustCompile(`^[0-9]{1,5}$`),
	"port":          regexp.MustCompile(`^"[0-9]{1,3}(\.[0-9]{1,3}){0,4}"$`),
	"bootindex":     regexp.MustCompile(`^[0-9]{1,6}$`),
}

// compareDevice refuses a recorded device with a property that is neither expected, with
// the same value, nor one of place with a valid value.
func (d *Disk) compareDevice(o, expected Object, place []string) error {
	for _, p := range o {
		got := valueText(p.Value)
		switch {
		case expected.Has(p.Name):
			if want := valueText(expected.Get(p.Name)); got != want {
				return d.noPlace("the recorded device has the property %s=%s, and the disk's XML gives %s", message.Shorten(p.Name), message.Shorten(got), message.Shorten(want))
			}
		case !slices.Contains(place, p.Name):
			return d.noPlace("the recorded device has the property %q, which the disk's XML does not give it", message.Shorten(p.Name))
		case !placeSyntax[p.Name].MatchString(got):
			return d.noPlace("the recorded device has the invalid place %s=%s", p.Name, message.Shorten(got))
		}
	}
	return nil
}

// valueText returns a value as JSON, by which values read from JSON and those of a plan
// compare.
func valueText(value any) string {
	text := Object{{"v", value}}.String()
	return strings.TrimSuffix(strings.TrimPrefix(text, `{"v":`), "}")
}
