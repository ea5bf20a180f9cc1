package libvirtvm

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"libvirt.org/go/libvirtxml"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
)

// newVolume returns a disk on a volume.
func newVolume(t *testing.T, format, path, inside string) *blockgraph.Disk {
	t.Helper()
	return must.Get(diskxml.ParseDisk(fmt.Appendf(nil, `<disk type='file'><driver type='%s'/><source file='%s'>%s</source><target dev='vdb' bus='virtio'/></disk>`, format, path, inside)))(t)
}

const byUsage = `<encryption format='luks'><secret type='passphrase' usage='a&amp;b'/></encryption>`

// TestDestination: libvirt is told that QEMU decrypts the new volume, which it otherwise decides too late.
func TestDestination(t *testing.T) {
	t.Parallel()
	disk := &libvirtxml.DomainDisk{Target: &libvirtxml.DomainDiskTarget{Dev: "vdb", Bus: "virtio"}}
	text := must.Get(destination(disk, newVolume(t, "qcow2", "/new", byUsage)).Marshal())(t)
	for _, want := range []string{`type="file"`, `file="/new"`, `type="qcow2"`, `format="luks" engine="qemu"`, `usage="a&amp;b"`, `dev="vdb"`} {
		if !strings.Contains(text, want) {
			t.Errorf("no %s in %s", want, text)
		}
	}
	to := newVolume(t, "raw", "/dev/vg/new", strings.Replace(byUsage, "usage='a&amp;b'", "uuid='"+newSecret+"'", 1))
	to.Image.Source.Kind = blockgraph.SourceBlock
	if text := must.Get(destination(disk, to).Marshal())(t); !strings.Contains(text, `dev="/dev/vg/new"`) || !strings.Contains(text, `uuid="`+newSecret+`"`) {
		t.Errorf("got %s", text)
	}
}

// TestDestinationRefused: a volume that QEMU would take too long to open, or that libvirt cannot describe.
func TestDestinationRefused(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	dir := t.TempDir()
	header := func(name string, iterations byte) string {
		text := make([]byte, 592)
		copy(text, "LUKS\xba\xbe\x00\x01aes")
		copy(text[40:], "xts-plain64")
		copy(text[72:], "sha256")
		text[106], text[111] = 0x10, 64 // payload at sector 4096, key of 64 bytes
		text[166] = 16
		copy(text[168:], newSecret)
		copy(text[208:], []byte{0x00, 0xac, 0x71, 0xf3, iterations, 0, 0, 0})
		copy(text[248:], []byte{0, 0, 0, 8, 0, 0, 0x0f, 0xa0})
		for i := 1; i < 8; i++ {
			copy(text[208+48*i:], []byte{0, 0, 0xde, 0xad})
			copy(text[248+48*i:], []byte{0, 0, byte(2 * i), 8, 0, 0, 0x0f, 0xa0})
		}
		path := filepath.Join(dir, name)
		must.OK(t, os.WriteFile(path, text, 0o600), os.Truncate(path, size+2<<20))
		return path
	}
	slow := header("slow", 0xff)
	for name, c := range map[string]struct {
		to   *blockgraph.Disk
		want error
	}{
		"slow":           {newVolume(t, "raw", slow, byUsage), hotplug.ErrStall},
		"plain":          {newVolume(t, "raw", slow, ""), ErrNotByLibvirt},
		"another format": {newVolume(t, "vmdk", slow, ""), ErrNotByLibvirt},
		"no qcow2":       {newVolume(t, "qcow2", slow, byUsage), hotplug.ErrHeaderUnusable},
		"missing":        {newVolume(t, "raw", slow+"x", byUsage), hotplug.ErrImageUnusable},
		"network":        {must.Get(diskxml.ParseDisk([]byte(`<disk type='network'><source protocol='nbd' name='a'><host name='h'/></source><target dev='vdb' bus='virtio'/></disk>`)))(t), ErrNotByLibvirt},
	} {
		if err := checkDestination("vdb", c.to, size); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestStateWith: a snapshot or a checkpoint that leaves the disk out does not count.
func TestStateWith(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		`<domainsnapshot><name>s</name><disks><disk name='vdb' snapshot='external'/></disks></domainsnapshot>`:     "snapshot s",
		`<domainsnapshot><name>s</name><disks><disk name='vdb' snapshot='no'/></disks></domainsnapshot>`:           " ",
		`<domaincheckpoint><name>c</name><disks><disk name='vdb' checkpoint='bitmap'/></disks></domaincheckpoint>`: "checkpoint c",
		`<domaincheckpoint><name>c</name><disks><disk name='vdc' checkpoint='bitmap'/></disks></domaincheckpoint>`: " ",
	} {
		if kind, name, err := stateWith(text, "vdb"); err != nil || kind+" "+name != want {
			t.Errorf("%s: %s %s, %v", text, kind, name, err)
		}
	}
	if _, _, err := stateWith("<x/>", "vdb"); err == nil {
		t.Error("another document is read")
	}
}
