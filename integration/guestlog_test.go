package integration

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// guestLog is written continuously by a guest to its disks: lines of 512 bytes with number and checksum.
type guestLog struct {
	devices []string
}

// logLine is the length of a line, in bytes.
const logLine = 512

// startLog has the guest start a log on each of these disks.
func startLog(ctx context.Context, t *testing.T, g *peer.Guest, devices ...string) *guestLog {
	t.Helper()
	script := `n=0
while [ ! -e /tmp/log-stop ]; do
	for d in ` + strings.Join(devices, " ") + `; do
		l="line $n of $d"
		s=$(printf %s "$l" | md5sum)
		printf '%-511s\n' "$l ${s%% *}" | dd of=$d bs=512 seek=$n conv=notrunc,fsync 2> /tmp/log-dd || { echo "line $n of $d"; cat /tmp/log-dd; } >> /tmp/log-failed
	done
	n=$((n+1))
	echo $n > /tmp/log-new
	mv /tmp/log-new /tmp/log-lines
done
touch /tmp/log-ended`
	command := "rm -f /tmp/log-*; cat > /tmp/log.sh <<'END'\n" + script + "\nEND\nsh /tmp/log.sh < /dev/null > /dev/null 2>&1 &"
	must.Get(g.Run(ctx, command))(t)
	l := &guestLog{devices: devices}
	l.wantMore(ctx, t, g)
	return l
}

// wantMore waits until the guest has written more lines than it had.
func (l *guestLog) wantMore(ctx context.Context, t *testing.T, g *peer.Guest) {
	t.Helper()
	out, err := g.Run(ctx, "b=$(cat /tmp/log-lines 2>/dev/null); i=0; while [ $i -lt 600 ]; do n=$(cat /tmp/log-lines 2>/dev/null); "+
		"[ -e /tmp/log-failed ] && { cat /tmp/log-failed; exit 1; }; [ ${n:-0} -gt $((${b:-0}+1)) ] && exit 0; usleep 100000; i=$((i+1)); done; exit 1")
	if err != nil {
		t.Fatalf("the guest has stopped writing: %v %s", err, out)
	}
}

// stop ends the log and returns how many lines each disk has.
func (l *guestLog) stop(ctx context.Context, t *testing.T, g *peer.Guest) int {
	t.Helper()
	out, err := g.Run(ctx, "touch /tmp/log-stop; while [ ! -e /tmp/log-ended ]; do usleep 50000; done; [ -e /tmp/log-failed ] && { cat /tmp/log-failed; exit 1; }; cat /tmp/log-lines")
	if err != nil {
		t.Fatalf("the guest could not write: %v", err)
	}
	var lines int
	if _, err := fmt.Sscan(out, &lines); err != nil || lines == 0 {
		t.Fatalf("the guest has written %q lines: %v", out, err)
	}
	return lines
}

// checkLog checks each line of a log on the host, without the VM.
func checkLog(t *testing.T, text []byte, device string, lines int) {
	t.Helper()
	for n := range lines {
		line := fmt.Sprintf("line %d of %s", n, device)
		sum := md5.Sum([]byte(line)) // detects errors, not tampering
		want := line + " " + hex.EncodeToString(sum[:])
		if got := strings.TrimSpace(string(text[n*logLine : (n+1)*logLine])); got != want {
			t.Fatalf("line %d of %d of the log on %s is %q", n, lines, device, got)
		}
	}
}

// checkVolumeLog is checkLog of a volume that no VM has open.
func checkVolumeLog(ctx context.Context, t *testing.T, v *peer.Volume, device string, lines int) {
	t.Helper()
	text := must.Get(v.ReadThrough(ctx, 0, (int64(lines)*logLine/peer.MiB+1)*peer.MiB))(t)
	checkLog(t, text, device, lines)
}
