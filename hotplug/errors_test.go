package hotplug_test

import (
	"errors"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
)

// TestVersionError: the error says what is lacking and why, and what to do about
// it.
func TestVersionError(t *testing.T) {
	t.Parallel()
	const is = "unsupported by this VM's QEMU 9.2.0 (Debian 1:9.2.0): disk vdb needs it"
	for name, c := range map[string]struct {
		feature blockgraph.Feature
		err     error
		want    string
	}{
		"too old":             {blockgraph.Feature{Since: "10.0", Until: "12.1", Library: "libx"}, nil, ", which QEMU has since 10.0: restart or migrate the VM with a newer QEMU"},
		"too old by a bit":    {blockgraph.Feature{Since: "9.10"}, nil, ", which QEMU has since 9.10: restart or migrate the VM with a newer QEMU"},
		"too new":             {blockgraph.Feature{Since: "2.0", Until: "9.2", Instead: "do that"}, nil, ", which QEMU has no more since 9.2; or do that"},
		"built without":       {blockgraph.Feature{Since: "9.2", Until: "9.3", Library: "libx"}, nil, ", which takes a QEMU that was built with libx: restart or migrate the VM with such a QEMU"},
		"nobody has it":       {blockgraph.Feature{Instead: "do that"}, nil, ", which it does not have: do that"},
		"nothing known of it": {blockgraph.Feature{Element: "disk/shareable"}, errors.New("so it said"), " (<shareable>), which it does not have: restart or migrate the VM with another QEMU (so it said)"},
	} {
		c.feature.Name = "it"
		err := &hotplug.VersionError{Target: "vdb", Feature: c.feature, Version: "9.2.0 (Debian 1:9.2.0)", Err: c.err}
		if err.Error() != is+c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}
