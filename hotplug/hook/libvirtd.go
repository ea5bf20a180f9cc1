package hook

import (
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// LibvirtdStart returns when the daemon that runs QEMU's hooks on this host was started;
// known is false if there is none.
func LibvirtdStart() (start time.Time, known bool) {
	for _, path := range []string{"/run/libvirt/libvirtd.pid", "/run/libvirtd.pid", "/run/libvirt/virtqemud.pid", "/run/virtqemud.pid"} {
		text, err := os.ReadFile(path)
		if err != nil {
			continue
		}
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if err != nil || pid <= 0 {
			continue
		}
		if start, ok := processStart(pid); ok {
			return start, true
		}
	}
	return time.Time{}, false
}

// processStart returns when a process was started.
func processStart(pid int) (time.Time, bool) {
	p, err := hostproc.ProcessOf(pid)
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}, false
	}
	const ticks = 100 // USER_HZ, the same on every Linux
	since := time.Duration(now.Nano()) - time.Duration(p.Start)*time.Second/ticks
	return time.Now().Add(-since), true
}
