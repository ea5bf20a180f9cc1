package hostproc

import (
	"bytes"
	"net"
	"os"
	"slices"
	"testing"
)

func TestListener(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"127.0.0.1:0", "[::1]:0"} {
		l, err := net.Listen("tcp", address)
		if err != nil {
			t.Skipf("no TCP at %s: %v", address, err)
		}
		defer func() { _ = l.Close() }() // the test ends
		port := l.Addr().(*net.TCPAddr).Port
		p, err := Listener(port)
		if err != nil || p != os.Getpid() {
			t.Errorf("port %d: %d, %v", port, p, err)
		}
	}
	if p, err := Listener(1); err == nil {
		t.Errorf("no process listens on port 1, found %d", p)
	}
}

func TestListening(t *testing.T) {
	t.Parallel()
	const table = `  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1 0000000000000000 100 0 0 10 0
   1: 0100007F:115C 0100007F:9C40 01 00000000:00000000 00:00000000 00000000     0        0 1002 1 0000000000000000 20 4 30 10 -1
   2: 0100007F:115D 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1003 1 0000000000000000 100 0 0 10 0
`
	if got := listening(table, 0x115C); !slices.Equal(got, []string{"socket:[1001]"}) {
		t.Errorf("sockets: %q", got)
	}
}

func TestIsQEMU(t *testing.T) {
	t.Parallel()
	const id = "5b6a2b6c-7a0a-4a1f-9a3e-0123456789ab"
	for args, want := range map[string]bool{
		"/usr/bin/qemu-system-x86_64\x00-name\x00vm\x00-uuid\x00" + id + "\x00":        true,
		"/usr/bin/qemu-system-x86_64\x00-uuid\x005b6a2b6c-0000-0000-0000-000000000000": false,
		"/usr/bin/qemu-system-x86_64\x00-uuid":                                         false,
		"grep\x00-uuid\x00" + id:                                                       false,
		"":                                                                             false,
	} {
		if got := isQEMU(bytes.Split([]byte(args), []byte{0}), id); got != want {
			t.Errorf("%q: %t", args, got)
		}
	}
}
