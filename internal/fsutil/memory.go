package fsutil

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// MemoryFile returns a file that exists only in memory (memfd_create(2)), open for reading and writing, with what write puts
// into it. name is for error texts and /proc.
func MemoryFile(name string, write func(*os.File) error) (*os.File, error) {
	fd, err := unix.MemfdCreate(name, unix.MFD_CLOEXEC|unix.MFD_ALLOW_SEALING)
	if err != nil {
		return nil, fmt.Errorf("make a file in memory: %w", err)
	}
	f := os.NewFile(uintptr(fd), "memfd:"+name)
	if err := write(f); err != nil {
		return nil, errors.Join(fmt.Errorf("write to a file in memory: %w", err), f.Close())
	}
	return f, nil
}

// Seal forbids every further change of a file of [MemoryFile] (F_ADD_SEALS in fcntl(2)).
func Seal(f *os.File) error {
	const seals = unix.F_SEAL_SEAL | unix.F_SEAL_SHRINK | unix.F_SEAL_GROW | unix.F_SEAL_WRITE
	if _, err := unix.FcntlInt(f.Fd(), unix.F_ADD_SEALS, seals); err != nil {
		return fmt.Errorf("seal %s: %w", f.Name(), err)
	}
	return nil
}
