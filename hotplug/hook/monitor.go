package hook

import (
	"path/filepath"
	"strings"
)

// MonitorID is the name of our own QMP monitor in QEMU, and of its connection.
const MonitorID = "luksplug-monitor"

// MonitorDir is the parent of the directories in which QEMU makes the sockets of
// such monitors. Each is named after its domain's UUID and belongs to QEMU's user.
const MonitorDir = "/run/luksplug/monitor"

// MonitorArguments are the arguments that give QEMU a monitor of ours, next to
// libvirt's: dir is usually [MonitorDir].
func MonitorArguments(dir, uuid string) []string {
	path := filepath.Join(dir, uuid, "qmp")
	return []string{
		"-chardev", "socket,id=" + MonitorID + ",path=" + strings.ReplaceAll(path, ",", ",,") + ",server=on,wait=off",
		"-mon", "chardev=" + MonitorID + ",mode=control",
	}
}

// MonitorSocket returns the path of our monitor's socket among QEMU's arguments,
// "" for none.
func MonitorSocket(arguments []string) string {
	for i := 0; i+1 < len(arguments); i++ {
		if arguments[i] != "-chardev" {
			continue
		}
		rest, ours := strings.CutPrefix(arguments[i+1], "socket,id="+MonitorID+",path=")
		if !ours {
			continue
		}
		// Two commas are one in a value, one ends it.
		const mark = "\x00"
		path, _, _ := strings.Cut(strings.ReplaceAll(rest, ",,", mark), ",")
		return strings.ReplaceAll(path, mark, ",")
	}
	return ""
}
