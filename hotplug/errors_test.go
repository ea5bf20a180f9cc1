package hotplug_test

import (
	"context"
	"errors"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
)

// TestVersionError: the error names the missing feature, the reason and the remedy.
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
		"too new":             {blockgraph.Feature{Since: "2.0", Until: "9.2", Instead: "do that"}, nil, ", which QEMU removed in 9.2: do that"},
		"built without":       {blockgraph.Feature{Since: "9.2", Until: "9.3", Library: "libx"}, nil, ", which takes a QEMU that was built with libx: restart or migrate the VM with such a QEMU"},
		"no QEMU has it":      {blockgraph.Feature{Instead: "do that"}, nil, ", which it does not have: do that"},
		"nothing known of it": {blockgraph.Feature{Element: "disk/shareable"}, errors.New("so it said"), " (<shareable>), which it does not have: restart or migrate the VM with another QEMU (so it said)"},
	} {
		c.feature.Name = "it"
		err := &hotplug.VersionError{Target: "vdb", Feature: c.feature, Version: "9.2.0 (Debian 1:9.2.0)", Err: c.err}
		if err.Error() != is+c.want {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// TestNoAnswer: a query of a stalled QEMU is a NoAnswerError, and the VM works when QEMU
// continues.
func TestNoAnswer(t *testing.T) {
	t.Parallel()
	v, dial := vm(t, hotplug.Options{})
	c, err := dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = c.Close() }() // no command is pending
	pid, ok := c.PeerPID()
	if !ok {
		t.Fatal("QEMU's process is not known")
	}
	if err := syscall.Kill(pid, syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	asking, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = v.State(asking)
	var noAnswer *hotplug.NoAnswerError
	if !errors.As(err, &noAnswer) || !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "does not answer query-named-block-nodes") {
		t.Errorf("a stalled QEMU: %v", err)
	}
	if err := syscall.Kill(pid, syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	if _, err := v.State(t.Context()); err != nil {
		t.Errorf("a QEMU that continues: %v", err)
	}
}
