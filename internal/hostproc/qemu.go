package hostproc

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// QEMUOf returns the UUID that the arguments of a process give its VM, in lower case, "" for none, and reports
// whether the process is a QEMU at all. It reports false for a process whose arguments cannot be read.
//
// The arguments are in the memory of the process, which can overwrite them.
func QEMUOf(pid int) (uuid string, qemu bool) {
	args, err := arguments(pid)
	if err != nil {
		return "", false
	}
	return parseQEMU(args)
}

// arguments returns the arguments of a process, and an empty text behind them.
func arguments(pid int) ([]string, error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Split(string(text), "\x00"), err
}

// parseQEMU is QEMUOf for given arguments.
func parseQEMU(args []string) (uuid string, qemu bool) {
	if !isQEMU(args) {
		return "", false
	}
	for i, a := range args[:len(args)-1] {
		switch value := args[i+1]; a {
		case "-uuid", "--uuid":
			uuid = value // the last one counts
		case "-smbios", "--smbios":
			// QEMU takes the UUID of the system table for that of the VM.
			for option := range strings.SplitSeq(value, ",") {
				if id, found := strings.CutPrefix(option, "uuid="); found {
					uuid = id
				}
			}
		}
	}
	if strings.Trim(uuid, "0-") == "" { // QEMU takes it for none
		uuid = ""
	}
	return strings.ToLower(uuid), true
}

// isQEMU reports whether arguments are those of a QEMU, which the dynamic linker may have started.
func isQEMU(args []string) bool {
	named := func(arg string) bool {
		name := strings.TrimPrefix(filepath.Base(arg), ".") // of a wrapped program
		return strings.HasPrefix(name, "qemu") || strings.HasPrefix(name, "kvm")
	}
	linked := strings.HasPrefix(filepath.Base(args[0]), "ld-") && slices.ContainsFunc(args[1:], named)
	return args[0] != "" && (named(args[0]) || linked)
}

// FindQEMUs returns the ids of the processes of this machine that are QEMUs with that UUID: of the users, or of all
// users if none is given.
func FindQEMUs(uuid string, users ...uint32) []int {
	var found []int
	for _, pid := range processes() {
		if id, _ := QEMUOf(pid); id == "" || !strings.EqualFold(id, uuid) {
			continue
		}
		if c, err := CredentialOf(pid); len(users) == 0 || err == nil && slices.Contains(users, c.UID) {
			found = append(found, pid)
		}
	}
	return found
}

// FindQEMU returns the id of the process of user uid that is a QEMU with that
// UUID. It returns 0 if there is none or more than one.
func FindQEMU(uuid string, uid uint32) int {
	if found := FindQEMUs(uuid, uid); len(found) == 1 {
		return found[0]
	}
	return 0
}

// Domain is a libvirt domain of this host.
type Domain struct {
	Name, UUID string
	UID        uint32 // of the user of its QEMU
	Session    bool   // of the user's own libvirt, and not the system's
}

// QEMU returns the process id of the domain's QEMU, 0 if it is unknown: that in libvirt's own file, if that process
// has the domain's UUID among its arguments, else that of the only process of the user that has. A QEMU can overwrite
// its arguments, so they alone could be those of another one.
func (d Domain) QEMU() int {
	dir := "/run/libvirt/qemu"
	if d.Session {
		runtime := os.Getenv("XDG_RUNTIME_DIR")
		if runtime == "" {
			runtime = fmt.Sprintf("/run/user/%d", os.Geteuid())
		}
		dir = filepath.Join(runtime, "libvirt/qemu/run")
	}
	if text, err := os.ReadFile(filepath.Join(dir, d.Name+".pid")); err == nil && filepath.Base(d.Name) == d.Name {
		pid, err := strconv.Atoi(strings.TrimSpace(string(text)))
		if own, _ := QEMUOf(pid); err == nil && own != "" && strings.EqualFold(own, d.UUID) {
			return pid
		}
	}
	return FindQEMU(d.UUID, d.UID)
}
