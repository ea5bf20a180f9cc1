package integration

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestNoStall queries a second monitor while a volume with a usual number of key derivation rounds is
// attached. With luksplug the longest gap is a small part of that with QEMU. Only the ratio counts, which a
// busy machine changes little: luksplug has five attempts.
func TestNoStall(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 1, SCSI: true, Paused: true})
	before := stateOf(ctx, t, q)
	v := peer.NewFormatted(t, peer.DetachedRaw, "--type", "luks1", "--pbkdf-force-iterations", "1600000")
	p := newPlug(t, q, v, "sdb", "scsi", "")
	gap := func(unlock string) time.Duration {
		t.Helper()
		p.unlock = unlock
		longest := longestGap(ctx, t, q, 0, func() { p.attach(ctx, t) })
		p.detach(ctx, t)
		wantSame(ctx, t, q, before)
		return longest
	}
	own := gap("qemu")
	const smallPart = 20
	var gaps []time.Duration
	for range 5 {
		g := gap("auto")
		gaps = append(gaps, g)
		if g*smallPart < own {
			t.Logf("QEMU itself blocks its monitor for %v, luksplug for %v", own, g)
			return
		}
	}
	t.Errorf("with luksplug the longest gaps are %v, and if QEMU unlocks the volume %v, which should be more than %d times as long", gaps, own, smallPart)
}

// longestGap returns the longest time that QEMU took to answer a query while do ran. pause is the time between
// an answer and the next query.
func longestGap(ctx context.Context, t *testing.T, q *peer.QEMU, pause time.Duration, do func()) time.Duration {
	t.Helper()
	asking, stop := context.WithCancel(ctx)
	defer stop()
	longest := make(chan time.Duration, 1)
	go func() {
		var gap time.Duration
		defer func() { longest <- gap }()
		for asking.Err() == nil {
			asked := time.Now()
			if _, err := q.Query(ctx, "query-status", nil); err != nil {
				t.Errorf("the VM does not answer: %v", err)
				return
			}
			gap = max(gap, time.Since(asked))
			select {
			case <-asking.Done():
			case <-time.After(pause):
			}
		}
	}()
	do()
	stop()
	return <-longest
}

// TestWarnsOfTheStall: if QEMU must unlock a volume, a warning says for how long the guest will pause, and how
// to avoid that.
func TestWarnsOfTheStall(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.Qcow2LUKS), "sdb", "scsi", "")
	for unlock, warns := range map[string]bool{"auto": true, "qemu": false, "external": false} {
		p.unlock = unlock
		got := tool(ctx, t, q.Socket, p.attachArgs()...).want(t, 0)
		for _, says := range []string{"level=warning", "the guest stalls", "inside of a qcow2 image", "--unlock external", "for about ", " s ("} {
			if strings.Contains(got.stderr, says) != warns {
				t.Errorf("--unlock %s says %q: %v, want %v: %s", unlock, says, !warns, warns, got.stderr)
			}
		}
		p.detach(ctx, t)
	}
}

// TestQuestionsThatHoldQEMU: luksplug does not query a VM's schema, which takes long, if it is cached from
// another process of the same program.
func TestQuestionsThatHoldQEMU(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	p := newPlug(t, q, peer.NewVolume(t, peer.EmbeddedLUKS), "sdb", "scsi", "")
	trace := filepath.Join(t.TempDir(), "trace")
	// No proxy: the process at the other end of the socket must be QEMU.
	tool(ctx, t, q.Socket, append([]string{"--trace", trace}, p.attachArgs()...)...).want(t, 0)
	asked := 0
	for line := range strings.Lines(string(must.Get(os.ReadFile(trace))(t))) {
		var entry struct{ Message struct{ Execute string } }
		must.OK(t, json.Unmarshal([]byte(line), &entry))
		if entry.Message.Execute != "" {
			asked++
		}
		if entry.Message.Execute == "query-qmp-schema" {
			t.Error("the VM was queried for its schema")
		}
	}
	if asked < 10 {
		t.Errorf("the trace has only %d commands", asked)
	}
	p.detach(ctx, t)
}
