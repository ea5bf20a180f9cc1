package qmp

import (
	"bytes"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// useMonitor is what to do when an address is not that of a monitor.
const useMonitor = "name the socket that QEMU's option -qmp makes"

// dialError says why there is no connection to an address, and what to do.
func dialError(address, network, target string, err error) error {
	why := dialing.TCP(err)
	actions := map[dialing.Kind]string{
		dialing.Dead:    ": is the VM running, with -qmp tcp:...?",
		dialing.Silent:  ": correct the address, or look at the firewall between",
		dialing.Address: ": write it like tcp:localhost:4444, or /run/vm1.qmp for a socket",
	}
	if network == "unix" {
		why = dialing.Unix(target, err)
		actions = map[dialing.Kind]string{
			dialing.Missing:   ": is the VM running, with -qmp?",
			dialing.Dead:      ", so the VM that made the socket is gone: start the VM",
			dialing.Denied:    ": run as root or as QEMU's user",
			dialing.Busy:      ": QEMU serves one client at a time",
			dialing.NotSocket: ": " + useMonitor,
			dialing.Silent:    ": try again with more time",
		}
	}
	return &dialing.Error{Text: "cannot connect to QMP monitor " + address + ": " + why.Text + actions[why.Kind], Err: err}
}

// greetings are how other servers begin, and what they are.
var greetings = []struct{ begin, server string }{
	{"QEMU ", "QEMU's human monitor does"}, // monitor/hmp.c
	{"SSH-", "an SSH server does"},         // RFC 4253, section 4.2
	{"RFB ", "a VNC server does"},          // RFC 6143, section 7.1.1
	{"HTTP/", "a web server does"},         // RFC 9112, section 4
}

// foreign is the error for a peer that has sent a text in place of QEMU's greeting.
func foreign(text []byte) error {
	text = bytes.TrimSpace(text)
	like := ""
	for _, g := range greetings {
		if bytes.HasPrefix(text, []byte(g.begin)) {
			like = ", as " + g.server
		}
	}
	const shown = 40
	return fmt.Errorf("%w: it begins with %.*q%s: %s", ErrProtocol, shown, strings.ToValidUTF8(string(text[:min(len(text), shown)]), "?"), like, useMonitor)
}

// mute is the text for a peer that has not greeted in time.
func mute(conn net.Conn) string {
	const (
		busy  = "another client probably holds the monitor, which serves one at a time; close that one, or give QEMU a second -qmp"
		other = "the socket of a guest agent, a console, SPICE or libvirt would do the same: " + useMonitor
	)
	who := "the peer"
	if pid := hostproc.PeerPID(conn); pid != 0 {
		who = fmt.Sprintf("process %d", pid)
		if name, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", pid)); err == nil {
			who += fmt.Sprintf(" (%s)", strings.TrimSpace(string(name)))
		}
	}
	switch queueOf(conn) {
	case queued:
		return "the connection waits to be taken by " + who + ": " + busy
	case taken:
		return who + " has taken the connection and says nothing, where a monitor would greet: " + other
	}
	return who + " says nothing: " + busy + "; or it is no monitor: " + other
}

// A queue is where a connection to a unix socket is.
type queue string

const (
	queueUnknown queue = ""
	queued       queue = "waits to be taken"
	taken        queue = "was taken by the server"
)

// queueOf looks a connection up in /proc/net/unix (proc_net_unix(5)). The path there is as the server has given it, so
// that only its last part counts. Another client's connection to a socket of that name may also be the one that waits.
func queueOf(conn net.Conn) queue {
	address := conn.RemoteAddr()
	if address == nil || address.Network() != "unix" || address.String() == "" {
		return queueUnknown
	}
	table, err := os.ReadFile("/proc/net/unix")
	if err != nil {
		return queueUnknown
	}
	return queueIn(string(table), filepath.Base(address.String()))
}

func queueIn(table, name string) queue {
	const columns, listening = 8, "00010000"
	found := queueUnknown
	for line := range strings.Lines(table) {
		f := strings.Fields(line)
		if len(f) < columns || filepath.Base(strings.Join(f[columns-1:], " ")) != name {
			continue
		}
		switch flags, inode := f[3], f[6]; {
		case inode == "0":
			return queued // no process has a descriptor of it yet
		case flags == listening:
			found = taken
		}
	}
	return found
}
