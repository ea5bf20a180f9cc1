package diskgen_test

import (
	"context"
	"flag"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/canon"
	"github.com/luksplug/luksplug/integration/internal/diskgen"
	"github.com/luksplug/luksplug/internal/must"
)

var (
	diskSeed  = flag.Int("disk-seed", 1, "the seed of the first disk that is drawn; each further disk has the next one")
	diskCount = flag.Int("disk-count", 0, "how many disks are drawn; 0 for 200, or 2000 in a long run")
)

// TestAgainstLibvirt compares luksplug's plans of drawn disks with libvirt's. A seed is always the same disk.
func TestAgainstLibvirt(t *testing.T) {
	t.Parallel()
	count := *diskCount
	if count == 0 {
		count = 200
		if os.Getenv("LUKSPLUG_LONG") != "" {
			count = 2000
		}
	}
	j := newJudge(t)
	cases := diskgen.Cases()
	seeds := make(chan int)
	var group sync.WaitGroup
	for range 2 { // one plans while the other waits for libvirtd
		group.Go(func() {
			for seed := range seeds {
				j.try(t, seed, cases.Example(seed))
			}
		})
	}
	for i := range count {
		if j.hopeless() {
			t.Error("stopped before the last disk")
			break
		}
		seeds <- *diskSeed + i
	}
	close(seeds)
	group.Wait()
	j.report(t)
}

// TestVirshSaysTheSame: the connection to libvirtd returns what virsh prints.
func TestVirshSaysTheSame(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	j := newJudge(t)
	same := 0
	for seed := 1; same < 3; seed++ {
		c := diskgen.Cases().Example(seed)
		ours, err := j.native(c)
		if err != nil {
			continue
		}
		file := filepath.Join(t.TempDir(), "domain.xml")
		must.OK(t, os.WriteFile(file, []byte(c.XML()), 0o600))
		text, err := j.daemon.Virsh(ctx, "domxml-to-native", "qemu-argv", "--xml", file)
		must.OK(t, err)
		printed, err := canon.Native(text, diskgen.OtherAlias)
		must.OK(t, err)
		if d := ours.Diff(printed); d != nil {
			t.Errorf("seed %d: %q", seed, d)
		}
		same++
	}
}
