package volume

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// ErrNoRoom reports that a file system has less room than a preallocated volume needs. Nothing was written.
var ErrNoRoom = errors.New("the file system has no room for the volume")

// Sizes of a preallocation.
const (
	zerosAtOnce  = 4 << 20   // bytes of a write
	syncedAtOnce = 256 << 20 // bytes, so that an interrupt does not wait for a long write-back
	reserveStep  = 16 << 30  // bytes of a call that reserves room
)

// checkRoom returns an error that wraps [ErrNoRoom] if the file system of path has less than need bytes for this user.
func checkRoom(path string, need int64) error {
	var st unix.Statfs_t
	dir := filepath.Dir(path)
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("%s: query the free space: %w", dir, err)
	}
	if free := int64(st.Bavail) * int64(st.Bsize); free < need { //nolint:gosec,unconvert // no file system has more than 2^63 bytes; the type of Bsize is that of the platform
		return fmt.Errorf("%w: that of %s has %d bytes free, and the volume needs %d", ErrNoRoom, dir, free, need)
	}
	return nil
}

// preallocate reserves room for all of a file, and with PreallocationFull writes zeros wherever nothing has been written, so
// that its content stays the same.
func preallocate(ctx context.Context, f *os.File, p Preallocation, report Report) error {
	if !p.reserves() {
		return nil
	}
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return err
	}
	for at := int64(0); at < size; at += reserveStep {
		if err := ctx.Err(); err != nil {
			return err
		}
		err := unix.Fallocate(int(f.Fd()), 0, at, min(reserveStep, size-at))
		if errors.Is(err, unix.EOPNOTSUPP) && p == PreallocationFull {
			break // the zeros take the room
		}
		if err != nil {
			return fmt.Errorf("reserve %d bytes: %w", size, err)
		}
	}
	if p == PreallocationFalloc {
		return nil
	}
	if err := writeZeros(ctx, f, size, report); err != nil {
		return fmt.Errorf("write %d bytes: %w", size, err)
	}
	return nil
}

// writeZeros writes zeros into the holes of a file: what was not written, which reads as zeros.
func writeZeros(ctx context.Context, f *os.File, size int64, report Report) error {
	zeros := make([]byte, zerosAtOnce)
	for at, unsynced := int64(0), int64(0); at < size; {
		hole, err := f.Seek(at, unix.SEEK_HOLE)
		if err != nil {
			return err
		}
		end := size
		if data, err := f.Seek(hole, unix.SEEK_DATA); err == nil {
			end = data
		} else if !errors.Is(err, unix.ENXIO) { // there is no data behind the hole
			return err
		}
		for at = hole; at < end; {
			if err := ctx.Err(); err != nil {
				return err
			}
			n, err := f.WriteAt(zeros[:min(zerosAtOnce, end-at)], at)
			if err != nil {
				return err
			}
			at, unsynced = at+int64(n), unsynced+int64(n)
			if unsynced >= syncedAtOnce {
				if err := unix.Fdatasync(int(f.Fd())); err != nil {
					return err
				}
				unsynced = 0
			}
			if report != nil {
				report(Progress{Done: at, Total: size})
			}
		}
	}
	return nil
}
