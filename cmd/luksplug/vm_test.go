package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// TestBareVM: the disks of a QEMU without libvirt are not recorded, and --persistent is
// refused.
func TestBareVM(t *testing.T) {
	t.Parallel()
	states, err := bareVM{}.States(t.Context(), []*hotplug.AttachedDisk{{Target: "vdb", Device: "luksplug-vdb"}})
	if err != nil || states != nil {
		t.Errorf("got %v, %v", states, err)
	}
	for domain, want := range map[string]int{"": exitUsage, "vm1": exitDone} {
		if got := exitCode((&flags{domain: domain}).checkPersistent(true)); got != want {
			t.Errorf("--persistent with --domain %q: %d, want %d", domain, got, want)
		}
	}
}

// TestShowRecords: list and repair say what is recorded, also of disks that are not
// attached.
func TestShowRecords(t *testing.T) {
	t.Parallel()
	attached := []*hotplug.AttachedDisk{{Target: "sda", Device: "luksplug-sda", Size: 1 << 20}}
	missing := libvirtvm.State{Target: "sdb", Persistent: true}
	states := []libvirtvm.State{{Target: "sda", Attached: true, Live: true, Persistent: true}, missing}
	for output, want := range map[string][]string{
		"text": {"RECORDED", "live, persistent", "sdb     missing", "sdb: " + missing.Difference()},
		"json": {"\"live\",\n        \"persistent\"\n", `"state": "missing"`, `"difference": "belongs to the domain`},
	} {
		out := &bytes.Buffer{}
		a := &app{streams: streams{out: out}, flags: flags{output: output}}
		if err := showDisks(a, attached, states); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", output, w, out)
			}
		}
	}
	out := &bytes.Buffer{}
	a := &app{streams: streams{out: out}, flags: flags{output: "text"}}
	fixed := []libvirtvm.State{{Target: "sda", Attached: true}, {Target: "sdb", Live: true}}
	if err := showRepaired(a, &libvirtvm.Repaired{Fixed: fixed}); err != nil {
		t.Fatal(err)
	}
	const want = "sda: written into the domain's metadata\nsdb: removed from the domain's metadata, since it is not attached\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
