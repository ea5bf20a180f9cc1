package integration

import (
	"fmt"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestCompletesDomains: a shell completes the names of domains, also of those that are off, but no name with
// characters that would change a terminal.
func TestCompletesDomains(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.Libvirtd(t)
	for _, name := range []string{"vm1", "vm\u202e2"} {
		xml := writeFile(t, "domain.xml", fmt.Sprintf("<domain type='qemu'><name>%s</name><memory>65536</memory><os><type arch='x86_64'>hvm</type></os></domain>", name))
		must.Get(l.Virsh(ctx, "define", xml))(t)
	}
	for _, args := range [][]string{{"list", "--domain", ""}, {"hook", "enable", ""}, {"migrate-check", ""}} {
		r := run(ctx, t, l.Inside(ctx, luksplug, append([]string{"__complete", "--connect", l.URI}, args...)...))
		if r.want(t, 0); r.stdout != "vm1\n:4\n" {
			t.Errorf("%q: %q %s", args, r.stdout, r.stderr)
		}
	}
}
