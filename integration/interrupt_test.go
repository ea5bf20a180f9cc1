package integration

import (
	"bytes"
	"encoding/binary"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestInterruptedUnlocking: an interrupted key derivation ends at once, and the VM is not changed.
func TestInterruptedUnlocking(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	before := stateOf(ctx, t, q)
	// Minutes of work.
	v := peer.NewVolume(t, peer.DetachedRaw)
	slow := slowHeader(t, v)
	args := attachArgs(t, v, edited(t, v.DiskXML("sdb", "scsi"), v.Header, slow))
	for name, signal := range map[string]os.Signal{"by the user": os.Interrupt, "by a service manager": syscall.SIGTERM, "by its time limit": nil} {
		t.Run(name, func(t *testing.T) {
			proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
			limit := "1m"
			if signal == nil {
				limit = "3s"
			}
			b := start(ctx, t, proxy.Address, append([]string{"--timeout", limit, "-v"}, args...)...)
			eventually(ctx, t, "the program works on the key", func() bool {
				return busy(t, b.cmd.Process.Pid) > 200*time.Millisecond || b.isOver()
			})
			if signal != nil {
				must.OK(t, b.cmd.Process.Signal(signal))
			}
			asked := time.Now()
			r := b.end(ctx, t)
			if took := time.Since(asked); took > 4*time.Second {
				t.Errorf("ended after %v", took)
			}
			if r.code != 1 || !strings.Contains(r.stderr, "nothing was changed") {
				t.Errorf("exit code %d, want 1: %s", r.code, r.stderr)
			}
			wantNoSteps(t, proxy)
			wantSame(ctx, t, q, before)
		})
	}
}

// TestSecondInterrupt: while QEMU does not answer, the first signal says at once that the attach is undone, and the second
// one ends the program, and names what it leaves and the command that removes it.
func TestSecondInterrupt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	v := peer.NewVolume(t, peer.DetachedRaw)
	stalled, ended := make(chan struct{}), make(chan struct{})
	var once sync.Once
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if c.Name == "blockdev-add" && strings.Contains(string(c.Bytes), `"luksplug-sdb-luks"`) {
			once.Do(func() { close(stalled) })
		}
		select {
		case <-stalled: // QEMU does not answer from now on
			<-ended
			return peer.Verdict{Cut: peer.CutBeforeForward}
		default:
			return peer.Verdict{}
		}
	}})
	t.Cleanup(func() { close(ended) }) // before the end of the proxy, which waits for its hooks
	b := start(ctx, t, proxy.Address, append([]string{"--timeout", "1m"}, append(attachArgs(t, v, v.DiskXML("sdb", "scsi")), "--unlock", "qemu")...)...)
	select {
	case <-stalled:
	case <-b.ended:
		t.Fatalf("it has ended: %s", b.result(t).stderr)
	}
	must.OK(t, b.cmd.Process.Signal(os.Interrupt))
	asked := time.Now()
	b.waitStderr(ctx, t, "undoing what was begun")
	must.OK(t, b.cmd.Process.Signal(os.Interrupt))
	r := b.result(t)
	if took := time.Since(asked); took > 5*time.Second || r.code != -1 {
		t.Errorf("ended after %v with exit code %d", took, r.code)
	}
	for _, want := range []string{"node luksplug-sdb-payload-storage", "object luksplug-sdb-secret0", "node luksplug-sdb-luks", "luksplug --qmp " + proxy.Address + " repair"} {
		if !strings.Contains(r.stderr, want) {
			t.Errorf("standard error does not name %q: %s", want, r.stderr)
		}
	}
}

// slowHeader copies a LUKS1 header and has its first key slot take two thousand million iterations (LUKS
// On-Disk Format Specification 1.2.3, 2.1: at byte 4 of a slot).
func slowHeader(t *testing.T, v *peer.Volume) string {
	t.Helper()
	header := must.Get(os.ReadFile(v.Header))(t)
	const firstSlot = 208
	binary.BigEndian.PutUint32(header[firstSlot+4:], 2_000_000_000)
	return writeFile(t, "slow.hdr", string(header))
}

// busy returns the processor time of a process: utime of proc(5), in user ticks of a hundredth of a second.
func busy(t *testing.T, pid int) time.Duration {
	t.Helper()
	stat, err := os.ReadFile(filepath.Join(procDir(pid), "stat"))
	if err != nil {
		return 0 // it has ended, which the test detects otherwise
	}
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	ticks := must.Get(strconv.Atoi(fields[11]))(t)
	return time.Duration(ticks) * 10 * time.Millisecond
}
