package diskxml

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/secrets"
)

// LocalDisk describes an encrypted disk whose images are files or block devices of one host.
type LocalDisk struct {
	// Target is the disk's target, such as "vdb", and Bus its bus.
	Target string
	Bus    blockgraph.Bus
	// Format is the format of Payload; Header is the image of a detached header.
	Format  blockgraph.Format
	Payload LocalImage
	Header  LocalImage
	// Backing are the images below Payload, the upper one first.
	Backing []LocalLayer
	// Secret opens the volume.
	Secret secrets.Reference
	// Serial is what the guest finds the disk by, Cache and Discard are attributes of
	// <driver>; "" for none.
	Serial, Cache, Discard string
	// Queues and QueueSize are attributes of <driver> as well; 0 for none.
	Queues, QueueSize uint
	ReadOnly          bool
}

// LocalImage is a file, or with Block a block device. The zero value is no image.
type LocalImage struct {
	Path  string
	Block bool
}

// LocalLayer is an image below another. Secret opens it, the zero one is for an image without encryption.
type LocalLayer struct {
	Image  LocalImage
	Format string // "raw", "qcow2"
	Secret secrets.Reference
}

// source returns the value of the type attribute, and the element.
func (i LocalImage) source() (kind, element string) {
	if i.Block {
		return "block", "<source dev='" + escape(i.Path) + "'"
	}
	return "file", "<source file='" + escape(i.Path) + "'"
}

// XML returns the <disk> document, which [ParseDisk] reads.
func (d LocalDisk) XML() []byte {
	var b strings.Builder
	kind, source := d.Payload.source()
	fmt.Fprintf(&b, "<disk type='%s' device='disk'>\n  <driver name='qemu' type='%s'", kind, d.Format)
	for _, a := range [][2]string{{"cache", d.Cache}, {"discard", d.Discard}} {
		if a[1] != "" {
			fmt.Fprintf(&b, " %s='%s'", a[0], escape(a[1]))
		}
	}
	for _, a := range []struct {
		name  string
		value uint
	}{{"queues", d.Queues}, {"queue_size", d.QueueSize}} {
		if a.value > 0 {
			fmt.Fprintf(&b, " %s='%d'", a.name, a.value)
		}
	}
	fmt.Fprintf(&b, "/>\n  %s>\n", source)
	writeEncryption(&b, d.Secret, d.Header)
	b.WriteString("  </source>\n")
	writeBacking(&b, d.Backing, "  ")
	fmt.Fprintf(&b, "  <target dev='%s' bus='%s'/>\n", escape(d.Target), d.Bus)
	if d.ReadOnly {
		b.WriteString("  <readonly/>\n")
	}
	if d.Serial != "" {
		fmt.Fprintf(&b, "  <serial>%s</serial>\n", escape(d.Serial))
	}
	b.WriteString("</disk>\n")
	return []byte(b.String())
}

// writeEncryption writes the <encryption> in a <source>.
func writeEncryption(b *strings.Builder, secret secrets.Reference, header LocalImage) {
	fmt.Fprintf(b, "    <encryption format='luks'>\n      %s\n", secretElement(secret))
	if header.Path != "" {
		kind, source := header.source()
		fmt.Fprintf(b, "      <header type='%s'>\n        %s/>\n      </header>\n", kind, source)
	}
	b.WriteString("    </encryption>\n")
}

// secretElement returns the <secret> that names a passphrase.
func secretElement(r secrets.Reference) string {
	if r.UUID != uuid.Nil {
		return fmt.Sprintf("<secret type='passphrase' uuid='%s'/>", r.UUID)
	}
	return fmt.Sprintf("<secret type='passphrase' usage='%s'/>", escape(r.Usage))
}

// writeBacking writes the <backingStore> of these images, each in that of the upper one.
func writeBacking(b *strings.Builder, layers []LocalLayer, indent string) {
	if len(layers) == 0 {
		return
	}
	l := layers[0]
	kind, source := l.Image.source()
	fmt.Fprintf(b, "%[1]s<backingStore type='%[2]s'>\n%[1]s  <format type='%[3]s'/>\n%[1]s  %[4]s", indent, kind, escape(l.Format), source)
	if l.Secret == (secrets.Reference{}) {
		b.WriteString("/>\n")
	} else {
		fmt.Fprintf(b, ">\n%[1]s    <encryption format='luks'>\n%[1]s      %[2]s\n%[1]s    </encryption>\n%[1]s  </source>\n", indent, secretElement(l.Secret))
	}
	writeBacking(b, layers[1:], indent+"  ")
	b.WriteString(indent + "</backingStore>\n")
}

// escape returns text as the value of an attribute or an element.
func escape(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a Buffer never fails
	return b.String()
}
