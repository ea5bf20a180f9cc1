package blockgraph_test

import (
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// inDomain plans a disk for a domain that has these devices.
func inDomain(machine, rest, devices, disk string) (*blockgraph.Graph, error) {
	m, err := diskxml.ParseDomain([]byte("<domain>" + rest + "<os><type machine='" + machine + "'>hvm</type></os><devices>" + devices + "</devices></domain>"))
	if err != nil {
		return nil, err
	}
	d, err := diskxml.ParseDisk([]byte(disk))
	if err != nil {
		return nil, err
	}
	return blockgraph.Build(d, m, blockgraph.Unlock{})
}

func scsiDisk(attrs, rest string) string {
	return "<disk " + attrs + "><source file='/a'/><target dev='sdc' bus='scsi'/>" + rest + "</disk>"
}

func usbDisk(port string) string {
	return "<disk><source file='/a'/><target dev='sdb' bus='usb'/><address type='usb' bus='0' port='" + port + "'/></disk>"
}

const (
	vhostUser = "<disk type='vhostuser'><source type='unix' path='/s'/><target dev='vda' bus='virtio'/></disk>"
	shared    = "<memoryBacking><access mode='shared'/></memoryBacking>"
	hub       = "<hub type='usb'><address type='usb' bus='0' port='1'/></hub>"
	tablet    = "<input type='tablet' bus='usb'><address type='usb' bus='0' port='2'/></input>"
	limited   = "<disk type='file'><source file='/o'/><target dev='vda' bus='virtio'/><iotune><total_bytes_sec>7</total_bytes_sec><group_name>g</group_name></iotune></disk>"
)

// TestDrawnRefusals has random disks that libvirt refused, and this package did
// not.
func TestDrawnRefusals(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, machine, rest, devices, disk, want string }{
		{"default error policy", "pc", "", "", scsiDisk("", "<driver error_policy='default'/>"), "unknown value"},
		{"default read error policy", "pc", "", "", scsiDisk("", "<driver rerror_policy='default'/>"), "unknown value"},
		{"default discard", "pc", "", "", scsiDisk("", "<driver discard='default'/>"), "unknown value"},
		{"native I/O without a cache mode", "pc", "", "", scsiDisk("", "<driver io='native'/><shareable/>"), "native I/O needs"},
		{"snapshots of vhost-user", "pc", shared, "", strings.Replace(vhostUser, "<disk", "<disk snapshot='internal'", 1), "only snapshot=no"},
		{"ioeventfd of vhost-user", "pc", shared, "", strings.Replace(vhostUser, "<source", "<driver ioeventfd='on'/><source", 1), "ioeventfd is not supported"},
		{"copies of vhost-user", "pc", shared, "", strings.Replace(vhostUser, "<source", "<driver copy_on_read='off'/><source", 1), "copy_on_read is not supported"},
		{"vhost-user without shared memory", "pc", "<memoryBacking><hugepages/></memoryBacking>", "", vhostUser, "requires shared memory"},
		{"vhost-user and a private cell", "pc", shared + "<cpu><numa><cell id='0' cpus='0' memory='1' memAccess='private'/></numa></cpu>", "", vhostUser, "requires shared memory"},
		{"identity for an SSH server", "pc", "", "", "<disk type='network'><source protocol='ssh' name='/a'><host name='h'/><identity username='u'/></source><target dev='vda'/></disk>", "either 'keyfile' or 'agentsock'"},
		{"cache of an empty drive", "pc", "", "", "<disk device='cdrom'><driver><metadata_cache><max_size>9</max_size></metadata_cache></driver><target dev='sda' bus='scsi'/></disk>", "only with qcow2"},
		{"unused clusters of an empty drive", "pc", "", "", "<disk device='floppy'><driver discard_no_unref='on'/><target dev='fda'/></disk>", "only works with qcow2"},
		{"unused clusters of an empty cdrom", "pc", "", "", "<disk device='cdrom'><driver type='qcow2' discard_no_unref='on'/><target dev='sda' bus='scsi'/></disk>", "read-only disk"},
		{"copies of an empty drive", "pc", "", "", "<disk device='cdrom'><driver copy_on_read='on'/><target dev='sda' bus='scsi'/></disk>", "read-only disk 'sda'"},
		{"address on an implicit controller", "pc", "", "<disk><source file='/o'/><target dev='sda' bus='scsi'/></disk>", scsiDisk("", "<address type='drive'/>"), "in use"},
		{"SCSI controller of a Sun", "pc", "", "<controller type='scsi' index='0' model='ncr53c90'/>", scsiDisk("", ""), "not a built-in"},
		{"USB port too high", "pc", "", "", usbDisk("3"), "port 3 not present"},
		{"USB port too high, of q35", "q35", "", "", usbDisk("5"), "port 5 not present"},
		{"USB port too high, as the controller says", "q35", "", "<controller type='usb' index='0' model='qemu-xhci' ports='8'/>", usbDisk("9"), "port 9 not present"},
		{"no USB hub", "pc", "", "", usbDisk("2.1"), "no hub at port 2"},
		{"port of a USB hub", "pc", "", hub, usbDisk("1.9"), "port 1.9 not present"},
		{"port of the hub itself", "pc", "", hub, usbDisk("1"), "in use"},
		{"port in use", "pc", "", tablet, usbDisk("2"), "in use"},
		{"slot in use behind a bridge", "pc", "", "<controller type='pci' index='1' model='pci-bridge'/><video><address type='pci' bus='1' slot='5'/></video>", "<disk><source file='/a'/><target dev='vda'/><address type='pci' bus='1' slot='5'/></disk>", "slot 0x5 of pci.1 is in use"},
		{"slot in use of q35", "q35", "", "<video><address type='pci' slot='5'/></video>", "<disk><source file='/a'/><target dev='vda'/><address type='pci' slot='5'/></disk>", "slot 0x5 of pcie.0 is in use"},
		{"limits of a group of no other disk", "pc", "", strings.ReplaceAll(limited, "<group_name>g", "<group_name>h"), scsiDisk("", "<iotune><group_name>g</group_name></iotune>"), "only together with settings"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			_, err := inDomain(c.machine, c.rest, c.devices, c.disk)
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want %q", err, c.want)
			}
			blocktest.Typed(t, err)
		})
	}
}

// TestDrawn has random disks that libvirt treated differently from this package,
// or that only libvirt accepted.
func TestDrawn(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ name, machine, rest, devices, disk, want string }{
		{"controller with a name", "pc", "", "<controller type='scsi' index='0' model='virtio-scsi'><alias name='ua-c'/></controller>", scsiDisk("", ""), `"bus":"ua-c.0"`},
		{"port with a name", "q35", "", "<controller type='pci' index='0' model='pcie-root'/><controller type='pci' index='1' model='pcie-root-port'><alias name='ua-p'/></controller>",
			"<disk><source file='/a'/><target dev='vda'/></disk>", `"bus":"ua-p","addr":"0x0"`},
		{"address of a port with a name", "q35", "", "<controller type='pci' index='1' model='pcie-root-port'><alias name='ua-p'/></controller>",
			"<disk><source file='/a'/><target dev='vda'/><address type='pci' bus='1'/></disk>", `"bus":"ua-p","addr":"0x0"`},
		{"another function of a slot", "pc", "", "<video><address type='pci' slot='5' function='1'/></video>", "<disk><source file='/a'/><target dev='vda'/><address type='pci' slot='5'/></disk>", `"addr":"0x5"`},
		{"USB controller with a name", "pc", "", "<controller type='usb' index='0' model='piix3-uhci'><alias name='ua-u'/></controller>", usbDisk("2"), `"bus":"ua-u.0","port":"2"`},
		{"SATA controller with a name", "pc", "", "<controller type='sata' index='0'><alias name='ua-s'/></controller>", "<disk><source file='/a'/><target dev='sdb' bus='sata'/></disk>", `"bus":"ua-s.1"`},
		{"port of a hub", "pc", "", hub, usbDisk("1.8"), `"port":"1.8"`},
		{"shared memory of each cell", "pc", "<cpu><numa><cell id='0' cpus='0' memory='1' memAccess='shared'/></numa></cpu>", "", vhostUser, `vhost-user-blk-pci`},
		{"NVMe drive below", "pc", "", "", "<disk><driver type='qcow2'/><source file='/a'/><backingStore type='nvme'><format type='raw'/><source type='pci' namespace='1'><address bus='1'/></source></backingStore><target dev='vda'/></disk>", `"drive":"luksplug-vda-payload-format"`},
		{"closed tray", "pc", "", "", "<disk><source file='/a'/><target dev='vda' tray='closed'/></disk>", "virtio-blk-pci"},
		{"option without effect on a raw image", "pc", "", "", "<disk><driver discard_no_unref='off'/><source file='/a'/><target dev='vda'/></disk>", "virtio-blk-pci"},
		{"reservations below", "pc", "", "", "<disk><driver type='qcow2'/><source file='/a'/><backingStore type='block'><format type='raw'/><source dev='/b'><reservations managed='yes'/></source></backingStore><target dev='vda'/></disk>", "virtio-blk-pci"},
		{"cdrom called fda", "pc", "", "", "<disk device='cdrom'><source file='/a'/><target dev='fda'/></disk>", `"driver":"ide-cd","bus":"ide.0","unit":0`},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			g, err := inDomain(c.machine, c.rest, c.devices, c.disk)
			if err != nil {
				t.Fatal(err)
			}
			if got := g.Device().Options.String(); !strings.Contains(got, c.want) {
				t.Errorf("got %s, want %s", got, c.want)
			}
		})
	}
}

// TestLimitsOfTheGroup: a disk that only names its group has the limits of the
// group's other disks.
func TestLimitsOfTheGroup(t *testing.T) {
	t.Parallel()
	g, err := inDomain("pc", "", limited, scsiDisk("", "<iotune><group_name>g</group_name></iotune>"))
	if err != nil {
		t.Fatal(err)
	}
	if g.Throttling.Get("bps") != uint64(7) || g.Throttling.Text("group") != "g" {
		t.Errorf("got %s", g.Throttling)
	}
}

// TestBuildRefusesInContext: conflicts with the rest of the domain.
func TestBuildRefusesInContext(t *testing.T) {
	t.Parallel()
	domain := func(head, devices string) string {
		return "<domain>" + head + "<os><type machine='pc'>hvm</type></os><devices>" + devices + "</devices></domain>"
	}
	other := func(target, inner string) string {
		return "<disk type='file'><source file='/b'/><target " + target + "/>" + inner + "</disk>"
	}
	drive := func(unit string) string {
		return "<address type='drive' controller='0' bus='0' target='0' unit='" + unit + "'/>"
	}
	group := "<iotune><group_name>g</group_name><read_iops_sec>1</read_iops_sec></iotune>"
	for _, c := range []struct{ name, disk, domain, want string }{
		{"target", blocktest.DiskAt("dev='vda'", ""), domain("", other("dev='vda' bus='virtio'", "")), "'vda' duplicated"},
		{"serial", blocktest.DiskAt("dev='vdb'", "<serial>S</serial>"), domain("", other("dev='vda' bus='virtio'", "<serial>S</serial>")), "identical serial"},
		{"wwn", blocktest.DiskAt("dev='sdb'", "<wwn>5000c50015ea71ad</wwn>"), domain("", other("dev='sda' bus='scsi'", "<wwn>0x5000c50015ea71ad</wwn>")), "identical WWN"},
		{"limits of a group", blocktest.DiskAt("dev='vdb'", group), domain("", other("dev='vda' bus='virtio'", strings.Replace(group, ">1<", ">2<", 1))), "different iotunes"},
		{"SCSI address", blocktest.DiskAt("dev='sda'", ""), domain("", other("dev='sdb' bus='scsi'", drive("0"))+"<controller type='scsi' index='0' model='virtio-scsi'/>"), "unit 0 of the SCSI controller scsi0 is in use"},
		{"SCSI address by name", blocktest.DiskAt("dev='sdx'", drive("1")), domain("", other("dev='sdb' bus='scsi'", "")+"<controller type='scsi' index='0' model='virtio-scsi'/>"), "unit 1 of the SCSI controller scsi0 is in use"},
		{"IDE address", blocktest.DiskAt("dev='hda'", ""), domain("", other("dev='hdb' bus='ide'", drive("0"))), "ide address controller 0, bus 0, unit 0 is in use"},
		{"target of a narrow controller", blocktest.DiskAt("dev='sda'", "<address type='drive' controller='0' bus='0' target='1' unit='0'/>"),
			domain("", "<controller type='scsi' index='0' model='lsilogic'/>"), "target must be 0 for controller model 'lsilogic'"},
		{"target of a default controller", blocktest.DiskAt("dev='sda'", "<address type='drive' controller='0' bus='0' target='1' unit='0'/>"), domain("", ""), "target must be 0"},
		{"SCSI model", blocktest.DiskAt("dev='sda'", ""), domain("", "<controller type='scsi' index='0' model='buslogic'/>"), "unsupported model 'buslogic'"},
		{"USB bus", blocktest.DiskAt("dev='sda' bus='usb'", "<address type='usb' bus='1' port='1'/>"), domain("", "<controller type='usb' index='0'/>"), "missing USB bus 1"},
		{"I/O thread", blocktest.DiskAt("dev='vda'", "<driver iothread='3'/>"), domain("<iothreads>2</iothreads>", ""), "iothread '3' is not defined"},
		{"I/O threads", blocktest.DiskAt("dev='vda'", "<driver><iothreads><iothread id='1'/><iothread id='3'/></iothreads></driver>"), domain("<iothreads>2</iothreads>", ""), "iothread '3' is not defined"},
		{"throttle group", blocktest.DiskAt("dev='vda'", "<throttlefilters><throttlefilter group='x'/></throttlefilters>"), domain("", ""), "throttle group 'x' not found"},
		{"CCW address", blocktest.DiskAt("dev='vda'", "<address type='ccw' cssid='0xfe' ssid='0' devno='1'/>"),
			strings.Replace(domain("", "<disk type='file'><target dev='vdb' bus='virtio'/><address type='ccw' cssid='0xfe' ssid='0' devno='1'/></disk>"), "'pc'", "'s390-ccw-virtio-9.0'", 1), "fe.0.0001 is in use"},
		{"loadparm", blocktest.DiskAt("dev='vda'", "<boot order='1' loadparm='A'/>"), domain("", ""), "only a mainframe"},
		{"IDE on another machine", blocktest.DiskAt("dev='hda'", ""), strings.Replace(domain("", ""), "'pc'", "'virt'", 1), "IDE controllers are unsupported"},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			m, err := diskxml.ParseDomain([]byte(c.domain))
			if err != nil {
				t.Fatal(err)
			}
			_, err = blockgraph.Build(blocktest.Parse(t, c.disk), m, blockgraph.Unlock{})
			if err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("got %v, want an error that says %q", err, c.want)
			}
			blocktest.Typed(t, err)
		})
	}
}

func TestParseDomainPlacesDisk(t *testing.T) {
	t.Parallel()
	m, err := diskxml.ParseDomain([]byte(blocktest.LiveQ35))
	if err != nil {
		t.Fatal(err)
	}
	for target, want := range map[string]string{"dev='vdb'": "pci.5 0x0", "dev='sdc'": "scsi0.0 0 0 2", "dev='sdi'": "scsi1.0 1"} {
		got, err := places(t, blocktest.DiskAt(target, ""), m)
		if err != nil || len(got) != 1 || got[0] != want {
			t.Errorf("%s: got %q %v, want %q", target, got, err, want)
		}
	}
}
