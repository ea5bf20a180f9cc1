package peer

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
)

// RunDirs returns the directories in which luksplug, run by this user, may keep files of the VM with that
// UUID. Which one it uses depends on which file systems of the host are in memory. None exists when nothing
// is attached.
func RunDirs(uuid string) []string {
	user := strconv.Itoa(os.Geteuid())
	base := []string{filepath.Join("/dev/shm", "luksplug-"+user), filepath.Join(os.TempDir(), "luksplug-"+user)}
	if os.Geteuid() == 0 {
		base = append(base, "/run/luksplug")
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		base = append(base, filepath.Join(dir, "luksplug"))
	}
	for i := range base {
		base[i] = filepath.Join(base[i], "vm", uuid)
	}
	return base
}

// ReadHost returns, sorted, luksplug's state on this host for the VM with that UUID: the files and
// directories of [RunDirs], and the daemons and helpers that use them.
func ReadHost(uuid string) ([]string, error) {
	found := []string{}
	for _, dir := range RunDirs(uuid) {
		err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
			if err == nil {
				found = append(found, path)
			}
			return err
		})
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("list the host's files of the VM: %w", err)
		}
	}
	for range StorageDaemons(uuid) {
		found = append(found, "a qemu-storage-daemon")
	}
	for range Helpers(uuid) {
		found = append(found, "a qemu-pr-helper")
	}
	slices.Sort(found)
	return found, nil
}

// StorageDaemons returns the process ids of the qemu-storage-daemons of the VM with that UUID.
func StorageDaemons(uuid string) []int {
	return processes(uuid, func(program, _ string) bool { return filepath.Base(program) == "qemu-storage-daemon" })
}

// Helpers returns the process ids of the qemu-pr-helpers that luksplug has started for the VM with that UUID.
func Helpers(uuid string) []int {
	return processes(uuid, func(program, _ string) bool { return filepath.Base(program) == "qemu-pr-helper" })
}

// Watchers returns the ids of the processes that end a storage daemon or helper of luksplug's together with
// the VM with that UUID.
func Watchers(uuid string) []int {
	return processes(uuid, func(_, args string) bool { return strings.HasPrefix(args, "watch-daemon\x00") })
}

// processes returns the processes whose program and arguments, each ended by a zero byte, are wanted and name
// a directory of the VM with that UUID.
func processes(uuid string, wanted func(program, args string) bool) []int {
	files, _ := filepath.Glob("/proc/[0-9]*/cmdline") // fails only for a bad pattern
	var pids []int
	for _, file := range files {
		line, _ := os.ReadFile(file) // the process may have ended
		if program, args, _ := strings.Cut(string(line), "\x00"); wanted(program, args) && strings.Contains(args, "/"+uuid+"/") {
			pid, _ := strconv.Atoi(filepath.Base(filepath.Dir(file))) // by the pattern
			pids = append(pids, pid)
		}
	}
	return pids
}
