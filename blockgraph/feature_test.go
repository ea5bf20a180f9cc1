package blockgraph_test

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
)

// TestFeature: an argument of a command is named by its part of the XML.
func TestFeature(t *testing.T) {
	t.Parallel()
	rbd := blockgraph.Object{{Name: "driver", Value: "rbd"}, {Name: "encrypt", Value: blockgraph.Object{{Name: "format", Value: "luks-any"}}}}
	driver := func(name string, more ...blockgraph.Member) blockgraph.Object {
		return append(blockgraph.Object{{Name: "driver", Value: name}}, more...)
	}
	for _, c := range []struct {
		command   string
		arguments blockgraph.Object
		argument  string
		want      string
		since     string
	}{
		{"blockdev-add", driver("luks"), "header", "a detached LUKS header (<header> in <encryption>)", "9.0"},
		{"blockdev-add", driver("raw"), "header", "the option header of QEMU's driver raw", ""},
		{"blockdev-add", rbd, "encrypt.format", "the encryption format luks-any (<encryption format=...> in <source>)", "8.0"},
		{"blockdev-add", rbd, "encrypt.other", "the option encrypt.other of QEMU's driver rbd", ""},
		{"blockdev-add", rbd, "encrypt.format.deeper", "the option encrypt.format.deeper of QEMU's driver rbd", ""},
		{"blockdev-add", driver("gluster"), "driver", "the protocol gluster (<source protocol=...>)", ""},
		{"blockdev-add", driver("ftps"), "driver", "the protocol ftps (<source protocol=...>)", ""},
		{"blockdev-add", driver("tftp"), "driver", "the protocol tftp (<source protocol=...>)", ""},
		{"blockdev-add", driver("vpc"), "driver", "QEMU's driver vpc (<driver type=...>)", ""},
		{"blockdev-add", driver("file", blockgraph.Member{Name: "aio", Value: "io_uring"}), "aio", "I/O through io_uring (<driver io=...>)", "5.0"},
		{"blockdev-add", driver("file", blockgraph.Member{Name: "aio", Value: "threads"}), "aio", "the option aio of QEMU's driver file", ""},
		{"device_add", driver("virtio-blk-pci"), "iothread-vq-mapping", "several I/O threads for one disk (<iothreads> in <driver>)", "9.0"},
		{"device_add", driver("virtio-blk-ccw"), "driver", "the device virtio-blk-ccw of a mainframe (s390x) (<address type=...>)", ""},
		{"device_add", driver("virtio-blk-pci-transitional"), "driver", "the device virtio-blk-pci-transitional (<disk model=...>)", "4.0"},
		{"device_add", driver("scsi-block"), "physical_block_size", "block sizes of its own for a LUN (<blockio>)", ""},
		{"device_add", driver("mptsas1068"), "driver", "the device mptsas1068 (<target bus=...>)", ""},
		{"device_add", driver("scsi-hd"), "rotation_rate", "the property rotation_rate of scsi-hd (<target rotation_rate=...>)", ""},
		{"device_add", driver("scsi-hd"), "device_id", "the property device_id of scsi-hd (<serial>)", ""},
		{"device_add", driver("virtio-blk-pci"), "page-per-vq", "the property page-per-vq of virtio-blk-pci (<driver page_per_vq=...>)", ""},
		{"device_add", driver("virtio-blk-pci"), "drive", "the property drive of virtio-blk-pci", ""},
		{"object-add", blockgraph.Object{{Name: "qom-type", Value: "tls-creds-x509"}}, "qom-type", "TLS with certificates (<source tls=...>)", ""},
		{"object-add", blockgraph.Object{{Name: "qom-type", Value: "secret"}}, "format", "the argument format of object-add", ""},
		{"add-fd", nil, "", "the command add-fd", ""},
	} {
		f := blockgraph.Command{Execute: c.command, Arguments: c.arguments}.Feature(c.argument)
		if got := f.Describe(); got != c.want || f.Since != c.since {
			t.Errorf("%s %s, argument %q: %q since %q, want %q since %q", c.command, c.arguments, c.argument, got, f.Since, c.want, c.since)
		}
	}
}

// TestEveryPropertyHasAnElement: for each property of a device, the XML element
// that sets it is known.
func TestEveryPropertyHasAnElement(t *testing.T) {
	t.Parallel()
	const all = "<driver type='raw' cache='none' queues='2' queue_size='64' event_idx='off' ioeventfd='on' iommu='off' ats='off' packed='on' page_per_vq='on' error_policy='stop' iothread='1'/>" +
		"<blockio logical_block_size='512' physical_block_size='4096' discard_granularity='4096'/><geometry cyls='20' heads='16' secs='63'/>" +
		"<shareable/><serial>1</serial><boot order='1' loadparm='A'/><acpi index='2'/>"
	const drive = "<vendor>ACME</vendor><product>Disk</product><serial>1</serial><wwn>5000c50015ea71ad</wwn>"
	seen := 0
	for target, inside := range map[string]string{
		"dev='vdb' bus='virtio'": all,
		"dev='sdb' bus='scsi' rotation_rate='1' removable='on' dpofua='on'": drive,
		"dev='sdb' bus='usb' removable='on'":                                "",
		"dev='hda' bus='ide' rotation_rate='7200'":                          "<product>Disk</product><geometry cyls='20' heads='16' secs='63' trans='lba'/>",
	} {
		g := blocktest.Build(t, blocktest.Parse(t, blocktest.DiskAt(target, inside)), blockgraph.Machine{}, blockgraph.Unlock{})
		device := g.Device().Options
		for _, m := range device {
			switch m.Name {
			case "driver", "id", "drive": // not of the XML, or not of one element
				continue
			}
			seen++
			if f := (blockgraph.Command{Execute: "device_add", Arguments: device}).Feature(m.Name); f.Element == "" {
				t.Errorf("%s: the element of the property %s is not known", target, m.Name)
			}
		}
	}
	if seen < 35 {
		t.Errorf("only %d properties were checked", seen)
	}
}

// TestReconnect: the interval has the unit of the QEMU version.
func TestReconnect(t *testing.T) {
	t.Parallel()
	disk := blocktest.Parse(t, "<disk type='vhostuser'><driver type='raw'/><source type='unix' path='/run/v.sock'><reconnect enabled='yes' timeout='7'/></source><target dev='vdb' bus='virtio'/></disk>")
	for seconds, want := range map[bool][2]string{
		false: {`{"path":"/run/v.sock"}},"server":false,"reconnect-ms":7000}}}`, "socket,id=luksplug-vdb-chardev,path=/run/v.sock,reconnect-ms=7000"},
		true:  {`{"path":"/run/v.sock"}},"server":false,"reconnect":7}}}`, "socket,id=luksplug-vdb-chardev,path=/run/v.sock,reconnect=7"},
	} {
		g := blocktest.Build(t, disk, blockgraph.Machine{ReconnectSeconds: seconds}, blockgraph.Unlock{})
		p := g.Plan()
		args, err := render.Arguments(p, blocktest.SecretFile)
		if err != nil {
			t.Fatal(err)
		}
		command := p.Steps[0].Do.Arguments.String()
		if !strings.HasSuffix(command, want[0]) || !slices.Contains(args, want[1]) {
			t.Errorf("in seconds: %v: %s %q", seconds, command, args)
		}
	}
}

// TestDaemonWithoutDescriptors: a device that is passed as a descriptor cannot be
// served by a storage daemon.
func TestDaemonWithoutDescriptors(t *testing.T) {
	t.Parallel()
	const enc = "<encryption format='luks'><secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/></encryption>"
	disk := blocktest.Parse(t, "<disk type='vhostvdpa'><driver type='raw' cache='none'/><source dev='/dev/vhost-vdpa-0'>"+enc+"</source><target dev='vdb' bus='virtio'/></disk>")
	_, err := blockgraph.Build(disk, blockgraph.Machine{}, blockgraph.Unlock{Method: blockgraph.MethodStorageDaemon, Dir: "/run/x"})
	var unsupported *blockgraph.UnsupportedError
	if !errors.As(err, &unsupported) || !errors.Is(err, blockgraph.ErrNoDescriptors) || !strings.Contains(err.Error(), "vhostvdpa") {
		t.Errorf("%v", err)
	}
}
