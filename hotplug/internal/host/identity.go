package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strconv"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
)

// Known is what is known of a VM without its QEMU's word.
type Known struct {
	// Name names the VM; "" for none.
	Name string
	// Local is true if the VM runs on this machine.
	Local bool
	// UUID is the VM's UUID as its manager, such as libvirt, has it; "" without a manager.
	UUID string
	// Process returns the VM's process; nil for the one at the other end of the monitor's
	// connection.
	Process func(ctx context.Context) (*Process, error)
}

// Identity identifies a VM on this host.
type Identity struct {
	// ID names its directory and its lock: the VM's UUID, or for a VM without one the
	// process, or what little else is known.
	ID string
	// UUID is the VM's UUID if its manager or its process confirms it, "" otherwise.
	UUID string
	// Process is its process, nil if that is unknown; Err is then the reason.
	Process *Process
	Err     error
}

// Same reports whether other identifies the same VM.
func (i Identity) Same(other Identity) bool {
	return i.ID == other.ID && i.pid() == other.pid()
}

func (i Identity) pid() int {
	if i.Process == nil {
		return 0
	}
	return i.Process.PID
}

// Identify determines of which VM a monitor is. QEMU's own word is not enough, because a
// QEMU is as trustworthy as its guest:
//
//   - With a manager, the UUID is the manager's.
//   - Otherwise it is that among the arguments of the process at the other end.
//   - A process that is not a QEMU, such as a proxy, and one that cannot be seen, has no
//     UUID: that of QEMU counts, unless another process of this machine has it.
//   - For a VM on another machine, that of QEMU counts, in a name that no VM of this
//     machine has.
//
// In the first two cases QEMU has to report the same UUID. The error is then an
// [*outcome.PreflightError] with [outcome.ErrIdentity]. Identify changes nothing.
func Identify(ctx context.Context, c *qmp.Client, k Known) (Identity, error) {
	reported, err := reportedUUID(ctx, c)
	if err != nil {
		return Identity{}, err
	}
	if k.UUID != "" && !strings.EqualFold(k.UUID, reported) {
		return Identity{}, outcome.NotThatVM("its manager has it under the UUID %s, and its QEMU reports %s", k.UUID, orNone(reported))
	}
	if !k.Local {
		return Identity{ID: k.remoteID(reported), UUID: strings.ToLower(k.UUID), Err: ErrOtherHost}, nil
	}
	var out Identity
	out.Process, out.Err = k.process(ctx, c)
	if out.Err != nil {
		out.Process = nil
	}
	pid := out.pid()
	if k.UUID != "" {
		out.UUID = strings.ToLower(k.UUID)
		out.ID = out.UUID
		return out, k.confirm(c, pid)
	}
	own, qemu := hostproc.QEMUOf(pid)
	switch {
	case qemu && own != reported:
		return Identity{}, outcome.NotThatVM("process %d, its QEMU, was started with the UUID %s, and reports %s", pid, orNone(own), orNone(reported))
	case !qemu && reported != "":
		if others := hostproc.FindQEMUs(reported); len(others) > 0 {
			return Identity{}, outcome.NotThatVM("%s reports the UUID %s, which is that of the QEMU with process id %d: use the monitor's own socket, or name the VM's process",
				peerName(pid, out.Err), reported, others[0])
		}
	}
	if qemu {
		out.UUID = own
	}
	switch {
	case reported != "":
		out.ID = reported
	case pid != 0:
		out.ID = "pid-" + strconv.Itoa(pid)
	default:
		out.ID = k.anonymous()
	}
	return out, nil
}

// confirm checks what is known of the process of a VM with a manager.
func (k Known) confirm(c *qmp.Client, pid int) error {
	if own, qemu := hostproc.QEMUOf(pid); qemu && own != "" && !strings.EqualFold(own, k.UUID) {
		return outcome.NotThatVM("its manager has it under the UUID %s, and process %d, its QEMU, was started with %s", k.UUID, pid, own)
	}
	peer, known := c.PeerPID()
	if own, qemu := hostproc.QEMUOf(peer); known && qemu && !strings.EqualFold(own, k.UUID) {
		return outcome.NotThatVM("its manager has it under the UUID %s, and the QEMU at its monitor, process %d, was started with %s", k.UUID, peer, orNone(own))
	}
	return nil
}

func orNone(uuid string) string {
	if uuid == "" {
		return "none"
	}
	return uuid
}

// peerName names the other end of a monitor's connection that is no known QEMU.
func peerName(pid int, err error) string {
	if pid == 0 {
		return fmt.Sprintf("the monitor, whose process is unknown (%v),", err)
	}
	return fmt.Sprintf("the monitor, where process %d answers, which is no QEMU,", pid)
}

// reportedUUID queries QEMU for the UUID of the VM; "" for a VM without one.
func reportedUUID(ctx context.Context, c *qmp.Client) (string, error) {
	query := qmp.Command{Execute: "query-uuid"}
	value, err := c.Execute(ctx, query)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return "", &outcome.NoAnswerError{Err: err}
	case err != nil:
		return "", err
	}
	var answer struct{ UUID string }
	if err := monitor.Decode(value, &answer, query); err != nil {
		return "", err
	}
	id, err := uuid.Parse(answer.UUID)
	switch {
	case err != nil || len(answer.UUID) != len(uuid.Nil.String()):
		text, _ := json.Marshal(answer.UUID) // a string always encodes
		return "", outcome.NotThatVM("its QEMU reports %s, which is no UUID", text)
	case id == uuid.Nil:
		return "", nil
	}
	return id.String(), nil
}

// process returns the VM's process.
func (k Known) process(ctx context.Context, c *qmp.Client) (*Process, error) {
	if k.Process != nil {
		return k.Process(ctx)
	}
	pid, err := PeerOf(c)
	if err != nil {
		return nil, err
	}
	return LookUpProcess(pid)
}

var errProcessUnknown = errors.New("the VM's process is not known over this monitor")

// PeerOf returns the process id of the QEMU at the other end of a connection to a monitor
// on this machine. If the kernel names another process, such as a service manager that has
// passed a socket to QEMU, it is the QEMU that has this socket; a proxy is returned itself.
func PeerOf(c *qmp.Client) (int, error) {
	local, remote := c.Addresses()
	if pid, known := c.PeerPID(); known {
		if _, qemu := hostproc.QEMUOf(pid); qemu || remote == nil {
			return pid, nil
		}
		found := 0
		for _, holder := range hostproc.Listeners(remote.String()) {
			if _, qemu := hostproc.QEMUOf(holder); !qemu {
				continue
			}
			if found != 0 {
				return pid, nil // several VMs at one socket: none of them is known to be this one
			}
			found = holder
		}
		if found != 0 {
			return found, nil
		}
		return pid, nil
	}
	from, ok := local.(*net.TCPAddr)
	to, alsoTCP := remote.(*net.TCPAddr)
	if !ok || !alsoTCP {
		return 0, errProcessUnknown
	}
	pid, err := hostproc.TCPPeer(from.AddrPort(), to.AddrPort())
	if err != nil {
		return 0, fmt.Errorf("%w: run luksplug as root, or use the monitor's unix socket", err)
	}
	return pid, nil
}

// remoteID returns the identity of a VM of another machine.
func (k Known) remoteID(reported string) string {
	switch {
	case k.UUID != "":
		return strings.ToLower(k.UUID)
	case reported != "":
		return "remote-" + reported
	}
	return k.anonymous()
}

// anonymous returns the identity of a VM of which neither a UUID nor a process is known.
func (k Known) anonymous() string {
	if k.Name != "" {
		return "name-" + strings.Map(fileName, k.Name)
	}
	return "unnamed"
}

// fileName keeps characters that are safe in the name of a file.
func fileName(r rune) rune {
	if 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || '0' <= r && r <= '9' || r == '-' || r == '_' {
		return r
	}
	return '_'
}
