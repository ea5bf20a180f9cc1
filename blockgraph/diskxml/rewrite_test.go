package diskxml_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// TestWithVolume: the volume is replaced, and what belongs to the device stays, letter by letter.
func TestWithVolume(t *testing.T) {
	t.Parallel()
	secret := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.MustParse("0a81f5b2-8403-4b23-88d6-21ccc2f80d6f")}
	raw := diskxml.LocalVolume{Format: blockgraph.FormatRaw, Payload: diskxml.LocalImage{Path: "/new & better.img"}, Secret: secret}
	detached := diskxml.LocalVolume{Format: blockgraph.FormatQcow2, Payload: diskxml.LocalImage{Path: "/dev/new", Block: true}, Header: diskxml.LocalImage{Path: "/new.hdr"}, Secret: secret}
	plain := diskxml.LocalVolume{Format: blockgraph.FormatRaw, Payload: diskxml.LocalImage{Path: "/new.img"}}
	const rest = `<target dev='vdb' bus='virtio'/>
  <iotune><total_bytes_sec>1000000</total_bytes_sec></iotune><!-- a comment -->
  <serial>a_b</serial>
  <alias name='ua-data'/>
  <address type='pci' domain='0x0000' bus='0x04' slot='0x00' function='0x0'/>
`
	const encrypted = "<encryption format='luks'>\n      <secret type='passphrase' uuid='0a81f5b2-8403-4b23-88d6-21ccc2f80d6f'/>\n    </encryption>"
	for name, c := range map[string]struct {
		disk   string
		volume diskxml.LocalVolume
		want   string
	}{
		"raw": {
			"<disk type='file' device='disk'>\n  <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n  <source file='/old.img'><encryption format='luks'><secret type='passphrase' usage='old'/></encryption></source>\n  " + rest + "</disk>", raw,
			"<disk type='file' device='disk'>\n  <driver name='qemu' type='raw' cache='none' discard='unmap'/>\n  <source file='/new &amp; better.img'>\n    " + encrypted + "\n  </source>\n  " + rest + "</disk>",
		},
		"qcow2 with a chain, to plain": {
			"<disk type='file'>\n  <driver name='qemu' type='qcow2' discard_no_unref='on'><metadata_cache><max_size unit='KiB'>64</max_size></metadata_cache></driver>\n  <source file='/old.qcow2' startupPolicy='optional' index='1'>\n    <seclabel model='dac' relabel='no'/>\n  </source>\n  <backingStore type='file'><format type='raw'/><source file='/base.img'/></backingStore>\n  " + rest + "</disk>", plain,
			"<disk type='file'>\n  <driver name='qemu' type='raw'/>\n  <source file='/new.img' startupPolicy='optional'>\n    <seclabel model='dac' relabel='no'/>\n  </source>\n  " + rest + "</disk>",
		},
		"plain, to a detached header": {
			"<disk type='file'>\n  <source file='/old.img'/>\n  " + rest + "</disk>", detached,
			"<disk type='block'>\n  <source dev='/dev/new'>\n    <encryption format='luks'>\n      <secret type='passphrase' uuid='0a81f5b2-8403-4b23-88d6-21ccc2f80d6f'/>\n      <header type='file'>\n        <source file='/new.hdr'/>\n      </header>\n    </encryption>\n  </source>\n  " + rest + "  <driver name='qemu' type='qcow2'/>\n</disk>",
		},
		"the old place of encryption": {
			"<disk type='block'>\n  <driver name='qemu' type='raw'/>\n  <source dev='/dev/old'/>\n  <encryption format='luks'><secret type='passphrase' usage='old'/></encryption>\n  " + rest + "</disk>", plain,
			"<disk type='file'>\n  <driver name='qemu' type='raw'/>\n  <source file='/new.img'/>\n  " + rest + "</disk>",
		},
	} {
		got := string(must.Get(diskxml.WithVolume([]byte(c.disk), c.volume))(t))
		if got != c.want {
			t.Errorf("%s: got\n%s\nwant\n%s", name, got, c.want)
		}
		disk := must.Get(diskxml.ParseDisk([]byte(got)))(t)
		if disk.Image.Source.Path != c.volume.Payload.Path || disk.Image.Format != c.volume.Format || disk.Encrypted() != (c.volume.Secret == secret) {
			t.Errorf("%s: %+v", name, disk.Image)
		}
	}
	if _, err := diskxml.WithVolume([]byte("<disk><source"), raw); err == nil || strings.Contains(err.Error(), "luksplug") {
		t.Errorf("no document: %v", err)
	}
}
