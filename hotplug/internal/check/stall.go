package check

import (
	"fmt"
	"time"

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
func (l *layerCheck) inQEMU() bool { return unlock.InQEMU(l.disk.Image, l.Unlock.Method) }

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
	return &unlock.Stall{First: first, All: all}, l.tooLong(all, "the key slots of "+l.disk.Image.LUKSHeader().Source.String())
}

// tooLong refuses a stall by these key slots that is longer than the limit.
func (c *Candidate) tooLong(d time.Duration, slots string) error {
	limit := c.MaxStall
	if limit == 0 {
		limit = DefaultMaxStall
	}
	if limit < 0 || d <= limit {
		return nil
	}
	return c.refuse(outcome.ErrStall, nil, "QEMU would try %s for %s if the passphrase is wrong or that of the last one, and the guest would stall for longer than the limit of %s: lower the iterations of the header, or remove key slots",
		slots, rounded(d), limit)
}

// stallOfAll refuses layers that together stall the guest for too long.
func (c *Candidate) stallOfAll(s *unlock.Stall) error {
	if s == nil {
		return nil
	}
	return c.tooLong(s.All, "the key slots of all encrypted layers")
}

// rounded returns a time for a message.
func rounded(d time.Duration) string {
	if d > 100*24*time.Hour {
		return "months"
	}
	return fmt.Sprint(d.Round(time.Second / 10))
}
