package hostproc

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// FindQEMU returns the id of the process of user uid that is a QEMU with that
// UUID. It returns 0 if there is none or more than one.
func FindQEMU(uuid string, uid uint32) int {
	found := 0
	for _, pid := range processes() {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !isQEMU(bytes.Split(args, []byte{0}), uuid) {
			continue
		}
		if c, err := CredentialOf(pid); err != nil || c.UID != uid {
			continue
		}
		if found != 0 {
			return 0
		}
		found = pid
	}
	return found
}

// isQEMU reports whether the arguments are those of a QEMU with that UUID.
func isQEMU(args [][]byte, uuid string) bool {
	i := slices.IndexFunc(args, func(a []byte) bool { return string(a) == "-uuid" })
	program := filepath.Base(string(args[0]))
	return i > 0 && i+1 < len(args) && string(args[i+1]) == uuid && (strings.HasPrefix(program, "qemu") || strings.HasPrefix(program, "kvm"))
}

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

// Listener returns the id of the process that listens on a TCP port of this machine. It fails if none can be
// seen: only root sees the descriptors of other users' processes.
func Listener(port int) (int, error) {
	var sockets []string
	for _, table := range []string{"/proc/net/tcp", "/proc/net/tcp6"} {
		text, err := os.ReadFile(table)
		if err == nil {
			sockets = append(sockets, listening(string(text), port)...)
		}
	}
	for _, pid := range processes() {
		dir := fmt.Sprintf("/proc/%d/fd", pid)
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue // ended, or another user's
		}
		for _, e := range entries {
			if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && slices.Contains(sockets, link) {
				return pid, nil
			}
		}
	}
	return 0, fmt.Errorf("the process that listens on port %d cannot be seen", port)
}

// listening returns the sockets that listen on a port, as /proc names them among
// a process's descriptors. The table is that of proc_pid_net(5): the second
// column is the local address, the fourth the state, the tenth the inode.
func listening(table string, port int) []string {
	const address, state, inode, columns = 1, 3, 9, 10
	const listen = "0A"
	var out []string
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < columns || f[state] != listen {
			continue
		}
		_, local, _ := strings.Cut(f[address], ":")
		b, err := hex.DecodeString(local)
		if err == nil && len(b) == 2 && int(b[0])<<8|int(b[1]) == port {
			out = append(out, "socket:["+f[inode]+"]")
		}
	}
	return out
}

// FindQEMUs returns the ids of the processes of the users that are a QEMU with that UUID.
func FindQEMUs(uuid string, users []uint32) []int {
	var out []int
	for _, pid := range processes() {
		args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if err != nil || !isQEMU(bytes.Split(args, []byte{0}), uuid) {
			continue
		}
		if c, err := CredentialOf(pid); err == nil && slices.Contains(users, c.UID) {
			out = append(out, pid)
		}
	}
	return out
}

// GuestName returns the name that libvirt gave a QEMU's guest (-name guest=NAME,...); "" if
// there is none.
func GuestName(pid int) string {
	args, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	if err != nil {
		return ""
	}
	return guestName(strings.Split(string(args), "\x00"))
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
