package integration

import (
	"errors"
	"os"
	"strconv"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/diskgen"
	"github.com/luksplug/luksplug/integration/internal/peer"
)

// TestPlansOfRandomDisks is TestPlansOfVersions with generated disks, which are the same in every run.
func TestPlansOfRandomDisks(t *testing.T) {
	t.Parallel()
	count := 300
	if os.Getenv("LUKSPLUG_LONG") != "" {
		count = 5000
	}
	disks := randomDisks(t, count)
	eachEmulator(t, peer.Options{}, func(t *testing.T, e emulator) { e.checkPlans(t, disks) })
}

// randomDisks generates disks, without those that are refused for their XML, which package diskgen tests.
func randomDisks(t *testing.T, count int) []plannedDisk {
	t.Helper()
	var out []plannedDisk
	cases := diskgen.Cases()
	for seed := range count {
		c := cases.Example(seed)
		machine, err := diskxml.ParseDomain([]byte(c.Context()))
		if err != nil {
			continue
		}
		disk, err := diskxml.ParseDisk([]byte(c.DiskXML()))
		if err != nil {
			continue
		}
		name := "disk " + strconv.Itoa(seed) + " " + c.DiskXML()
		_, err = blockgraph.Build(disk, machine, blockgraph.Unlock{})
		var invalid *blockgraph.InvalidError
		var unsupported *blockgraph.UnsupportedError
		var nowhere *blockgraph.PlacementError
		switch {
		case err == nil:
			out = append(out, plannedDisk{name, disk, machine})
		case !errors.As(err, &invalid) && !errors.As(err, &unsupported) && !errors.As(err, &nowhere):
			t.Errorf("%s: %v", name, err)
		}
	}
	if len(out) < count/2 {
		t.Errorf("only %d of %d disks can be planned", len(out), count)
	}
	return out
}
