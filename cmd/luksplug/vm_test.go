package main

import (
	"testing"

	"github.com/luksplug/luksplug/hotplug"
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

func TestLoopback(t *testing.T) {
	t.Parallel()
	for address, want := range map[string]bool{
		"localhost:4444": true, "127.0.0.1:4444": true, "[::1]:4444": true, "tcp:127.0.0.9:1": true,
		"192.0.2.1:4444": false, "example.org:4444": false, "/run/vm1/qmp.sock": false, "": false, "localhost:-1": false,
	} {
		if got := loopback(address); got != want {
			t.Errorf("%q: %t, want %t", address, got, want)
		}
	}
}
