package opened

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
)

// maxHeader is a bound of the length of a header, in bytes.
const maxHeader = 256

// expired is the reason of a key whose time has ended.
const expired = "its time has ended"

// header is the line before the key, in the same payload.
type header struct {
	binding Binding
	until   time.Time // zero for none
	// deadline is until on the clock that counts from boot and cannot be set
	// (CLOCK_BOOTTIME); 0 for none.
	deadline time.Duration
	suspend  bool
	// asleep is at least the time that the host had been suspended when the key was kept.
	asleep time.Duration
}

func newHeader(b Binding, limit secrets.Limit) (header, error) {
	h := header{binding: b, suspend: limit.Suspend}
	c, err := readClocks()
	if err != nil {
		return h, err
	}
	h.asleep = c.asleepAtMost
	if limit.For > 0 {
		h.until, h.deadline = time.Now().Add(limit.For).Truncate(time.Millisecond), c.boot+limit.For
	}
	return h, nil
}

// format is the text of a header: its version, the binding, the time at which it ends, in
// milliseconds since 1970, and in nanoseconds since boot, whether a suspend ends it, and the
// time asleep in nanoseconds.
const format = "luksplug-key 1 %s %d %d %t %d\n"

func (h header) append(b []byte) []byte {
	until := int64(0)
	if !h.until.IsZero() {
		until = h.until.UnixMilli()
	}
	return fmt.Appendf(b, format, hex.EncodeToString(h.binding[:]), until, int64(h.deadline), h.suspend, int64(h.asleep))
}

// parseHeader returns the header, and the key after it.
func parseHeader(payload []byte) (h header, key []byte, err error) {
	line, key, found := bytes.Cut(payload, []byte("\n"))
	if !found || len(line) > maxHeader {
		return h, nil, errors.New("no header")
	}
	var binding string
	var until, deadline, asleep int64
	if _, err := fmt.Sscanf(string(line)+"\n", format, &binding, &until, &deadline, &h.suspend, &asleep); err != nil {
		return h, nil, err
	}
	sum, err := hex.DecodeString(binding)
	if err != nil || len(sum) != len(h.binding) {
		return h, nil, errors.New("no binding")
	}
	copy(h.binding[:], sum)
	if until != 0 {
		h.until = time.UnixMilli(until)
	}
	h.deadline, h.asleep = time.Duration(deadline), time.Duration(asleep)
	return h, key, nil
}

// ended returns why the key does not count, "" if it does.
func (h header) ended(b Binding) string {
	c, err := readClocks()
	switch {
	case err != nil:
		return "the clock cannot be read: " + err.Error()
	case h.deadline != 0 && c.boot >= h.deadline, !h.until.IsZero() && !time.Now().Before(h.until):
		return expired
	case h.suspend && c.asleepAtLeast > h.asleep:
		return "the host was suspended since it was unlocked"
	case h.binding != b:
		return "the encrypted key was replaced since it was unlocked"
	}
	return ""
}

// clocks are the times since boot. CLOCK_BOOTTIME counts while the host is suspended, and
// CLOCK_MONOTONIC does not (clock_gettime(2)). The two cannot be read at once, so their
// difference has bounds.
type clocks struct {
	boot                        time.Duration
	asleepAtLeast, asleepAtMost time.Duration
}

func readClocks() (clocks, error) {
	before, err := clock(unix.CLOCK_MONOTONIC)
	if err != nil {
		return clocks{}, err
	}
	boot, err := clock(unix.CLOCK_BOOTTIME)
	if err != nil {
		return clocks{}, err
	}
	after, err := clock(unix.CLOCK_MONOTONIC)
	return clocks{boot: boot, asleepAtLeast: boot - after, asleepAtMost: boot - before}, err
}

func clock(id int32) (time.Duration, error) {
	var ts unix.Timespec
	if err := unix.ClockGettime(id, &ts); err != nil {
		return 0, fmt.Errorf("clock_gettime: %w", err)
	}
	return time.Duration(ts.Nano()), nil
}

// ids returns the key ids in a keyring's content.
func ids(content []byte) []int {
	var out []int
	for ; len(content) >= 4; content = content[4:] {
		out = append(out, int(int32(binary.NativeEndian.Uint32(content))))
	}
	return out
}
