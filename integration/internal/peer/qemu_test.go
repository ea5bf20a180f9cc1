package peer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// testContext is valid for minutes: the machine may be busy with other packages' guests.
func testContext(t *testing.T) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	return ctx
}

func TestGuest(t *testing.T) {
	Long(t, "boots the guest that nearly all other tests work with")
	t.Parallel()
	ctx := testContext(t)
	q := Start(t, Options{Guest: true})
	start := time.Now()
	must.OK(t, q.Guest().WaitBoot(ctx))
	t.Logf("booted in %v", time.Since(start))
	// One guest for all, as a boot takes seconds; the reset comes last.
	t.Run("commands", func(t *testing.T) { guestRunsCommands(ctx, t, q.Guest()) })
	t.Run("abandoned command", func(t *testing.T) { guestSurvivesAnAbandonedCommand(ctx, t, q.Guest()) })
	t.Run("reset", func(t *testing.T) { resetBootsAgain(ctx, t, q) })
}

func guestRunsCommands(ctx context.Context, t *testing.T, g *Guest) {
	out, err := g.Run(ctx, "echo out; echo err >&2; printf 'no line feed'")
	if err != nil || out != "out\nerr\nno line feed" {
		t.Errorf("output %q, error %v", out, err)
	}
	var exit *ExitError
	if _, err := g.Run(ctx, "echo why; exit 7"); !errors.As(err, &exit) || exit.Status != 7 || exit.Output != "why\n" {
		t.Errorf("a failing command gave %v", err)
	}
	if _, err := g.Run(ctx, strings.Repeat("x", commandLimit+1)); err == nil {
		t.Error("a command that does not fit into the terminal's buffer was sent")
	}
	if out, err := g.Run(ctx, ":"+strings.Repeat(" ", commandLimit-8)+"; echo"); err != nil || out != "\n" {
		t.Errorf("the longest command gave %q, error %v", out, err)
	}
	big, err := g.Run(ctx, "yes 0123456789 | head -c 200000")
	if err != nil || len(big) != 200000 {
		t.Errorf("200,000 bytes arrived as %d, error %v", len(big), err)
	}
}

func guestSurvivesAnAbandonedCommand(ctx context.Context, t *testing.T, g *Guest) {
	short, cancel := context.WithTimeout(ctx, 50*time.Millisecond)
	defer cancel()
	if _, err := g.Run(short, "echo early; usleep 500000; echo late"); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("a command longer than its context gave %v", err)
	}
	if out, err := g.Run(ctx, "echo next"); err != nil || out != "next\n" {
		t.Errorf("the command after it gave %q, error %v", out, err)
	}
}

func resetBootsAgain(ctx context.Context, t *testing.T, q *QEMU) {
	_, err := q.Guest().Run(ctx, "touch /tmp/before")
	must.OK(t, err)
	must.OK(t, q.Reset(ctx))
	var exit *ExitError
	if _, err := q.Guest().Run(ctx, "[ -e /tmp/before ]"); !errors.As(err, &exit) {
		t.Errorf("after a reset the old file is there, or the guest is not: %v", err)
	}
}

// plug is a device that is plugged without luksplug.
type plug struct {
	name    string
	options Options
	device  map[string]any
}

func plugs() []plug {
	return []plug{
		{"virtio on q35", Options{RootPorts: 1}, map[string]any{"driver": "virtio-blk-pci", "bus": "rp1", "serial": "peer-disk"}},
		{"virtio on q35, native hotplug", Options{RootPorts: 1, NativeHotplug: true}, map[string]any{"driver": "virtio-blk-pci", "bus": "rp1", "serial": "peer-disk"}},
		{"virtio on i440fx", Options{Machine: I440FX}, map[string]any{"driver": "virtio-blk-pci", "serial": "peer-disk"}},
		{"scsi", Options{SCSI: true}, map[string]any{"driver": "scsi-hd", "bus": "scsi0.0", "serial": "peer-disk"}},
		{"usb", Options{USB: true}, map[string]any{"driver": "usb-storage", "bus": "usb.0"}},
	}
}

func TestPlugAndUnplug(t *testing.T) {
	Long(t, "boots the guest, to plug what other tests plug in every run")
	t.Parallel()
	for _, p := range plugs() {
		t.Run(p.name, func(t *testing.T) {
			t.Parallel()
			if p.options.USB {
				Long(t, "USB needs the full kernel, which takes long to boot")
			}
			ctx := testContext(t)
			p.options.Guest = true
			plugByHand(ctx, t, Start(t, p.options), p.device)
		})
	}
}

// plugByHand plugs a raw disk, has the guest write it, and unplugs it.
func plugByHand(ctx context.Context, t *testing.T, q *QEMU, device map[string]any) {
	g := q.Guest()
	must.OK(t, g.WaitBoot(ctx))
	before := mustState(ctx, t, q)
	image := filepath.Join(t.TempDir(), "disk.raw")
	must.OK(t, os.WriteFile(image, nil, 0o600))
	must.OK(t, os.Truncate(image, 8*MiB))
	mustExecute(ctx, t, q, "blockdev-add", map[string]any{"driver": "file", "node-name": "peer-node", "filename": image})
	device["drive"], device["id"] = "peer-node", "peer-disk"
	mustExecute(ctx, t, q, "device_add", device)
	if diff := before.Diff(mustState(ctx, t, q)); len(diff) < 2 {
		t.Errorf("State sees only %v of a plugged disk", diff)
	}

	want := "peer-disk"
	if device["serial"] == nil {
		want = "sda"
	}
	dev, err := g.WaitDisk(ctx, want)
	must.OK(t, err)
	if size, err := g.SizeOf(ctx, dev); err != nil || size != 8*MiB {
		t.Errorf("size %d, error %v", size, err)
	}
	pattern := []byte("written by the guest. ")
	must.OK(t, g.WritePattern(ctx, dev, 3, 2, pattern))
	data, err := os.ReadFile(image)
	must.OK(t, err)
	full := string(Pattern(pattern))
	if got := string(data[3*MiB : 5*MiB]); got != full+full {
		t.Error("the image does not hold the pattern that the guest wrote")
	}
	if hash, err := g.ReadHash(ctx, dev, 3, 1); err != nil || hash != HashOf([]byte(full)) {
		t.Errorf("the guest reads back %s, error %v", hash, err)
	}

	mustExecute(ctx, t, q, "device_del", map[string]any{"id": "peer-disk"})
	m, err := q.Monitor(ctx)
	must.OK(t, err)
	must.OK(t, m.WaitDeleted(ctx, "peer-disk"))
	mustExecute(ctx, t, q, "blockdev-del", map[string]any{"node-name": "peer-node"})
	if err := g.WaitGone(ctx, dev); err != nil {
		t.Error(err)
	}
	if diff := before.Diff(mustState(ctx, t, q)); len(diff) != 0 {
		t.Errorf("after the unplug QEMU differs: %v", diff)
	}
}

func TestTCPMonitor(t *testing.T) {
	t.Parallel()
	q := Start(t, Options{Paused: true, TCP: true})
	conn, err := net.Dial("tcp", q.TCPAddress)
	must.OK(t, err)
	defer func() { _ = conn.Close() }()
	greeting := make([]byte, 8)
	if _, err := conn.Read(greeting); err != nil || string(greeting) != `{"QMP": ` {
		t.Errorf("the monitor on TCP greets with %q, error %v", greeting, err)
	}
}

func TestStartReportsWhyQEMUDoesNot(t *testing.T) {
	t.Parallel()
	_, err := Run(testContext(t), t.TempDir(), Options{Extra: []string{"-device", "no-such-device"}})
	if err == nil || !strings.Contains(err.Error(), "no-such-device") {
		t.Errorf("error %v does not carry QEMU's message", err)
	}
	_, err = Run(testContext(t), t.TempDir(), Options{Machine: I440FX, RootPorts: 1})
	if err == nil || !strings.Contains(err.Error(), "root ports") {
		t.Errorf("root ports on i440fx gave %v", err)
	}
}

func TestCloseReportsAnEarlyEnd(t *testing.T) {
	t.Parallel()
	ctx := testContext(t)
	q, err := Run(ctx, t.TempDir(), Options{Paused: true})
	must.OK(t, err)
	mustExecute(ctx, t, q, "quit", nil)
	<-q.process.done
	if err := q.Close(); err == nil {
		t.Error("a QEMU that ended by itself was closed without an error")
	}
	if err := q.Close(); err != nil {
		t.Errorf("second Close: %v", err)
	}
}

// mustExecute runs a command that has to succeed.
func mustExecute(ctx context.Context, t *testing.T, q *QEMU, command string, args any) {
	t.Helper()
	_, err := q.Query(ctx, command, args)
	must.OK(t, err)
}

// mustState is q.State for a test.
func mustState(ctx context.Context, t *testing.T, q *QEMU) State {
	t.Helper()
	s, err := q.State(ctx)
	must.OK(t, err)
	return s
}

func ExampleState_Diff() {
	before := State{Nodes: []string{"disk0"}}
	after := State{Nodes: []string{"disk0", "leftover"}}
	fmt.Println(before.Diff(after))
	// Output: [nodes: + leftover]
}
