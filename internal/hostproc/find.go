package hostproc

import (
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// processes returns the ids of all processes of this machine.
func processes() []int {
	entries, err := os.ReadDir("/proc")
	if err != nil {
		return nil
	}
	var out []int
	for _, e := range entries {
		if pid, err := strconv.Atoi(e.Name()); err == nil {
			out = append(out, pid)
		}
	}
	return out
}

// holders returns the ids of the processes that have one of the sockets open. Only root sees the descriptors of
// other users' processes.
func holders(inodes ...string) []int {
	var out []int
	for _, pid := range processes() {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // ended, or another user's
		}
		for _, e := range entries {
			link, _ := os.Readlink(filepath.Join(dir, e.Name())) // it may be closed by now
			if inode, found := strings.CutPrefix(link, "socket:["); found && slices.Contains(inodes, strings.TrimSuffix(inode, "]")) {
				out = append(out, pid)
				break
			}
		}
	}
	return out
}

// ErrUnseen reports that the process at the other end of a connection cannot be determined.
var ErrUnseen = errors.New("the process at the other end cannot be seen")

// TCPPeer returns the id of the process at the other end of a TCP connection, which has to be on this machine and
// in the network namespace of this process. local and remote are the addresses of this end. Both ends are found by
// the addresses and ports of both: other sockets may have the same port on another address.
//
// The error wraps [ErrUnseen]. Only root sees the descriptors of other users' processes.
func TCPPeer(local, remote netip.AddrPort) (int, error) {
	near, far := "", ""
	for _, table := range []string{"/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"} {
		text, _ := os.ReadFile(table) // a kernel without IPv6 has one of them
		near += established(string(text), local, remote)
		far += established(string(text), remote, local)
	}
	switch {
	case near == "": // so these are the connections of another namespace
		return 0, fmt.Errorf("%w: the connection from %s to %s is not in this network namespace", ErrUnseen, local, remote)
	case far == "":
		return 0, fmt.Errorf("%w: the other end of the connection from %s to %s is not on this machine, or in another network namespace", ErrUnseen, local, remote)
	}
	switch pids := holders(far); len(pids) {
	case 0:
		return 0, fmt.Errorf("%w: no visible process has the other end of the connection from %s to %s", ErrUnseen, local, remote)
	case 1:
		return pids[0], nil
	default:
		return 0, fmt.Errorf("%w: several processes have the other end of the connection from %s to %s: %v", ErrUnseen, local, remote, pids)
	}
}

// established returns the inode of the established socket with these two addresses, "" if there is none. The table
// is that of proc_pid_net(5): the second and third columns are the addresses, the fourth the state, the tenth the
// inode.
func established(table string, local, remote netip.AddrPort) string {
	const own, other, state, inode, columns = 1, 2, 3, 9, 10
	const connected = "01"
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < columns || f[state] != connected || f[inode] == "0" {
			continue
		}
		if address(f[own]) == plain(local) && address(f[other]) == plain(remote) {
			return f[inode]
		}
	}
	return ""
}

// plain returns an address as [address] does: without a zone, and without the form of an IPv4 address in IPv6.
func plain(a netip.AddrPort) netip.AddrPort {
	return netip.AddrPortFrom(a.Addr().Unmap().WithZone(""), a.Port())
}

// address parses an address of /proc/net/tcp or tcp6: words of 32 bits in the machine's byte order, and the port. It
// returns the zero address for another text.
func address(text string) netip.AddrPort {
	host, service, _ := strings.Cut(text, ":")
	b, err := hex.DecodeString(host)
	port, portErr := strconv.ParseUint(service, 16, 16)
	const word = 4
	if err != nil || portErr != nil || len(b)%word != 0 {
		return netip.AddrPort{}
	}
	for i := 0; i < len(b); i += word {
		binary.BigEndian.PutUint32(b[i:], binary.NativeEndian.Uint32(b[i:]))
	}
	ip, ok := netip.AddrFromSlice(b)
	if !ok {
		return netip.AddrPort{}
	}
	return netip.AddrPortFrom(ip.Unmap(), uint16(port))
}

// Listeners returns the ids of the visible processes that have the listening unix socket at that path open. The
// kernel names only the one that called listen, such as a service manager that passes the socket on.
func Listeners(path string) []int {
	text, _ := os.ReadFile("/proc/thread-self/net/unix") // every Linux has it
	inodes := listening(string(text), path)
	if len(inodes) == 0 {
		return nil
	}
	return holders(inodes...)
}

// listening returns the inodes of the listening sockets at a path. The table is that of proc_pid_net(5): the fourth
// column has the flags (__SO_ACCEPTCON), the seventh the inode, the eighth the path.
func listening(table, path string) []string {
	const flags, inode, bound, columns = 3, 6, 7, 8
	const accepts = "00010000"
	var out []string
	for line := range strings.Lines(table) {
		f := strings.SplitN(strings.Join(strings.Fields(line), " "), " ", columns) // the path may have spaces
		if len(f) == columns && f[flags] == accepts && f[bound] == path {
			out = append(out, f[inode])
		}
	}
	return out
}

// GuestName returns the name that libvirt gave a QEMU's guest (-name guest=NAME,...); "" if
// there is none.
func GuestName(pid int) string {
	args, err := arguments(pid)
	if err != nil {
		return ""
	}
	return guestName(args)
}

// guestName returns the name in arguments. QEMU writes a comma in a value twice.
func guestName(args []string) string {
	i := slices.Index(args, "-name")
	if i < 0 || i+1 >= len(args) {
		return ""
	}
	name, found := strings.CutPrefix(args[i+1], "guest=")
	if !found {
		return ""
	}
	var out strings.Builder
	for at := 0; at < len(name); at++ {
		if name[at] == ',' {
			if at+1 >= len(name) || name[at+1] != ',' {
				break
			}
			at++
		}
		out.WriteByte(name[at])
	}
	return out.String()
}
