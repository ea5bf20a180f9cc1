package integration

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestTorture attaches and detaches disks while the monitor connection fails at random steps: the VM ends up
// as before. LUKSPLUG_TORTURE=DURATION, 1 for ten minutes, sets how long; LUKSPLUG_SEED=N repeats a run.
func TestTorture(t *testing.T) {
	length := tortureLength(t)
	seed := uint64(time.Now().UnixNano())
	if s := os.Getenv("LUKSPLUG_SEED"); s != "" {
		seed = must.Get(strconv.ParseUint(s, 10, 64))(t)
	}
	t.Logf("LUKSPLUG_SEED=%d", seed)
	for i, machine := range []peer.Machine{peer.Q35, peer.I440FX} {
		t.Run(string(machine), func(t *testing.T) {
			t.Parallel()
			ctx, cancel := context.WithTimeout(context.Background(), length+5*time.Minute)
			defer cancel()
			torture(ctx, t, machine, rand.New(rand.NewPCG(seed, uint64(i))), time.Now().Add(length))
		})
	}
}

func tortureLength(t *testing.T) time.Duration {
	t.Helper()
	switch v := os.Getenv("LUKSPLUG_TORTURE"); v {
	case "":
		t.Skip("runs for minutes: make torture")
	case "1":
		return 10 * time.Minute
	default:
		return must.Get(time.ParseDuration(v))(t)
	}
	return 0
}

func torture(ctx context.Context, t *testing.T, machine peer.Machine, dice *rand.Rand, end time.Time) {
	options := peer.Options{Machine: machine, SCSI: true, Guest: true}
	if machine == peer.Q35 {
		options.RootPorts = 3
	}
	q := booted(ctx, t, options)
	var volumes []*peer.Volume
	for _, kind := range peer.VolumeKinds() {
		volumes = append(volumes, peer.NewVolume(t, kind))
	}
	before := stateOf(ctx, t, q)
	codes := map[string]int{}
	rounds := 0
	for ; time.Now().Before(end); rounds++ {
		v := volumes[dice.IntN(len(volumes))]
		target, bus := "vdb", "virtio"
		if dice.IntN(2) == 0 {
			target, bus = "sdb", "scsi"
		}
		xml := writeFile(t, "disk.xml", v.DiskXML(target, bus))
		key := "--passphrase-file=" + v.PassphraseFile
		unlock := []string{"auto", "auto", "qemu", "external"}[dice.IntN(4)]

		r := tool(ctx, t, peer.NewProxy(t, q.Socket, fault(dice)).Address, key, "--timeout", "20s", "attach", "--unlock", unlock, xml)
		codes[fmt.Sprintf("attach by %s %d", unlock, r.code)]++
		if r.code != 0 && r.code != 6 && r.code != 7 {
			t.Fatalf("round %d: attach ended with %d: %s", rounds, r.code, r.stderr)
		}
		if r.code == 6 {
			wantSame(ctx, t, q, before)
		}
		tool(ctx, t, q.Socket, key, "attach", "--unlock", unlock, xml).want(t, 0)
		r = tool(ctx, t, peer.NewProxy(t, q.Socket, fault(dice)).Address, "--timeout", "20s", "detach", target)
		codes[fmt.Sprintf("detach %d", r.code)]++
		tool(ctx, t, q.Socket, "detach", target, "--ignore-missing").want(t, 0)
		wantSame(ctx, t, q, before)
	}
	t.Logf("%d rounds, %v", rounds, codes)
}

// fault returns the hooks of a connection that fails once, at a random step by a random fault.
func fault(dice *rand.Rand) peer.ProxyHooks {
	step := 1 + dice.IntN(9)
	if dice.IntN(4) == 0 {
		return peer.FailStep(step)
	}
	cuts := []peer.Cut{peer.CutBeforeForward, peer.CutBeforeReply, peer.CutAfterReply}
	hooks := peer.CutAtStep(step, cuts[dice.IntN(len(cuts))])
	if dice.IntN(3) == 0 {
		served := 1 + dice.IntN(2)
		hooks.Connect = func(n int) bool { return n <= served }
	}
	return hooks
}
