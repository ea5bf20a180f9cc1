package unlock

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// errNotVDPA reports a file that is not opened: opening another device can change it.
var errNotVDPA = errors.New("it is not a vhost-vdpa device")

// openVDPA opens a vhost-vdpa device.
func openVDPA(path string) (*os.File, error) {
	found, err := fsutil.Find(path)
	if err != nil {
		return nil, err
	}
	defer found.Close()
	if found.Mode()&fs.ModeCharDevice == 0 || !isVDPA(unix.Major(found.Stat.Rdev)) {
		return nil, &fs.PathError{Op: "open", Path: path, Err: errNotVDPA}
	}
	return found.Open(os.O_RDWR)
}

// isVDPA reports whether the kernel's vhost-vdpa driver has the devices with this number.
func isVDPA(major uint32) bool {
	devices, err := os.Open("/proc/devices")
	if err != nil {
		return false
	}
	defer fsutil.CloseRead(devices)
	lines := bufio.NewScanner(devices)
	for lines.Scan() {
		if strings.TrimSpace(lines.Text()) == fmt.Sprintf("%d vhost-vdpa", major) {
			return true
		}
	}
	return false
}
