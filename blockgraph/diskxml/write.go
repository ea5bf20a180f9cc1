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
	fmt.Fprintf(&b, "/>\n  %s>\n    <encryption format='luks'>\n      <secret type='passphrase' ", source)
	if d.Secret.UUID != uuid.Nil {
		fmt.Fprintf(&b, "uuid='%s'/>\n", d.Secret.UUID)
	} else {
		fmt.Fprintf(&b, "usage='%s'/>\n", escape(d.Secret.Usage))
	}
	if d.Header.Path != "" {
		kind, source := d.Header.source()
		fmt.Fprintf(&b, "      <header type='%s'>\n        %s/>\n      </header>\n", kind, source)
	}
	fmt.Fprintf(&b, "    </encryption>\n  </source>\n  <target dev='%s' bus='%s'/>\n", escape(d.Target), d.Bus)
	if d.ReadOnly {
		b.WriteString("  <readonly/>\n")
	}
	if d.Serial != "" {
		fmt.Fprintf(&b, "  <serial>%s</serial>\n", escape(d.Serial))
	}
	b.WriteString("</disk>\n")
	return []byte(b.String())
}

// escape returns text as the value of an attribute or an element.
func escape(text string) string {
	var b bytes.Buffer
	_ = xml.EscapeText(&b, []byte(text)) // a Buffer never fails
	return b.String()
}
