package check

import (
	"fmt"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets/luks"
)

// DefaultMaxStall is the longest stall of a guest that is accepted without being asked for.
// NoMaxStall accepts any.
const (
	DefaultMaxStall = 10 * time.Second
	NoMaxStall      = time.Duration(-1)
)

// inQEMU reports whether the VM's QEMU derives the key of the layer. Its guest stalls
// meanwhile, if there is one already.
func (l *layerCheck) inQEMU() bool {
	switch l.Unlock.Method {
	case blockgraph.MethodEphemeralHeader:
		return !l.disk.Image.RawLUKS()
	case blockgraph.MethodStorageDaemon:
		return false
	}
	return true
}

// stall estimates how long QEMU would stall the guest by unlocking the header, and refuses
// it if that is too long. The image's writer chooses the iterations: 2^32-1 take an hour,
// for each key slot. The estimate is nil if QEMU does not unlock it, or there is no guest.
func (l *layerCheck) stall(h *luks.Header) (*unlock.Stall, error) {
	if l.VM == nil || !l.inQEMU() {
		return nil, nil
	}
	first, all, err := h.QEMUUnlockTime()
	if err != nil {
		return nil, l.refuse(outcome.ErrHeaderUnusable, err, "the LUKS header of %s", l.disk.Image.LUKSHeader().Source)
	}
	return &unlock.Stall{First: first, All: all}, l.tooLong(all)
}

// tooLong refuses a stall that is longer than the limit.
func (l *layerCheck) tooLong(d time.Duration) error {
	limit := l.MaxStall
	if limit == 0 {
		limit = DefaultMaxStall
	}
	if limit < 0 || d <= limit {
		return nil
	}
	return l.refuse(outcome.ErrStall, nil, "QEMU would try the key slots of %s for %s if the passphrase is wrong or that of the last one, and the guest would stall for longer than the limit of %s: lower the iterations of the header, or remove key slots",
		l.disk.Image.LUKSHeader().Source, rounded(d), limit)
}

// rounded returns a time for a message.
func rounded(d time.Duration) string {
	if d > 100*24*time.Hour {
		return "months"
	}
	return fmt.Sprint(d.Round(time.Second / 10))
}
