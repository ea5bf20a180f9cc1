package hook

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// LibvirtdStart returns when the daemon was started that runs QEMU's hooks on this
// host; known is false where none is found.
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

// processStart reads when a process was started: proc(5), field 22 of stat, in
// clock ticks after the boot.
func processStart(pid int) (time.Time, bool) {
	text, err := os.ReadFile(filepath.Join("/proc", strconv.Itoa(pid), "stat"))
	if err != nil {
		return time.Time{}, false
	}
	_, rest, _ := strings.Cut(string(text[strings.LastIndexByte(string(text), ')')+1:]), " ")
	fields := strings.Fields(rest)
	const startTime = 22 - 3 // the first of these is field 3
	if len(fields) <= startTime {
		return time.Time{}, false
	}
	const ticks = 100 // USER_HZ, the same on every Linux
	n, err := strconv.ParseInt(fields[startTime], 10, 64)
	var now unix.Timespec
	if err != nil || unix.ClockGettime(unix.CLOCK_BOOTTIME, &now) != nil {
		return time.Time{}, false
	}
	since := time.Duration(now.Nano()) - time.Duration(n)*time.Second/ticks
	return time.Now().Add(-since), true
}
