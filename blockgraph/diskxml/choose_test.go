package diskxml_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
)

const someDisks = `<devices>
  <disk type='file' device='disk'>
    <driver name='qemu' type='raw'/>
    <source file='/a'/><target dev='vda' bus='virtio'/>
  </disk>
  <interface type='user'><target dev='vdb'/></interface>
  <disk type='block'><source dev='/dev/b'/><target dev='vdb' bus='virtio'/><backingStore/></disk>
  <disk type='network'><source protocol='rbd' name='pool/c'><host name='h'/></source><target dev='sda' bus='scsi'/><serial>é</serial></disk>
  <disk type='file' device='cdrom'><target dev='hda' bus='ide'/></disk>
</devices>`

func TestChooseDisk(t *testing.T) {
	t.Parallel()
	domain := "<domain type='kvm' xmlns:qemu='http://libvirt.org/schemas/domain/qemu/1.0'><name>vm1</name><metadata><x:disk xmlns:x='urn:x'><target dev='vdb'/></x:disk></metadata>\n" +
		someDisks + "<qemu:commandline><qemu:arg value='-x'/></qemu:commandline></domain>"
	for name, doc := range map[string]string{
		"devices": someDisks, "domain": domain, "byte order mark": "\ufeff<?xml version='1.0' encoding='utf-8'?>\r\n<!-- c -->" + domain,
		"snapshot":   "<domainsnapshot><disks><disk name='vdb' snapshot='external'/></disks>" + domain + "<inactiveDomain>" + someDisks + "</inactiveDomain></domainsnapshot>",
		"checkpoint": "<domaincheckpoint>" + domain + "</domaincheckpoint>", "status": "<domstatus state='running' pid='1'>" + domain + "</domstatus>",
	} {
		for target, want := range map[string]string{"vda": "/a", "vdb": "/dev/b"} {
			text, err := diskxml.ChooseDisk([]byte(doc), target)
			if err != nil {
				t.Errorf("%s: %s: %v", name, target, err)
				continue
			}
			if d, err := diskxml.ParseDisk(text); err != nil || d.Target != target || d.Image.Source.Path != want {
				t.Errorf("%s: %s: %+v, %v\n%s", name, target, d, err, text)
			}
		}
		if text, err := diskxml.ChooseDisk([]byte(doc), "sda"); err != nil || !strings.Contains(string(text), "<serial>\u00e9</serial>") {
			t.Errorf("%s: %v\n%s", name, err, text)
		}
		for target, want := range map[string]string{
			"":    "choose one of its disks by the target: vda (/a), vdb (/dev/b), sda (pool/c), hda (cdrom, empty)",
			"vdc": `no disk with the target "vdc", but vda (/a), vdb`,
		} {
			if text, err := diskxml.ChooseDisk([]byte(doc), target); !errors.Is(err, diskxml.ErrNotOneDisk) || !strings.Contains(err.Error(), want) {
				t.Errorf("%s: %q: %q, %v", name, target, text, err)
			}
		}
	}
}

// TestChooseDiskKeepsLines: an error in a chosen disk names the line of the whole document.
func TestChooseDiskKeepsLines(t *testing.T) {
	t.Parallel()
	text, err := diskxml.ChooseDisk([]byte("\n"+strings.Replace(someDisks, "type='raw'", "tpye='raw'", 1)), "vda")
	if err != nil {
		t.Fatal(err)
	}
	var invalid *diskxml.XMLError
	if _, err := diskxml.ParseDisk(text); !errors.As(err, &invalid) || invalid.Line != 4 || invalid.Element != "disk/driver@tpye" {
		t.Error(err)
	}
}

func TestChooseDiskAlone(t *testing.T) {
	t.Parallel()
	const alone = "<disk><source file='/a'/><target dev='vdb'/></disk>"
	for _, target := range []string{"", "vdb"} {
		if text, err := diskxml.ChooseDisk([]byte(alone), target); err != nil || string(text) != alone {
			t.Errorf("%q: %s, %v", target, text, err)
		}
	}
	for doc, want := range map[string]string{
		alone: `no disk with the target "vdc", but vdb (/a)`, "<devices>" + strings.Repeat(strings.ReplaceAll(alone, "vdb", "vdc"), 2) + "</devices>": "2 disks with the target",
	} {
		if text, err := diskxml.ChooseDisk([]byte(doc), "vdc"); !errors.Is(err, diskxml.ErrNotOneDisk) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %s, %v", doc, text, err)
		}
	}
	for _, doc := range []string{"", "<a>", "<a/>", "<domain/>", "<devices/>", "<!DOCTYPE a><domain/>", "<domain>" + strings.Repeat("<a>", 1000)} {
		text, err := diskxml.ChooseDisk([]byte(doc), "vdc")
		if err == nil {
			_, err = diskxml.ParseDisk(text)
		}
		if invalid := (*diskxml.XMLError)(nil); !errors.As(err, &invalid) {
			t.Errorf("%.30s: %v", doc, err)
		}
	}
}
