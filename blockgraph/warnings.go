package blockgraph

import (
	"fmt"
	"strings"
)

// imageWarnings describes where QEMU treats the images differently from the XML.
func (d *Disk) imageWarnings() []string {
	var out []string
	for _, i := range d.Images() {
		s := i.Source
		if ssh, ok := s.Network.(*SSH); ok && len(ssh.Ignored) > 0 {
			out = append(out, fmt.Sprintf("QEMU reaches %s with the SSH agent and known_hosts of its own user: %s of the XML is not used", s, strings.Join(ssh.Ignored, ", ")))
		}
		if v := s.Volume; v != nil && v.Auth != nil {
			out = append(out, fmt.Sprintf("the <auth> of %s is not used: that of the pool replaces it", s))
		}
	}
	for _, i := range d.Layers() {
		if enc := i.Encryption; enc != nil && enc.Recovery != NoRecovery {
			out = append(out, fmt.Sprintf("the header %s is taken as a backup of the one in %s, %s", enc.Header.Source, i.Source, enc.Recovery))
		}
	}
	return out
}

// Warnings returns what the user should know about a valid disk: where the guest sees
// something other than the XML says, or what must exist that luksplug does not create.
func (d *Disk) Warnings() []string {
	out := append([]string(nil), d.Ignored...)
	serial := escapeSerial(d.Serial)
	if limit := 20; d.Bus == BusVirtio && len(serial) > limit {
		out = append(out, fmt.Sprintf("the serial of %s has %d characters: a virtio disk shows the guest the first %d, %q", d.Target, len(serial), limit, serial[:limit]))
	}
	if serial != d.Serial {
		out = append(out, fmt.Sprintf("the serial of %s contains spaces: the guest sees them with backslashes, as with libvirt", d.Target))
	}
	if d.RawIO {
		out = append(out, fmt.Sprintf("rawio='yes' of %s needs a QEMU that was started with CAP_SYS_RAWIO: luksplug cannot grant it", d.Target))
	}
	return append(out, d.imageWarnings()...)
}
