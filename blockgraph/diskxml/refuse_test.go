package diskxml_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
)

// refusal is a refused document, with the position and the reason. Line 0 is an
// UnsupportedError, which has no line, or an empty document.
type refusal struct {
	name, doc string
	element   string
	line      int
	reason    string // part of it
}

func (r refusal) check(t *testing.T) {
	t.Helper()
	d, err := diskxml.ParseDisk([]byte(r.doc))
	if err == nil {
		t.Fatalf("accepted as %+v\n%s", d, r.doc)
	}
	var invalid *diskxml.XMLError
	var unsupported *blockgraph.UnsupportedError
	element, line, reason := "", 0, ""
	switch {
	case errors.As(err, &invalid):
		element, line, reason = invalid.Element, invalid.Line, invalid.Reason
	case errors.As(err, &unsupported):
		element, reason = unsupported.Element, unsupported.Reason
	default:
		t.Fatalf("an error of type %T: %v", err, err)
	}
	if len(r.doc) > 2000 {
		r.doc = r.doc[:2000] + "..."
	}
	if element != r.element || line != r.line || !strings.Contains(reason, r.reason) {
		t.Errorf("got %q line %d %q\nwant %q line %d %q\n%s", element, line, reason, r.element, r.line, r.reason, r.doc)
	}
	if strings.ContainsAny(err.Error(), "\n\x00") || len(err.Error()) > 600 {
		t.Errorf("not one readable line: %q", err.Error())
	}
}

func TestParseDiskRefuses(t *testing.T) {
	t.Parallel()
	// Line 1 is <disk>, line 2 <source>, line 3 <target>, line 4 the tested element.
	disk := func(inner string) string {
		return "<disk>\n<source file='/a'/>\n<target dev='vdb'/>\n" + inner + "\n</disk>"
	}
	driver := func(attrs string) string { return disk("<driver " + attrs + "/>") }
	on := func(target, inner string) string {
		return "<disk>\n<source file='/a'/>\n<target " + target + "/>\n" + inner + "\n</disk>"
	}
	enc := func(attrs, inner string) string {
		return disk("<encryption " + attrs + ">\n" + inner + "\n</encryption>")
	}
	secret := "<secret type='passphrase' uuid='" + blocktest.AnyUUID + "'/>"
	header := func(attrs, inner string) string {
		return enc("format='luks'", secret+"\n<header "+attrs+">\n"+inner+"\n</header>")
	}
	long := strings.Repeat("x", 5000)

	cases := []refusal{
		// The document.
		{"empty", "", "", 0, ""},
		{"only text", "\n\nhello", "", 1, "outside"},
		{"cut off", "<disk>\n<source file='/a'>", "", 2, "unexpected EOF"},
		{"two disks", "<disk/>\n<disk/>", "", 2, "second element"},
		{"text after", disk("") + "\nx", "", 5, "outside"},
		{"doctype", "<!DOCTYPE disk [<!ENTITY a 'b'>]>\n<disk/>", "", 1, "DOCTYPE"},
		{"entity", disk("<serial>&nbsp;</serial>"), "", 4, "invalid character entity"},
		{"not a disk", "\n<domain/>", "domain", 2, "not a <disk>"},
		{"too deep", disk(strings.Repeat("<a>", 100)), "", 4, "nested deeper"},
		{"other encoding", "<?xml version='1.0' encoding='koi8-r'?><disk/>", "", 1, "iconv -f koi8-r"},
		// Elements and attributes.
		{"unknown element", disk("<drvier/>"), "disk/drvier", 4, "unknown element"},
		{"unknown attribute with a hint", driver("cahe='none'"), "disk/driver@cahe", 4, "did you mean cache?"},
		{"two letters", driver("error-polcy='stop'"), "disk/driver@error-polcy", 4, "did you mean error_policy?"},
		{"attribute of another element", enc("type='luks'", secret), "disk/encryption@type", 4, "did you mean format?"},
		{"letters swapped", enc("fromat='luks'", secret), "disk/encryption@fromat", 4, "did you mean format?"},
		{"format of the driver", driver("format='qcow2'"), "disk/driver@format", 4, "did you mean type?"},
		{"id of a secret", enc("format='luks'", "<secret type='passphrase' id='"+blocktest.AnyUUID+"'/>"), "disk/encryption/secret@id", 5, "did you mean uuid?"},
		{"header outside", disk("<header><source file='/h'/></header>"), "disk/header", 4, "belongs into <encryption>"},
		{"passphrase for secret", enc("format='luks'", "<passphrase>x</passphrase>"), "disk/encryption/passphrase", 5, "did you mean secret?"},
		{"dev of a file", "<disk>\n<source dev='/a'/><target dev='vdb'/></disk>", "disk/source@dev", 2, "it is of type='block'"},
		{"case matters", disk("<ReadOnly/>"), "disk/ReadOnly", 4, "did you mean readonly?"},
		{"twice", disk("<readonly/>\n<readonly/>"), "disk/readonly", 5, "more than once"},
		{"attribute twice", driver("type='raw' type='qcow2'"), "disk/driver@type", 4, "twice"},
		{"text", disk("hello"), "disk", 1, `"hello"`},
		{"text in driver", disk("<driver>raw</driver>"), "disk/driver", 4, `"raw"`},
		{"namespaced element", disk("<x:readonly xmlns:x='urn:x'/>"), "disk/readonly", 4, "urn:x"},
		{"namespaced attribute", driver("x:cache='none' xmlns:x='urn:x'"), "disk/driver@cache", 4, "urn:x"},
		{"empty attribute", driver("cache=''"), "disk/driver@cache", 4, "empty"},
		{"serial with an element", disk("<serial><b/></serial>"), "disk/serial/b", 4, "unknown element"},
		// <disk>, <target>.
		{"lun of a file", "<disk device='lun'><source file='/a'/><target dev='sda'/></disk>", "disk@type", 1, "only valid for block type"},
		{"unknown device", "<disk device='tape'><source file='/a'/><target dev='sda'/></disk>", "disk@device", 1, `"tape"`},
		{"long device", "<disk device='" + long + "'><source file='/a'/><target dev='sda'/></disk>", "disk@device", 1, "xxx..."},
		{"no target", "<disk>\n<source file='/a'/></disk>", "disk", 1, "<target dev=...>"},
		{"target without dev", on("bus='virtio'", ""), "disk", 1, "<target dev=...>"},
		{"odd target", on("dev='sdA'", ""), "disk/target@dev", 3, "unknown disk name"},
		{"path for a target", on("dev='../vda'", ""), "disk/target@dev", 3, "unknown disk name"},
		{"only a prefix", on("dev='vd'", ""), "disk/target@dev", 3, "unknown disk name"},
		{"partition", on("dev='vda1'", ""), "disk/target@dev", 3, "partitions"},
		{"digits only", on("dev='vd1'", ""), "disk/target@dev", 3, "unknown disk name"},
		{"huge target", on("dev='vd"+strings.Repeat("z", 1000)+"'", ""), "disk/target@dev", 3, "unknown disk name"},
		{"name longer than a node's", on("dev='vdaaaaa'", ""), "disk/target@dev", 3, "31 characters"},
		{"xen", on("dev='xvda'", ""), "disk/target@dev", 0, "Xen"},
		{"bus xen", on("dev='xvda' bus='xen'", ""), "disk/target@bus", 0, `"xen"`},
		{"bus sd", on("dev='sda' bus='sd'", ""), "disk/target@bus", 0, "SD card"},
		{"unknown bus", on("dev='vda' bus='pci'", ""), "disk/target@bus", 3, `"pci"`},
		{"disk called fda", on("dev='fda' bus='virtio'", ""), "disk/target@dev", 3, "Invalid harddisk device name"},
		{"disk called fda, no bus", on("dev='fda'", ""), "disk/target@dev", 3, "Invalid harddisk device name"},
		{"floppy called vda", "<disk device='floppy'><source file='/a'/><target dev='vda' bus='fdc'/></disk>", "disk/target@dev", 1, "Invalid floppy device name"},
		{"floppy on usb", "<disk device='floppy'><source file='/a'/><target dev='fda' bus='usb'/></disk>", "disk/target@bus", 1, "floppy"},
		{"disk on fdc", on("dev='sda' bus='fdc'", ""), "disk/target@bus", 3, "floppy"},
		{"cdrom on virtio", "<disk device='cdrom'><source file='/a'/><target dev='vda'/></disk>", "disk/target@bus", 1, "ejectable media"},
		{"readonly ide", on("dev='hda'", "<readonly/>"), "disk/readonly", 0, "readonly ide"},
		{"readonly sata", on("dev='sda' bus='sata'", "<readonly/>"), "disk/readonly", 0, "readonly sata"},
		{"second ide controller", on("dev='hde'", ""), "disk/target@dev", 3, "single ide controller"},
		{"third floppy", "<disk device='floppy'><source file='/a'/><target dev='fdc'/></disk>", "disk/target@dev", 1, "single fdc controller"},
		// <source>.
		{"no source", "<disk><target dev='vdb'/></disk>", "disk", 1, "can be empty"},
		{"network", "<disk type='network'><source/><target dev='vdb'/></disk>", "disk/source@protocol", 1, "is missing"},
		{"unknown type", "<disk type='tape'><source/><target dev='vdb'/></disk>", "disk@type", 1, `"tape"`},
		{"no path", "<disk>\n<source/><target dev='vdb'/></disk>", "disk/source@file", 2, "is missing"},
		{"block without dev", "<disk type='block'>\n<source/><target dev='vdb'/></disk>", "disk/source@dev", 2, "is missing"},
		{"block with file", "<disk type='block'>\n<source file='/a'/><target dev='vdb'/></disk>", "disk/source@file", 2, "does not belong"},
		{"file with dev", "<disk>\n<source file='/a' dev='/b'/><target dev='vdb'/></disk>", "disk/source@dev", 2, "does not belong"},
		{"relative path", "<disk>\n<source file='a.img'/><target dev='vdb'/></disk>", "disk/source", 2, "not absolute"},
		{"odd index", "<disk>\n<source file='/a' index='x'/><target dev='vdb'/></disk>", "disk/source@index", 2, "no number"},
		{"backing chain", disk("<backingStore type='file'/>"), "disk/backingStore", 4, "missing source"},
		// <driver>.
		{"driver of Xen", driver("name='tap'"), "disk/driver@name", 0, `"tap"`},
		{"iso", driver("type='iso'"), "disk/driver@type", 0, "use 'raw'"},
		{"cow", driver("type='cow'"), "disk/driver@type", 0, "'cow'"},
		{"unknown format", driver("type='" + long + "'"), "disk/driver@type", 4, "unknown format"},
		{"cache", driver("cache='off'"), "disk/driver@cache", 4, "none, writethrough"},
		{"io", driver("io='posix'"), "disk/driver@io", 4, "native, threads"},
		{"native without cache", driver("io='native'"), "disk/driver@io", 4, "cache='none'"},
		{"native with writeback", driver("io='native' cache='writeback'"), "disk/driver@io", 4, "cache='none'"},
		{"discard", driver("discard='on'"), "disk/driver@discard", 4, "unmap, ignore"},
		{"detect_zeroes", driver("detect_zeroes='yes'"), "disk/driver@detect_zeroes", 4, "off, on, unmap"},
		{"error_policy", driver("error_policy='panic'"), "disk/driver@error_policy", 4, "enospace"},
		{"rerror_policy", driver("rerror_policy='enospace'"), "disk/driver@rerror_policy", 4, "stop, report, ignore"},
		{"statistics", disk("<driver><statistics/></driver>"), "disk/driver/statistics", 0, "newer than the one"},
		// <encryption>.
		{"encryption twice", "<disk>\n<source file='/a'><encryption format='luks'>" + secret + "</encryption></source>\n<target dev='vdb'/>\n<encryption format='luks'>" + secret + "</encryption></disk>", "disk/encryption", 4, "already found"},
		{"no format", enc("", secret), "disk/encryption@format", 4, "is missing"},
		{"luks2", enc("format='luks2'", secret), "disk/source/encryption@format", 0, "'luks2' is currently not supported by the qemu encryption engine: use format='luks'"},
		{"qcow", enc("format='qcow'", secret), "disk/encryption@format", 0, "`qemu-img convert "},
		{"default", enc("format='default'", secret), "disk/encryption@format", 0, "luksplug volume create"},
		{"unknown encryption", enc("format='rot13'", secret), "disk/encryption@format", 4, "rot13"},
		{"librbd", enc("format='luks' engine='librbd'", secret), "disk/encryption@engine", 4, "librbd"},
		{"unknown engine", enc("format='luks' engine='v8'", secret), "disk/encryption@engine", 4, "v8"},
		{"cipher", enc("format='luks'", "<cipher name='aes'/>"), "disk/encryption/cipher", 5, "unnecessary"},
		{"no secret", enc("format='luks'", ""), "disk/encryption", 4, "no <secret>"},
		{"two secrets", enc("format='luks'", secret+secret), "disk/encryption", 4, "single secret: it has 2"},
		{"secret type", enc("format='luks'", "<secret type='ceph' uuid='"+blocktest.AnyUUID+"'/>"), "disk/encryption/secret@type", 5, `"ceph"`},
		{"no secret type", enc("format='luks'", "<secret uuid='"+blocktest.AnyUUID+"'/>"), "disk/encryption/secret@type", 5, "passphrase"},
		{"uuid and usage", enc("format='luks'", "<secret type='passphrase' usage='a' uuid='"+blocktest.AnyUUID+"'/>"), "disk/encryption/secret", 5, "not both"},
		{"neither uuid nor usage", enc("format='luks'", "<secret type='passphrase'/>"), "disk/encryption/secret", 5, "either uuid= or usage="},
		{"odd uuid", enc("format='luks'", "<secret type='passphrase' uuid='1234'/>"), "disk/encryption/secret@uuid", 5, "malformed"},
		{"zero uuid", enc("format='luks'", "<secret type='passphrase' uuid='00000000-0000-0000-0000-000000000000'/>"), "disk/encryption/secret@uuid", 5, "malformed"},
		// <header>.
		{"header without source", header("", ""), "disk/encryption/header", 6, "missing source"},
		{"header without path", header("", "<source/>"), "disk/encryption/header/source@file", 7, "is missing"},
		{"header type", header("type='dir'", "<format type='fat'/><source dir='/h'/>"), "disk/source/encryption/header/format@type", 0, "fat"},
		{"unknown header type", header("type='a\"&amp;b'", "<source/>"), "disk/encryption/header@type", 6, "unknown type"},
		{"header block with file", header("type='block'", "<source file='/h'/>"), "disk/encryption/header/source@file", 7, "does not belong"},
		{"header format without type", header("", "<format/><source file='/h'/>"), "disk/encryption/header/format@type", 7, "is missing"},
		{"header format", header("", "<format type='vdi'/><source file='/h'/>"), "disk/source/encryption/header/format@type", 0, "vdi"},
		{"header with a chain", header("", "<source file='/h'/><backingStore/>"), "disk/encryption/header/backingStore", 0, "not support"},
		{"encrypted header", header("", "<source file='/h'><encryption format='luks'/></source>"), "disk/encryption/header/source/encryption", 0, "not support"},
		{"relative header", header("", "<source file='h'/>"), "disk/encryption/header/source", 7, "not absolute"},
		{"header is the payload", header("", "<source file='/./a'/>"), "disk/encryption/header/source", 7, "same file"},
		{"header twice", header("", "<source file='/h'/>")[:len(header("", "<source file='/h'/>"))-len("\n</encryption>\n</disk>")] + "<header/>\n</encryption>\n</disk>", "disk/encryption/header", 8, "more than once"},
		// Identity.
		{"serial", disk("<serial>a;b</serial>"), "disk/serial", 4, `";"`},
		{"serial with a new line", disk("<serial>a\nb</serial>"), "disk/serial", 4, "not allowed"},
		{"short wwn", on("dev='sda'", "<wwn>5000</wwn>"), "disk/wwn", 4, "16 hexadecimal"},
		{"wwn of other letters", on("dev='sda'", "<wwn>5000c50015ea71ag</wwn>"), "disk/wwn", 4, "16 hexadecimal"},
		{"wwn with a sign", on("dev='sda'", "<wwn>+000c50015ea71aa</wwn>"), "disk/wwn", 4, "16 hexadecimal"},
		{"zero wwn", on("dev='sda'", "<wwn>0000000000000000</wwn>"), "disk/wwn", 4, "all-zero"},
		{"wwn on virtio", disk("<wwn>5000c50015ea71ad</wwn>"), "disk/wwn", 4, "only ide and scsi"},
		{"boot order 0", disk("<boot order='0'/>"), "disk/boot@order", 4, "no boot order"},
		{"boot without order", disk("<boot/>"), "disk/boot@order", 4, "no boot order"},
		{"boot order, words", disk("<boot order='first'/>"), "disk/boot@order", 4, "no number"},
		{"alias", disk("<alias name='ua-a b'/>"), "disk/alias@name", 4, `" "`},
		// <address>.
		{"address without type", disk("<address bus='0'/>"), "disk/address@type", 4, "is missing"},
		{"ccw subsystem", disk("<address type='ccw' cssid='0' ssid='0' devno='1'/>"), "disk/address@cssid", 4, "cssid='0xfe'"},
		{"ccw number", disk("<address type='ccw' cssid='0xfe' ssid='4' devno='1'/>"), "disk/address@ssid", 4, "0 to 3"},
		{"isa", disk("<address type='isa'/>"), "disk/address@type", 4, "cannot have an address of type 'isa'"},
		{"unknown address", disk("<address type='isdn'/>"), "disk/address@type", 4, "isdn"},
		{"slot", disk("<address type='pci' slot='0x20'/>"), "disk/address@slot", 4, "0 to 31"},
		{"function", disk("<address type='pci' function='8'/>"), "disk/address@function", 4, "0 to 7"},
		{"bus", disk("<address type='pci' bus='256'/>"), "disk/address@bus", 4, "0 to 255"},
		{"no number", disk("<address type='pci' slot='one'/>"), "disk/address@slot", 4, `"one"`},
		{"negative", disk("<address type='pci' slot='-1'/>"), "disk/address@slot", 4, `"-1"`},
		{"mixed address", disk("<address type='pci' unit='1'/>"), "disk/address@unit", 4, "does not belong"},
		{"second PCI domain", disk("<address type='pci' domain='1' bus='1'/>"), "disk/address@domain", 0, "only the PCI domain 0"},
		{"multifunction", disk("<address type='pci' multifunction='yes'/>"), "disk/address@multifunction", 4, "on, off"},
		{"drive address on virtio", disk("<address type='drive'/>"), "disk/address@type", 4, "use type='pci'"},
		{"pci address on scsi", on("dev='sda'", "<address type='pci' bus='1'/>"), "disk/address@type", 4, "use type='drive'"},
		{"drive address on usb", on("dev='sda' bus='usb'", "<address type='drive'/>"), "disk/address@type", 4, "use type='usb'"},
		{"usb port", on("dev='sda' bus='usb'", "<address type='usb' bus='0' port='1.x'/>"), "disk/address@port", 4, "no USB port"},
		{"usb port 0", on("dev='sda' bus='usb'", "<address type='usb' bus='0' port='0'/>"), "disk/address@port", 4, "no USB port"},
		{"scsi channel", on("dev='sda'", "<address type='drive' bus='1'/>"), "disk/address@bus", 4, "0 at most"},
		{"scsi unit", on("dev='sda'", "<address type='drive' unit='16384'/>"), "disk/address@unit", 4, "0 to 16383"},
		{"ide controller", on("dev='hda'", "<address type='drive' controller='1'/>"), "disk/address@controller", 4, "0 at most"},
		{"ide bus", on("dev='hda'", "<address type='drive' bus='2'/>"), "disk/address@bus", 4, "1 at most"},
		{"ide target", on("dev='hda'", "<address type='drive' target='1'/>"), "disk/address@target", 4, "0 at most"},
		{"sata bus", on("dev='sda' bus='sata'", "<address type='drive' bus='1'/>"), "disk/address@bus", 4, "0 at most"},
	}
	for _, floppy := range []struct{ element, inner string }{
		{"disk/serial", "<serial>1</serial>"},
		{"disk/driver@error_policy", "<driver error_policy='stop'/>"}, {"disk/driver@rerror_policy", "<driver rerror_policy='stop'/>"},
	} {
		cases = append(cases, refusal{"floppy with " + floppy.element,
			"<disk device='floppy'><source file='/a'/><target dev='fda'/>" + floppy.inner + "</disk>", floppy.element, 0, "floppy drive"})
	}
	for _, c := range cases {
		t.Run(c.name, c.check)
	}
}

func TestParseDiskRefusesHugeDocument(t *testing.T) {
	t.Parallel()
	_, err := diskxml.ParseDisk([]byte("<disk>" + strings.Repeat(" ", 1<<20) + "</disk>"))
	var invalid *diskxml.XMLError
	if !errors.As(err, &invalid) || !strings.Contains(invalid.Reason, "bytes") {
		t.Errorf("got %v", err)
	}
}
