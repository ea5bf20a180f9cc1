package privdir

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
)

// fresh returns the result of read. If another host that shares the directory has replaced
// the file or the directory that read has open, NFS reports a stale handle (ESTALE, nfs(5)):
// read then runs once more, on the directory opened anew.
func fresh[T any](f *Dir, read func(*Dir) (T, error)) (T, error) {
	out, err := read(f)
	if !errors.Is(err, unix.ESTALE) {
		return out, err
	}
	again, err := Open(f.path)
	if err != nil {
		return out, err
	}
	defer again.Close()
	out, err = read(again)
	if errors.Is(err, unix.ESTALE) {
		err = fmt.Errorf("%w: its server has lost the directory: mount it again", err)
	}
	return out, err
}

// askServer has the client of NFS ask the server whether the directory has changed. Names
// are then looked up anew, also those of files that exist no longer, or only now. A client
// does this only where a directory is opened for reading, and otherwise relies on its cache
// for up to a minute (nfs(5), "Data and metadata coherence").
func askServer(path string) {
	// A caller without permission to list the directory relies on the cache.
	if fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0); err == nil {
		_ = unix.Close(fd) // only read
	}
}

// squashed adds to an error for root of a directory on NFS what the usual cause is.
func squashed(path string, err error) error {
	if os.Geteuid() != 0 || !onNFS(path) || !errors.Is(err, unix.EACCES) && !errors.Is(err, unix.EPERM) && !errors.Is(err, secrets.ErrDenied) {
		return err
	}
	return fmt.Errorf("%w: the directory is on NFS, whose server may map root to another user (root_squash): export it to this host with no_root_squash, and have root own its files", err)
}

// onNFS reports whether a path is on NFS. If it cannot be examined, its directory is.
func onNFS(path string) bool {
	var st unix.Statfs_t
	err := unix.Statfs(path, &st)
	if err != nil {
		err = unix.Statfs(filepath.Dir(path), &st)
	}
	return err == nil && st.Type == unix.NFS_SUPER_MAGIC
}
