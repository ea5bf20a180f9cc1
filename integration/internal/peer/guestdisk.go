package peer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"fmt"
	"strings"

	"github.com/luksplug/luksplug/internal/shell"
)

// MiB is the unit of the offsets and lengths of the methods of Guest, in bytes.
const MiB = 1 << 20

// WaitDisk waits for a disk and returns its device file ("/dev/vda"). want is "vda" or its serial number.
func (g *Guest) WaitDisk(ctx context.Context, want string) (string, error) {
	// The guest polls 20 times, 50 ms apart, before it answers, which saves round trips over the serial port.
	script := `want=` + shell.Quote(want) + `
i=0
while [ $i -lt 20 ]; do
	for d in /sys/block/*; do
		n=${d##*/}
		[ -b "/dev/$n" ] || continue
		s= p= u=
		if [ -e $d/serial ]; then
			read -r s < $d/serial # without a process: each costs 10 ms under emulation
		else
			p=$(tail -c +5 $d/device/vpd_pg80 2>/dev/null)
			u=$(cat "$(readlink -f $d/device)/../../../../serial" 2>/dev/null) # the USB device's
		fi
		if [ "$n" = "$want" ] || [ "$s" = "$want" ] || [ "$p" = "$want" ] || [ "$u" = "$want" ]; then echo /dev/$n; exit; fi
	done
	usleep 50000
	i=$((i+1))
done`
	for {
		out, err := g.Run(ctx, script)
		if err != nil {
			return "", fmt.Errorf("wait for disk %s: %w", want, err)
		}
		if dev := strings.TrimSpace(out); dev != "" {
			return dev, nil
		}
	}
}

// WaitGone waits until a device file that WaitDisk returned is gone.
func (g *Guest) WaitGone(ctx context.Context, dev string) error {
	script := `i=0; while [ -e ` + shell.Quote(dev) + ` ] && [ $i -lt 20 ]; do usleep 50000; i=$((i+1)); done; [ -e ` + shell.Quote(dev) + ` ] && echo there || echo gone`
	for {
		out, err := g.Run(ctx, script)
		if err != nil {
			return fmt.Errorf("wait for %s to go: %w", dev, err)
		}
		if strings.TrimSpace(out) == "gone" {
			return nil
		}
	}
}

// Pattern returns the content that WritePattern gives each MiB: pattern repeated, cut at the end.
func Pattern(pattern []byte) []byte {
	return bytes.Repeat(pattern, MiB/len(pattern)+1)[:MiB]
}

// WritePattern fills length MiB of dev from offset MiB with [Pattern] and flushes the disk. The pattern may
// have any bytes, from one to 1 KiB.
func (g *Guest) WritePattern(ctx context.Context, dev string, offset, length int, pattern []byte) error {
	if len(pattern) == 0 || len(pattern) > 1024 {
		return fmt.Errorf("guest: pattern of %d bytes; it needs 1 to 1024", len(pattern))
	}
	// Each process takes long under emulation. So the pattern is sent repeated, and grows in two steps.
	longest := bytes.Repeat(pattern, 1024/len(pattern))
	script := fmt.Sprintf(`set -e
many() { cat $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1 $1; }
printf %%s %s | base64 -d > /tmp/.pattern
many /tmp/.pattern > /tmp/.many
many /tmp/.many > /tmp/.pattern
i=0
while [ $i -lt %d ]; do
	dd if=/tmp/.pattern of=%s bs=1M count=1 seek=$((%d+i)) conv=notrunc,fsync 2>/tmp/.dd || { cat /tmp/.dd; exit 1; }
	i=$((i+1))
done
rm /tmp/.pattern /tmp/.many`, base64.StdEncoding.EncodeToString(longest), length, shell.Quote(dev), offset)
	if _, err := g.Run(ctx, script); err != nil {
		return fmt.Errorf("write %d MiB to %s: %w", length, dev, err)
	}
	return nil
}

// ReadHash returns the SHA-256, in hexadecimal, of length MiB of dev from offset MiB, read from the disk
// instead of the guest's cache.
func (g *Guest) ReadHash(ctx context.Context, dev string, offset, length int) (string, error) {
	script := fmt.Sprintf("echo 3 > /proc/sys/vm/drop_caches; dd if=%s bs=1M skip=%d count=%d 2>/tmp/.dd > /tmp/.read && sha256sum < /tmp/.read || { cat /tmp/.dd; false; }; s=$?; rm -f /tmp/.read; exit $s",
		shell.Quote(dev), offset, length)
	out, err := g.Run(ctx, script)
	if err != nil {
		return "", fmt.Errorf("read %d MiB of %s: %w", length, dev, err)
	}
	hash, _, _ := strings.Cut(strings.TrimSpace(out), " ")
	return hash, nil
}

// SizeOf returns the size of a disk in bytes, as the guest sees it.
func (g *Guest) SizeOf(ctx context.Context, dev string) (int64, error) {
	out, err := g.Run(ctx, "blockdev --getsize64 "+shell.Quote(dev))
	if err != nil {
		return 0, err
	}
	var size int64
	if _, err := fmt.Sscan(out, &size); err != nil {
		return 0, fmt.Errorf("guest: size of %s: unreadable answer %q: %w", dev, out, err)
	}
	return size, nil
}

// HashOf returns what ReadHash returns for a disk that holds data.
func HashOf(data []byte) string {
	sum := sha256.Sum256(data)
	return hex.EncodeToString(sum[:])
}
