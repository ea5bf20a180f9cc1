package peer

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
)

// Machine is one of QEMU's machine types.
type Machine string

const (
	// Q35 has PCI Express: a disk is hot-plugged into a free root port.
	Q35 Machine = "q35"
	// I440FX has one PCI bus that takes a hot plug in any free slot.
	I440FX Machine = "pc"
)

// Options describe a QEMU. The zero value is a q35 machine without a free port, a guest or a controller.
type Options struct {
	Binary        string   // default qemu-system-x86_64
	Machine       Machine  // default Q35
	RootPorts     int      // q35: this many pcie-root-ports, rp1 and so on
	SCSI          bool     // a virtio-scsi-pci with the id scsi0
	USB           bool     // a qemu-xhci with the id usb
	Paused        bool     // -S: no guest code runs until "cont"
	Guest         bool     // boot the small Linux guest
	Kernel        Flavour  // of the guest; default CloudKernel, FullKernel with USB
	NativeHotplug bool     // q35: root ports signal by PCI Express and not by ACPI
	TCP           bool     // a third monitor on loopback, see QEMU.TCPAddress
	Extra         []string // further arguments
	// Through is a program that starts QEMU, with its first arguments, which QEMU's command line follows. It
	// must become QEMU by exec, as setpriv does.
	Through []string
}

// QEMU is a running QEMU.
type QEMU struct {
	vm
	Socket     string // unix socket of the monitor for the tool under test
	TCPAddress string // host:port of the monitor on TCP, with Options.TCP
	PID        int
	UUID       string   // by which luksplug identifies the VM; an Extra -uuid counts instead
	Dir        string   // holds the sockets and logs
	Log        string   // QEMU's standard error
	Console    string   // the guest's first serial port: the kernel's messages
	Args       []string // QEMU's arguments

	process *process
	closed  bool
}

// Start runs QEMU for a test and kills it when the test ends. If the test has failed, it logs the ends of
// QEMU's messages and of the guest's console.
func Start(t testing.TB, o Options) *QEMU {
	t.Helper()
	return StartIn(t, shortDir(t, "qemu"), o)
}

// StartIn is Start with the sockets and logs in dir.
func StartIn(t testing.TB, dir string, o Options) *QEMU {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	q, err := Run(ctx, dir, o)
	must.OK(t, err)
	// Disks that are attached when the VM ends leave notes, which nothing needs any more.
	t.Cleanup(func() {
		for _, dir := range RunDirs(q.UUID) {
			_ = os.RemoveAll(dir)
		}
	})
	atEnd(t, func() {
		if err := q.Close(); err != nil {
			t.Errorf("stop QEMU: %v", err)
		}
	}, q.Log, q.Console)
	return q
}

// Run starts QEMU with its sockets and logs in dir, and returns when its monitors answer. The caller closes
// the result. ctx bounds the start only.
func Run(ctx context.Context, dir string, o Options) (*QEMU, error) {
	q := &QEMU{
		Socket:  filepath.Join(dir, "qmp.sock"),
		vm:      vm{Control: filepath.Join(dir, "control.sock")},
		Dir:     dir,
		Log:     filepath.Join(dir, "qemu.log"),
		Console: filepath.Join(dir, "console.log"),
		UUID:    uuid.NewString(),
	}
	args, err := q.arguments(ctx, o)
	if err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	q.Args = args
	line := slices.Concat(o.Through, []string{cmp.Or(o.Binary, "qemu-system-x86_64")}, args)
	if q.process, err = startTied(exec.Command(line[0], line[1:]...), q.Log); err != nil {
		return nil, fmt.Errorf("%w (make setup installs QEMU)", err)
	}
	q.PID = q.process.pid()
	monitors.Store(q.Socket, q.PID)
	if err := q.connect(ctx, o); err != nil {
		_ = q.Close() // the first error is the one to report
		return nil, fmt.Errorf("start QEMU: %w: %s", err, tail(q.Log, 2000))
	}
	return q, nil
}

// connect waits for the sockets and opens the guest's port.
func (q *QEMU) connect(ctx context.Context, o Options) error {
	for _, socket := range []string{q.Socket, q.Control} {
		if err := waitFor(ctx, q.process, socket, func() bool { return listening(q.process.pid(), socket) }); err != nil {
			return err
		}
	}
	// QEMU listens before it has made all devices. The answer to a command shows that it has.
	if _, err := q.Query(ctx, "query-status", nil); err != nil {
		return fmt.Errorf("QEMU does not answer: %w", err)
	}
	if o.Guest {
		var err error
		if q.guest, err = dialGuest(ctx, q.guestSocket()); err != nil {
			return err
		}
	}
	if o.TCP {
		return q.findTCP(ctx)
	}
	return nil
}

// errEnded is the error of a child that ended unexpectedly.
var errEnded = errors.New("it ended by itself")

// waitFor waits until ready returns true, ctx ends or the child ends.
func waitFor(ctx context.Context, p *process, what string, ready func() bool) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for !ready() {
		select {
		case <-p.done:
			return errors.Join(errEnded, p.err) // p.err is nil after exit status 0
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-tick.C:
		}
	}
	return nil
}

// listening reports whether a process listens on a unix socket in the network namespace of pid, by the flags
// column (__SO_ACCEPTCON, 00010000). A connection would occupy the monitor, which serves one client.
func listening(pid int, path string) bool {
	return inTable(fmt.Sprintf("/proc/%d/net/unix", pid), func(f []string) bool { return len(f) == 8 && f[7] == path && f[3] == "00010000" })
}

// findTCP queries QEMU for the port that the kernel chose.
func (q *QEMU) findTCP(ctx context.Context) error {
	reply, err := q.Query(ctx, "query-chardev", nil)
	if err != nil {
		return err
	}
	var devices []struct{ Label, Filename string }
	if err := json.Unmarshal(reply, &devices); err != nil {
		return fmt.Errorf("query-chardev: %w", err)
	}
	for _, d := range devices {
		if d.Label != "qmp-tcp" {
			continue
		}
		// "disconnected:tcp:127.0.0.1:40123,server=on"
		_, address, _ := strings.Cut(d.Filename, "tcp:")
		q.TCPAddress, _, _ = strings.Cut(address, ",")
		if _, _, err := net.SplitHostPort(q.TCPAddress); err != nil {
			return fmt.Errorf("query-chardev: no address in %q: %w", d.Filename, err)
		}
		return nil
	}
	return errors.New("query-chardev: no TCP monitor")
}

// guestSocket returns the unix socket of the guest's second serial port.
func (q *QEMU) guestSocket() string { return filepath.Join(q.Dir, "guest.sock") }

// arguments returns QEMU's command line.
func (q *QEMU) arguments(ctx context.Context, o Options) ([]string, error) {
	o.Machine = cmp.Or(o.Machine, Q35)
	if o.Machine != Q35 && (o.RootPorts > 0 || o.NativeHotplug) {
		return nil, fmt.Errorf("machine %s has no PCI Express root ports", o.Machine)
	}
	args := []string{
		"-nodefaults", "-no-user-config", "-display", "none",
		"-machine", string(o.Machine), "-accel", "tcg", "-m", "256",
		// luksplug identifies a VM without a UUID by its process.
		"-uuid", q.UUID,
		"-chardev", "socket,id=qmp,server=on,wait=off,path=" + q.Socket, "-mon", "chardev=qmp,mode=control",
		"-chardev", "socket,id=control,server=on,wait=off,path=" + q.Control, "-mon", "chardev=control,mode=control",
	}
	if o.TCP {
		args = append(args, "-chardev", "socket,id=qmp-tcp,server=on,wait=off,host=127.0.0.1,port=0", "-mon", "chardev=qmp-tcp,mode=control")
	}
	if o.NativeHotplug {
		args = append(args, "-global", "ICH9-LPC.acpi-pci-hotplug-with-bridge-support=off")
	}
	for i := range o.RootPorts {
		args = append(args, "-device", fmt.Sprintf("pcie-root-port,id=rp%d,chassis=%d,slot=%d", i+1, i+1, i+1))
	}
	if o.SCSI {
		args = append(args, "-device", "virtio-scsi-pci,id=scsi0")
	}
	if o.USB {
		args = append(args, "-device", "qemu-xhci,id=usb")
	}
	if o.Paused {
		args = append(args, "-S")
	}
	if o.Guest {
		guest, err := q.guestArguments(ctx, o)
		if err != nil {
			return nil, err
		}
		args = append(args, guest...)
	}
	return append(args, o.Extra...), nil
}

// guestArguments returns the arguments that boot the small guest.
func (q *QEMU) guestArguments(ctx context.Context, o Options) ([]string, error) {
	kernel := CloudKernel
	if o.USB {
		kernel = FullKernel
	}
	image, err := LoadGuestImage(ctx, cmp.Or(o.Kernel, kernel))
	if err != nil {
		return nil, err
	}
	return []string{
		"-kernel", image.Kernel, "-initrd", image.Initrd,
		"-append", guestCommandLine,
		"-chardev", "file,id=console,path=" + q.Console, "-serial", "chardev:console",
		"-chardev", "socket,id=guest,server=on,wait=off,path=" + q.guestSocket(), "-serial", "chardev:guest",
	}, nil
}

// Query runs a command on the control monitor. A failure that QEMU reports is a *CommandError.
func (q *QEMU) Query(ctx context.Context, command string, args any) (json.RawMessage, error) {
	m, err := q.Monitor(ctx)
	if err != nil {
		return nil, err
	}
	return m.Execute(ctx, command, args)
}

// Reset resets the machine; the guest boots again.
func (q *QEMU) Reset(ctx context.Context) error {
	if q.guest != nil {
		q.guest.restarted()
	}
	_, err := q.Query(ctx, "system_reset", nil)
	return err
}

// Alive reports whether QEMU runs.
func (q *QEMU) Alive() bool { return !q.process.exited() }

// Close kills QEMU. It returns an error if QEMU had already ended by itself, which is always a fault. It may
// be called again.
func (q *QEMU) Close() error {
	early := q.process.exited()
	q.process.kill()
	q.disconnect()
	first := !q.closed
	q.closed = true
	if early && first {
		return fmt.Errorf("QEMU: %w: %s", errors.Join(errEnded, q.process.err), tail(q.Log, 2000))
	}
	return nil
}
