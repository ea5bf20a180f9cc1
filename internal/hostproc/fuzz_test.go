package hostproc

import (
	"net/netip"
	"strings"
	"testing"
)

// FuzzProc: the files of /proc are partly written by the processes themselves (the name in
// stat, the arguments in cmdline), and no content of them is an error of this program's.
func FuzzProc(f *testing.F) {
	const status = "Name:\tqemu\nUid:\t0\t64055\t0\t0\nGid:\t0\t109\t0\t0\nGroups:\t109 64055 \n"
	f.Add(status, "qemu-system-x86_64\x00-name\x00guest=vm1,debug-threads=on\x00-uuid\x00x\x00", 4445)
	f.Add("42 (a) b) c) S 1 42 42 0 -1 4194560 1 0 0 0 0 0 0 0 20 0 1 0 1234 0 0", "\x00", 0)
	f.Add("  sl  local_address\n   0: 0100007F:115C 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 1001 1", "kvm\x00-name\x00guest=a,,b", 65535)
	f.Add("Uid:\t4294967296\n", "-uuid\x00-uuid", -1)
	f.Fuzz(func(t *testing.T, text, cmdline string, port int) {
		if c, err := parseCredential(text); err == nil && c == nil {
			t.Error("neither a credential nor an error")
		}
		_, _ = parseStart(port, text) // must not panic
		local := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
		for _, inode := range append(listening(text, "/run/vm/qmp"), established(text, local, local)) {
			if strings.ContainsAny(inode, " \n") {
				t.Errorf("the inode %q", inode)
			}
		}
		args := strings.Split(cmdline, "\x00")
		if id, qemu := parseQEMU(args); !qemu && id != "" {
			t.Errorf("the UUID %q of no QEMU", id)
		}
		if name := guestName(args); name != "" && !strings.Contains(cmdline, "guest=") {
			t.Errorf("the guest %q", name)
		}
	})
}

func TestGuestName(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"guest=vm1,debug-threads=on": "vm1", "guest=vm1": "vm1", "guest=a,,b,x=y": "a,b", "vm1": "", "": "", "guest=": "", "guest=a,": "a",
	} {
		if got := guestName([]string{"qemu", "-name", text}); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
	if got := guestName([]string{"qemu", "-name"}); got != "" {
		t.Errorf("without a value: %q", got)
	}
}
