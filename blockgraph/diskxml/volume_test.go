package diskxml_test

import (
	"errors"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

const fullVolume = `<volume type='file'>
  <name>vm1-vdb</name>
  <key>/srv/vm1-vdb</key>
  <source><device path='/dev/sda2'><extent start='0' end='1'/></device></source>
  <capacity unit='G'>2</capacity>
  <allocation unit='kB'>3</allocation>
  <physical unit='bytes'>9</physical>
  <target>
    <path>/srv/vm1-vdb</path>
    <format type='qcow2'/>
    <permissions><owner>107</owner><group>-1</group><mode>0640</mode><label>system_u:object_r:virt_image_t:s0</label></permissions>
    <timestamps><atime>1.2</atime><mtime>1.2</mtime></timestamps>
    <encryption format='luks'>
      <secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>
      <cipher name='aes' size='256' mode='cbc' hash='sha512'/>
      <ivgen name='essiv' hash='sha256'/>
    </encryption>
    <compat>1.1</compat>
    <nocow/>
    <clusterSize unit='KiB'>128</clusterSize>
    <features><lazy_refcounts/><extended_l2/></features>
  </target>
  <backingStore><path>base.img</path><format type='luks'/></backingStore>
</volume>`

func TestParseVolume(t *testing.T) {
	t.Parallel()
	v := must.Get(diskxml.ParseVolume([]byte(fullVolume)))(t)
	owner, mode := 107, uint32(0o640)
	want := &storagevol.Volume{
		Name: "vm1-vdb", Type: storagevol.TypeFile, Capacity: 2 << 30, HasCapacity: true, Allocation: 3000, HasAllocation: true,
		Path: "/srv/vm1-vdb", Format: "qcow2", Compat: "1.1", NoCOW: true, ClusterSize: 128 << 10,
		Features:    storagevol.Features{Given: true, LazyRefcounts: true, ExtendedL2: true},
		Permissions: storagevol.Permissions{Owner: &owner, Mode: &mode, Label: "system_u:object_r:virt_image_t:s0"},
		Encryption: &storagevol.Encryption{Format: "luks",
			Secret: secrets.Reference{Type: secrets.Passphrase, UUID: must.Get(secrets.ParseUUID("0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f"))(t)},
			Cipher: &storagevol.Cipher{Name: "aes", Size: 256, Mode: "cbc", Hash: "sha512"}, IVGen: &storagevol.IVGen{Name: "essiv", Hash: "sha256"}},
		Backing: &storagevol.Backing{Path: "base.img", Format: "luks"},
	}
	if !reflect.DeepEqual(v, want) {
		t.Errorf("got  %+v\nwant %+v", v, want)
	}
	if name, bytes := v.Encryption.Name(); name != "aes-cbc-essiv:sha256" || bytes != 32 {
		t.Errorf("%s, %d bytes", name, bytes)
	}
	if again := must.Get(diskxml.ParseVolume(v.XML()))(t); !reflect.DeepEqual(again, v) {
		t.Errorf("written and read again: %+v\n%s", again, v.XML())
	}
}

// TestParseVolumeHeader: luksplug's own element survives writing, and a path with characters of XML as well.
func TestParseVolumeHeader(t *testing.T) {
	t.Parallel()
	v := must.Get(diskxml.ParseVolume([]byte(`<volume><name>a&amp;'b</name><capacity>1</capacity><target><path>/a&lt;</path><encryption format='default'>
		<header type='block'><source dev='/dev/h'/></header></encryption></target></volume>`)))(t)
	if h := v.Encryption.Header; h == nil || h.Source.Path != "/dev/h" || h.Source.Kind != blockgraph.SourceBlock || v.Name != "a&'b" || v.Path != "/a<" {
		t.Errorf("%+v", v)
	}
	if again := must.Get(diskxml.ParseVolume(v.XML()))(t); !reflect.DeepEqual(again, v) {
		t.Errorf("%s", v.XML())
	}
}

// volumeWith is a volume with this in its <target>.
func volumeWith(target string) string {
	return "<volume><name>v</name><capacity>1</capacity>\n<target>" + target + "</target></volume>"
}

func TestParseVolumeRefusals(t *testing.T) {
	t.Parallel()
	encryption := func(inside string) string {
		return volumeWith("<encryption format='luks'>" + inside + "</encryption>")
	}
	const secret = "<secret type='passphrase' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>"
	for document, want := range map[string]string{
		"":                   "volume XML: <volume>: no element was found: give a libvirt <volume> document",
		"<disk/>":            "volume XML line 1: <volume>: the document is a <disk>, not a <volume>",
		"<volume>x</volume>": `volume XML line 1: <volume>: contains text "x", which has no meaning here`,
		"<volume type='netdir'><name>v</name><capacity>1</capacity></volume>":                                    `<volume type=...>: unknown value "netdir": use file, block, dir, network`,
		"<volume><capacity>1</capacity></volume>":                                                                "missing volume name element: give <name>",
		"<volume><name>a/b</name><capacity>1</capacity></volume>":                                                `volume name "a/b" cannot contain '/' or a new line`,
		"<volume><name>v</name></volume>":                                                                        "missing capacity element: give the size of the guest's disk, such as <capacity unit='GiB'>10</capacity>",
		"<volume><name>v</name><capacity>-1</capacity></volume>":                                                 `<capacity>: "-1" is no size: use decimal digits`,
		"<volume><name>v</name><capacity unit='XB'>1</capacity></volume>":                                        `<capacity unit=...>: unknown suffix "XB"`,
		"<volume><name>v</name><capacity>1</capacity><size/></volume>":                                           "<size>: unknown element",
		"<volume><name>v</name><capacity>1</capacity><backingStore><format type='raw'/></backingStore></volume>": "<backingStore>: has no <path>",
		"<volume><name>v</name><backingStore><path>/b</path><format type='x'/></backingStore></volume>":          `unknown volume format type "x"`,
		volumeWith("<format type='luks'/>"):                                                                      `unknown volume format type "luks": a LUKS volume has the format raw, and <encryption format='luks'>`,
		volumeWith("<compat>new</compat>"):                                                                       `forbidden characters in 'compat' attribute "new"`,
		volumeWith("<features><bitmaps/></features>"):                                                            "volume XML line 2: <bitmaps> in <features>: unknown element",
		volumeWith("<permissions><mode>0999</mode></permissions>"):                                               `malformed octal mode "0999": give it like 0600`,
		volumeWith("<permissions><owner>qemu</owner></permissions>"):                                             `malformed owner element "qemu": give the number of a user or group`,
		volumeWith("<encryption/>"):                                                                              "unknown volume encryption format: it is missing, use format='luks'",
		volumeWith("<encryption format='qcow'/>"):                                                                "unsupported volume encryption format 'qcow', the old encryption of qcow2 images",
		volumeWith("<encryption format='luks2'/>"):                                                               `unsupported volume encryption format "luks2"`,
		volumeWith("<encryption format='dm'/>"):                                                                  `unknown volume encryption format type "dm": use format='luks'`,
		volumeWith("<encryption format='default'>" + secret + "</encryption>"):                                   "secrets already defined: format='default' leaves the key to the program that makes the volume",
		volumeWith("<encryption format='default'><cipher name='aes' size='256'/></encryption>"):                  "does not go with format='default'",
		volumeWith("<encryption format='luks' engine='librbd'/>"):                                                `<encryption engine=...> in <target>: "librbd" does not make volumes`,
		encryption(secret + secret):                                                                              "too many secrets for luks encryption: keep one",
		encryption("<secret type='volume' uuid='0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f'/>"):                        `unknown volume encryption secret type "volume": use type='passphrase'`,
		encryption("<secret type='passphrase' uuid='hunter2'/>"):                                                 "malformed uuid, which is not shown",
		encryption("<secret type='passphrase'>hunter2</secret>"):                                                 "it names a secret by uuid= or usage=, and never holds it",
		encryption("<ivgen name='plain64'/>"):                                                                    "ivgen element found, but cipher is missing",
		encryption("<cipher size='256'/>"):                                                                       "cipher info missing 'name' attribute",
		encryption("<cipher name='aes'/>"):                                                                       "cipher info missing 'size' attribute",
		encryption("<cipher name='aes' size='255'/>"):                                                            `"255" is no length of a key in bits`,
		encryption("<cipher name='aes' size='256'/><ivgen hash='sha256'/>"):                                      "missing ivgen info name string",
		encryption("<header type='file' recover='read-only'><source file='/h'/></header>"):                       "is for a volume that exists, and this one is to be made",
	} {
		_, err := diskxml.ParseVolume([]byte(document))
		var invalid *diskxml.XMLError
		if err == nil || !strings.Contains(err.Error(), want) || !errors.As(err, &invalid) {
			t.Errorf("%s\n got %v\nwant %s", document, err, want)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error shows what may be a secret: %v", err)
		}
	}
}

// TestParseNewDisk: the disk of a new image may have a cipher, and nothing else that ParseDisk refuses.
func TestParseNewDisk(t *testing.T) {
	t.Parallel()
	text := func(inside string) []byte {
		return []byte("<disk><source file='/i'><encryption format='luks'><secret type='passphrase' usage='x'/>" + inside + "</encryption></source><target dev='vdb'/></disk>")
	}
	d, made, err := diskxml.ParseNewDisk(text("<cipher name='aes' size='256'/><ivgen name='plain64'/>"))
	if err != nil || d.Target != "vdb" || made.Cipher.Name != "aes" || made.IVGen.Name != "plain64" {
		t.Errorf("%+v %+v %v", d, made, err)
	}
	for inside, want := range map[string]string{
		"<ivgen name='plain64'/>":                  "cipher is missing",
		"<cipher name='aes' size='256' bits='1'/>": "unknown attribute",
		"<cypher name='aes' size='256'/>":          "unknown element",
	} {
		if _, _, err := diskxml.ParseNewDisk(text(inside)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", inside, err)
		}
	}
	if _, made, err := diskxml.ParseNewDisk([]byte("<disk><source file='/i'/><target dev='vdb'/></disk>")); err != nil || made != nil {
		t.Errorf("%v %v", made, err)
	}
}
