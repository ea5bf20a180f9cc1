package luks_test

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
)

// BenchmarkUnlockCompared unlocks one header, made by cryptsetup with default
// settings, by turns with this package, with `cryptsetup open --test-passphrase`,
// and with qemu-io, which opens it as a running VM does. It reports the median of
// five runs of each.
//
// This takes longer than a usual benchmark, so it runs once.
func BenchmarkUnlockCompared(b *testing.B) {
	must.Have(b, "cryptsetup", "qemu-io")
	path := must.File(b, make([]byte, 4<<20))
	run(b, "cryptsetup", "luksFormat", "-q", "--type", "luks1", "--key-file", "-", path)
	h := open(b, path)
	estimated, _, err := h.QEMUUnlockTime()
	must.OK(b, err)
	secret := secretFile(b, []byte(passphrase))
	node := fmt.Sprintf(`json:{"driver":"luks","key-secret":"s","file":{"driver":"file","filename":%q}}`, path)
	ways := []struct {
		unit string
		run  func()
	}{
		{"luksplug-s", func() { unlock(b, h, passphrase).Wipe() }},
		{"cryptsetup-s", func() { run(b, "cryptsetup", "open", "--test-passphrase", "--key-file", "-", path) }},
		{"QEMU-s", func() { run(b, "qemu-io", "--object", secret, "-c", "quit", node) }},
	}
	const times = 5
	for b.Loop() {
		taken := make([][]float64, len(ways))
		for range times {
			for i, way := range ways {
				start := time.Now()
				way.run()
				taken[i] = append(taken[i], time.Since(start).Seconds())
			}
		}
		for i, way := range ways {
			slices.Sort(taken[i])
			b.ReportMetric(taken[i][times/2], way.unit)
		}
		b.ReportMetric(taken[2][times/2]/taken[0][times/2], "QEMU/luksplug")
		b.ReportMetric(estimated.Seconds(), "QEMUUnlockTime-s")
		b.ReportMetric(0, "ns/op") // hides the total, which has no meaning
	}
}
