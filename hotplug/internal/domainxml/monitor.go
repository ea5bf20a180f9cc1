package domainxml

import (
	"path/filepath"
	"strings"
)

const monitorID = "luksplug-monitor"

// MonitorDir is the parent of the directories in which QEMU creates the sockets of
// luksplug's monitors. Each is named after its domain's UUID and belongs to QEMU's user.
const MonitorDir = "/run/luksplug/monitor"

// MonitorArguments returns the arguments that give QEMU a QMP monitor for luksplug, next
// to libvirt's. dir is usually [MonitorDir].
func MonitorArguments(dir, uuid string) []string {
	path := filepath.Join(dir, uuid, "qmp")
	return []string{
		"-chardev", "socket,id=" + monitorID + ",path=" + strings.ReplaceAll(path, ",", ",,") + ",server=on,wait=off",
		"-mon", "chardev=" + monitorID + ",mode=control",
	}
}

// MonitorSocket returns the path of the monitor's socket among QEMU's arguments, "" if
// there is none.
func MonitorSocket(arguments []string) string {
	for option, value := range pairs(arguments) {
		rest, ours := strings.CutPrefix(value, "socket,id="+monitorID+",path=")
		if option != "-chardev" || !ours {
			continue
		}
		// Two commas are one in a value, one ends it.
		const mark = "\x00"
		path, _, _ := strings.Cut(strings.ReplaceAll(rest, ",,", mark), ",")
		return strings.ReplaceAll(path, mark, ",")
	}
	return ""
}
