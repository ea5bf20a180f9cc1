package blockgraph

import (
	"fmt"
	"strings"
)

// imageWarnings returns where QEMU does something else with the images than the
// XML says, as libvirt has it.
func (d *Disk) imageWarnings() []string {
	var out []string
	for _, i := range d.Images() {
		s := i.Source
		if ssh, ok := s.Network.(*SSH); ok && len(ssh.Ignored) > 0 {
			out = append(out, fmt.Sprintf("QEMU reaches %s with the SSH agent and known_hosts of its own user: %s of the XML is not used", s, strings.Join(ssh.Ignored, ", ")))
		}
		if v := s.Volume; v != nil && v.Auth != nil {
			out = append(out, fmt.Sprintf("the <auth> of %s is not used: the pool's own is", s))
		}
	}
	return out
}
