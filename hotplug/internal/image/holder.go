package image

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Holder is a process with locks on an image.
type Holder struct {
	PID  int
	Name string // as the process has set it: proc(5), comm
}

// String returns a text such as "qemu-system-x86 (pid 4711)".
func (h Holder) String() string { return fmt.Sprintf("%s (pid %d)", h.Name, h.PID) }

func names(holders []Holder) []string {
	var texts []string
	for _, h := range holders {
		texts = append(texts, h.String())
	}
	return texts
}

// fileID identifies a file on this host.
type fileID struct{ dev, ino uint64 }

// Holders are the processes with locks on files, at one moment. The zero value has none.
type Holders struct{ byFile map[fileID][]Holder }

// ReadHolders reads which processes have locks on files. It reads the details of every open file in /proc, for any number
// of images, and skips what this process may not see.
func ReadHolders() Holders { return readHolders(nil) }

// Of returns the processes with locks on the image at path, none if it cannot be found.
func (h Holders) Of(path string) []Holder {
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		return nil
	}
	return h.byFile[fileID{stat.Dev, stat.Ino}]
}

// holdersOf returns the processes with locks on an open file: the lock itself belongs to an open file and names no process.
func holdersOf(f *os.File) []Holder {
	var image unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &image); err != nil {
		return nil
	}
	return readHolders(&image).byFile[fileID{image.Dev, image.Ino}]
}

// readHolders reads the locks on one file, or those on all if that is nil.
func readHolders(only *unix.Stat_t) Holders {
	found := Holders{map[fileID][]Holder{}}
	details, err := filepath.Glob("/proc/[0-9]*/fdinfo/[0-9]*")
	if err != nil {
		return found
	}
	for _, path := range details {
		id, locked := lockedFile(path, only)
		if !locked {
			continue
		}
		process := filepath.Dir(filepath.Dir(path))
		name, nameErr := os.ReadFile(filepath.Join(process, "comm"))
		pid, pidErr := strconv.Atoi(filepath.Base(process))
		if nameErr != nil || pidErr != nil {
			continue // it has ended
		}
		if h := (Holder{pid, strings.TrimSpace(string(name))}); !slices.Contains(found.byFile[id], h) {
			found.byFile[id] = append(found.byFile[id], h)
		}
	}
	return found
}

// lockedFile reports which file the open file is whose /proc/PID/fdinfo entry is path, and whether there are locks on it. It
// returns false for another file than only.
func lockedFile(path string, only *unix.Stat_t) (fileID, bool) {
	details, err := os.ReadFile(path)
	if err != nil || !bytes.Contains(details, []byte("\nlock:")) || only != nil && !bytes.Contains(details, fmt.Appendf(nil, ":%d ", only.Ino)) {
		return fileID{}, false
	}
	// The device in the lock line is not always that of stat(2) (btrfs). The stat comes
	// last because one on a dead network file system could hang.
	var file unix.Stat_t
	fd := filepath.Join(filepath.Dir(filepath.Dir(path)), "fd", filepath.Base(path))
	if err := unix.Stat(fd, &file); err != nil || only != nil && (file.Dev != only.Dev || file.Ino != only.Ino) {
		return fileID{}, false
	}
	return fileID{file.Dev, file.Ino}, true
}
