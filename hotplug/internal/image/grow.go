package image

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// ErrNotOpen reports that a process does not have an image open for writing.
var ErrNotOpen = errors.New("the process does not have the image open for writing")

// Growth is a raw image that is to get a new size. It is not safe for concurrent use.
type Growth struct {
	// Old and New are the sizes of the file or device in bytes.
	Old, New int64
	// Block is true for a block device, which keeps its size.
	Block bool

	path string
	f    *os.File
}

// Space is what a file gets for its new bytes.
type Space int

// The spaces.
const (
	Sparse    Space = iota // none until they are written
	Allocated              // reserved on the file system
)

// OpenGrowth opens the image that process pid is said to have open, for a new size. A path that QEMU reports is a claim:
// the error wraps [ErrNotOpen] unless the process has that file open for writing. The others are those of [OpenSize].
func OpenGrowth(pid int, path string, size int64) (*Growth, error) {
	g, err := OpenSize(path, size)
	if err != nil {
		return nil, err
	}
	_, writable, err := Opened(pid, fmt.Sprintf("/proc/self/fd/%d", g.f.Fd()))
	if err == nil && !writable {
		err = fmt.Errorf("%s: %w: process %d", path, ErrNotOpen, pid)
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// OpenSize opens an image that is to get a size of size bytes. Errors wrap fs.ErrNotExist, fs.ErrPermission, [ErrNotImage],
// or unix.EFBIG if this process may not write files of that size; nothing was changed then.
func OpenSize(path string, size int64) (*Growth, error) {
	f, info, err := open(path, os.O_RDWR)
	if err != nil {
		return nil, err
	}
	g := &Growth{New: size, Block: isBlock(info.Mode()), path: path, f: f}
	if g.Old, err = g.now(); err == nil {
		err = g.checkLimit()
	}
	if err != nil {
		g.Close()
		return nil, err
	}
	return g, nil
}

// now returns the present size.
func (g *Growth) now() (int64, error) { return size(g.f) }

// checkLimit checks RLIMIT_FSIZE: the signal of the kernel (SIGXFSZ) would end the process.
func (g *Growth) checkLimit() error {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &limit); err != nil {
		return fmt.Errorf("read the limit on the size of files: %w", err)
	}
	if !g.Block && g.New > g.Old && uint64(g.New) > limit.Cur {
		return fmt.Errorf("%s: this process may write %d bytes of a file (ulimit -f), and not %d: %w", g.path, limit.Cur, g.New, unix.EFBIG)
	}
	return nil
}

// Needed reports whether the file changes.
func (g *Growth) Needed() bool { return !g.Block && g.Old != g.New }

// checkSpace refuses an allocation for which the file system has no space: trying would fill it for all others.
func (g *Growth) checkSpace() error {
	var st unix.Statfs_t
	if err := unix.Fstatfs(int(g.f.Fd()), &st); err != nil {
		return fmt.Errorf("read the free space for %s: %w", g.path, err)
	}
	if free := int64(st.Bavail) * st.Bsize; g.New-g.Old > free {
		return fmt.Errorf("allocate %d bytes for %s: its file system has %d: %w", g.New-g.Old, g.path, free, unix.ENOSPC)
	}
	return nil
}

// step is how many bytes are allocated at once, so that ctx can end it.
const step = 1 << 30

// Grow gives the file its new size, and stores that on the disk. Nothing but the size changes: no byte within the old and
// the new size is written. report is called with the bytes allocated so far, nil for nothing. After an error the file
// may have any size between the old and the new one, and [Growth.Undo] restores it.
func (g *Growth) Grow(ctx context.Context, how Space, report func(done int64)) error {
	if !g.Needed() {
		return nil
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if how == Allocated {
		if err := g.checkSpace(); err != nil {
			return err
		}
	}
	// Beyond the end of the file, so that a full disk is noticed before the size changes.
	for at := g.Old; how == Allocated && at < g.New; at = min(at+step, g.New) {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := unix.Fallocate(int(g.f.Fd()), unix.FALLOC_FL_KEEP_SIZE, at, min(step, g.New-at)); err != nil {
			return fmt.Errorf("allocate the space of %s: %w", g.path, err)
		}
		if report != nil {
			report(min(at+step, g.New) - g.Old)
		}
	}
	if err := g.f.Truncate(g.New); err != nil {
		return fmt.Errorf("change the size of %s to %d bytes: %w", g.path, g.New, err)
	}
	return g.f.Sync()
}

// Undo gives a file that was grown its old size back, and frees what was allocated. It refuses if the file has another size
// than either, or data beyond its old size.
func (g *Growth) Undo() error {
	if !g.Needed() || g.New < g.Old {
		return nil
	}
	now, err := g.now()
	switch {
	case err != nil:
		return err
	case now != g.Old && now != g.New:
		return fmt.Errorf("%s has %d bytes, and stays so: another program has changed its size", g.path, now)
	}
	if now == g.New {
		if err := g.checkUnwritten(); err != nil {
			return err
		}
	}
	if err := g.f.Truncate(g.Old); err != nil { // also frees what lies beyond the end
		return fmt.Errorf("change the size of %s back: %w", g.path, err)
	}
	return g.f.Sync()
}

// checkUnwritten refuses a file that has data beyond its old size. A file system may report parts that read as zeros as
// data, such as the rest of the last block.
func (g *Growth) checkUnwritten() error {
	b := make([]byte, 1<<20)
	for at := g.Old; at < g.New; {
		begin, err := unix.Seek(int(g.f.Fd()), at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			return nil // none any more
		}
		var end int64
		if err == nil {
			end, err = unix.Seek(int(g.f.Fd()), begin, unix.SEEK_HOLE)
		}
		if err != nil {
			return fmt.Errorf("find what was written to %s: %w", g.path, err)
		}
		for at = begin; at < end; {
			n, err := g.f.ReadAt(b[:min(int64(len(b)), end-at)], at)
			if n == 0 {
				return fmt.Errorf("read %s: %w", g.path, err)
			}
			if len(bytes.TrimLeft(b[:n], "\x00")) > 0 {
				return fmt.Errorf("%s has data from byte %d on, beyond its old size, and keeps its new one", g.path, at)
			}
			at += int64(n)
		}
	}
	return nil
}

// Close closes the file.
func (g *Growth) Close() { fsutil.CloseRead(g.f) } // synced

// OpenWritable opens an image for reading and writing, as the other functions of this package do. The errors are those of
// [Writable].
func OpenWritable(path string) (*os.File, error) {
	f, _, err := open(path, os.O_RDWR)
	return f, err
}
