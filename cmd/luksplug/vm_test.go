package main

import "testing"

// TestBareVM: --persistent is refused for a QEMU without libvirt.
func TestBareVM(t *testing.T) {
	t.Parallel()
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
