package volume

import (
	"bytes"
	"encoding/xml"
	"fmt"
	"strings"
)

// DiskXML returns the <disk> that attaches the volume as target, such as "vdb", for `luksplug attach`, and for libvirt if
// it has no header of its own. serial is what the guest finds it by; "" is none.
func (v *Volume) DiskXML(target, serial string) []byte {
	var b strings.Builder
	fmt.Fprintf(&b, "<disk type='file' device='disk'>\n  <driver name='qemu' type='%s' discard='unmap'/>\n  <source file='%s'>\n", v.Format, escape(v.Path))
	fmt.Fprintf(&b, "    <encryption format='luks'>\n      <secret type='passphrase' uuid='%s'/>\n", v.Secret.UUID)
	if v.Header != "" {
		fmt.Fprintf(&b, "      <header type='file'>\n        <source file='%s'/>\n      </header>\n", escape(v.Header))
	}
	bus := "virtio"
	if strings.HasPrefix(target, "sd") {
		bus = "scsi"
	}
	fmt.Fprintf(&b, "    </encryption>\n  </source>\n  <target dev='%s' bus='%s'/>\n", escape(target), bus)
	if serial != "" {
		fmt.Fprintf(&b, "  <serial>%s</serial>\n", escape(serial))
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
