package rundir

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Base is the parent of the VMs' directories.
type Base string

// OwnersDir is the directory below a [Base] of the registry of given images, for users
// other than root.
const OwnersDir = "owners"

// BaseOf returns the base for RunDir of the options; "" for the default, which is in
// memory if the host has such a directory: in a container, /run may be on a disk. The
// error wraps [fsutil.ErrUntrusted] if another user can change the directory: what is in
// it names files that luksplug removes, and processes that it ends.
func BaseOf(dir string) (Base, error) {
	if dir == "" {
		top, err := memoryDir()
		if err != nil {
			return "", err
		}
		dir = filepath.Join(top, "vm")
	}
	if err := fsutil.CheckDir(dir); err != nil {
		return "", fmt.Errorf("directory for attached disks: %w", err)
	}
	return Base(dir), nil
}

// memoryDir returns the parent of the default base.
func memoryDir() (string, error) {
	top, err := topDir()
	if err != nil {
		return "", err
	}
	const shared = "/dev/shm"
	// The directory itself may be a mount point.
	if InMemory(top) == nil || InMemory(filepath.Dir(top)) == nil || InMemory(shared) != nil {
		return top, nil
	}
	return filepath.Join(shared, "luksplug-"+strconv.Itoa(os.Geteuid())), nil
}

// Check returns an error if files below the base are not in memory. It creates nothing.
func (b Base) Check() error {
	for dir := string(b); ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return InMemory(dir)
		}
	}
}

// InMemory refuses a directory whose files are, or may be, on a disk.
func InMemory(dir string) error {
	var st unix.Statfs_t
	if err := unix.Statfs(dir, &st); err != nil {
		return fmt.Errorf("examine directory %s: %w", dir, err)
	}
	switch uint32(st.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return nil
	}
	return fmt.Errorf("the directory %s is not on tmpfs: an ephemeral header may not be written there", dir)
}

// topDir returns the directory of this user's luksplug for files that are not kept after a
// reboot.
func topDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/run/luksplug", nil
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "luksplug"), nil
	}
	dir := filepath.Join(os.TempDir(), "luksplug-"+strconv.Itoa(os.Geteuid()))
	if err := fsutil.CheckDir(dir); err != nil {
		return "", fmt.Errorf("%w; or set XDG_RUNTIME_DIR", err)
	}
	return dir, nil
}

// VM is the directory of one VM.
type VM struct {
	Base Base
	// ID is the VM's identity, the same for every address of its monitor.
	ID string
	// Process is the VM's process; without a PID if it is unknown, or does not run yet. What
	// names another live process is never changed: see [VM.Foreign].
	Process hostproc.Process
}

// Path returns the path of the directory.
func (v VM) Path() string { return filepath.Join(string(v.Base), v.ID) }

// Disk returns the part of the directory that belongs to one disk.
func (v VM) Disk(target string) Disk { return Disk{VM: v, Target: target} }

// Check refuses a directory that another user can change. It need not exist.
func (v VM) Check() error {
	if err := fsutil.CheckDir(v.Path()); err != nil {
		return fmt.Errorf("directory for the attached disks: %w", err)
	}
	return nil
}

// Make makes the directory.
func (v VM) Make() error {
	if err := access.MakeDir(v.Path()); err != nil {
		return fmt.Errorf("directory for the attached disks: %w", err)
	}
	return nil
}

// Contents is the content of a VM's directory.
type Contents struct {
	// Notes are the notes of disks of the running VM, by target.
	Notes map[string]Note
	// HandedOver is by target, too.
	HandedOver map[string]HandedOver
}

// HandedOver is what exists for one disk in addition to its note.
type HandedOver struct {
	Daemon int      // the process id of the storage daemon, 0 for none
	Helper int      // the process id of the reservation helper, 0 for none
	Files  []string // ephemeral headers, and an overlay that still has its name
}

// Read returns the content of the directory. A missing directory is no error.
func (v VM) Read() (Contents, error) {
	var c Contents
	dir := v.Path()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	refuse := func(err error) (Contents, error) {
		return Contents{}, fmt.Errorf("read the files handed to the VM: %w", err)
	}
	if err != nil {
		return refuse(err)
	}
	c.Notes, c.HandedOver = v.Notes(), map[string]HandedOver{}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), readerSuffix) || v.Disk(e.Name()).foreign().PID != 0 {
			continue
		}
		if c.HandedOver[e.Name()], err = v.Disk(e.Name()).handedOver(); err != nil {
			return refuse(err)
		}
	}
	for _, e := range entries {
		target, reads := strings.CutSuffix(e.Name(), readerSuffix)
		if h := c.HandedOver[target]; reads && h.Daemon == 0 && v.Disk(target).foreign().PID == 0 {
			info, err := running(v.Disk(target).Reader().Daemon())
			if err != nil {
				return refuse(err)
			}
			h.Daemon = info.Process.PID
			c.HandedOver[target] = h
		}
	}
	for target, n := range c.Notes {
		if v.Foreign(n.Process) {
			delete(c.Notes, target)
			continue
		}
		if n.overlayIsThere(v.ID) {
			h := c.HandedOver[target]
			h.Files = append(h.Files, n.Overlay)
			c.HandedOver[target] = h
		}
		if n.Process.PID != 0 && !n.Process.Alive() {
			delete(c.Notes, target) // of an earlier VM with the same identity
		}
	}
	return c, nil
}

// Gone removes the directory of a VM that has ended, after it has ended its storage
// daemons and removed overlays that still have a name. A directory with a disk of another
// VM, see [VM.Own], is refused and stays. Other failures are joined in the error and do not
// stop the removal.
func (v VM) Gone(ctx context.Context) error {
	entries, err := os.ReadDir(v.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read the files handed to the VM: %w", err)
	}
	if err := v.Own(); err != nil {
		return err
	}
	var failed []error
	for _, n := range v.Notes() {
		failed = append(failed, n.removeOverlay(v.ID))
	}
	for _, e := range entries {
		if !e.IsDir() {
			continue
		}
		if target, reads := strings.CutSuffix(e.Name(), readerSuffix); reads {
			failed = append(failed, v.Disk(target).Reader().Stop(ctx))
		} else {
			d := v.Disk(e.Name())
			failed = append(failed, d.removeFiles(), daemon.Stop(ctx, d.HandOver()))
		}
	}
	if err := os.RemoveAll(v.Path()); err != nil {
		failed = append(failed, fmt.Errorf("remove the files handed to the VM: %w", err))
	}
	return errors.Join(failed...)
}

// Disk is the part of a VM's directory that belongs to one disk.
type Disk struct {
	VM     VM
	Target string
}

// HandOver returns the directory of files that are handed to QEMU, or of the disk's daemon.
func (d Disk) HandOver() string { return filepath.Join(d.VM.Path(), d.Target) }

// NotePath returns the file of the disk's note.
func (d Disk) NotePath() string { return d.HandOver() + noteSuffix }

// RemoveHandOver removes the directory [Disk.HandOver]. A missing directory is no error.
func (d Disk) RemoveHandOver() error {
	err := d.own()
	if err == nil {
		err = os.RemoveAll(d.HandOver())
	}
	if err != nil {
		return fmt.Errorf("directory for the hand-over: %w", err)
	}
	return nil
}

// MakeHandOver makes the directory [Disk.HandOver], empty and accessible to QEMU's user
// only.
func (d Disk) MakeHandOver(user hostproc.Credential) (string, error) {
	path := d.HandOver()
	if err := d.RemoveHandOver(); err != nil {
		return "", err
	}
	if err := d.VM.Make(); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("directory for the hand-over: %w", err)
	}
	if uid := int(user.UID); uid != os.Geteuid() {
		if err := os.Lchown(path, uid, int(user.GID)); err != nil {
			return "", fmt.Errorf("directory for the hand-over to QEMU's user: %w", err)
		}
	}
	return path, nil
}

// handedOver reads the directory of the hand-over.
func (d Disk) handedOver() (HandedOver, error) {
	var out HandedOver
	info, err := running(d.HandOver())
	if pid := info.Process.PID; err != nil || pid != 0 {
		if info.Kind == daemon.KindHelper {
			return HandedOver{Helper: pid}, err
		}
		return HandedOver{Daemon: pid}, err
	}
	entries, err := os.ReadDir(d.HandOver())
	for _, e := range entries {
		if _, _, ours := blockgraph.ParseName(e.Name()); ours {
			out.Files = append(out.Files, filepath.Join(d.HandOver(), e.Name()))
		}
	}
	return out, err
}

// removeFiles removes the ephemeral headers that an interrupted run has left. A missing
// directory is no error.
func (d Disk) removeFiles() error {
	handed, err := d.handedOver()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the files handed over: %w", err)
	}
	for _, path := range handed.Files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove the files handed over: %w", err)
		}
	}
	return nil
}

// StopDaemons ends the storage daemons and the helper of a disk, if any, and removes the
// files that were handed over. It may be repeated.
func (d Disk) StopDaemons(ctx context.Context) error {
	if err := d.own(); err != nil {
		return err
	}
	if err := d.removeFiles(); err != nil { // daemon.Stop refuses a directory with other files
		return err
	}
	if err := daemon.Stop(ctx, d.HandOver()); err != nil {
		return fmt.Errorf("end the daemon of disk %s: %w", d.Target, err)
	}
	return d.Reader().Stop(ctx)
}

// Forget removes the note of a disk, its overlay if that has a name, the files that were
// handed over, and the VM's directory if it is then empty. It refuses while a process of
// the disk runs, which could not be found again.
func (d Disk) Forget() error {
	if err := d.own(); err != nil {
		return err
	}
	switch info, err := running(d.HandOver()); {
	case err != nil:
		return fmt.Errorf("read the files handed over: %w", err)
	case info.Process.PID != 0:
		return fmt.Errorf("process %d of disk %s still runs", info.Process.PID, d.Target)
	}
	if err := d.VM.Notes()[d.Target].removeOverlay(d.VM.ID); err != nil {
		return err
	}
	if err := os.Remove(d.NotePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note of the disk: %w", err)
	}
	if err := os.RemoveAll(d.HandOver()); err != nil {
		return fmt.Errorf("remove the files handed over: %w", err)
	}
	_ = os.Remove(d.VM.Path()) // refused while it has other disks
	return nil
}

// Reader is the directory of a storage daemon that reads an image for luksplug.
type Reader string

const readerSuffix = ".read"

// Reader returns the disk's, next to [Disk.HandOver].
func (d Disk) Reader() Reader { return Reader(d.HandOver() + readerSuffix) }

// Daemon returns the directory of the daemon itself.
func (r Reader) Daemon() string { return filepath.Join(string(r), "daemon") }

// Make makes the directory. The daemon runs as user, nil for this process's user.
func (r Reader) Make(user *hostproc.Credential) error {
	if err := os.Mkdir(string(r), 0o700); err != nil {
		return fmt.Errorf("directory for a storage daemon: %w", err)
	}
	if user != nil && int(user.UID) != os.Geteuid() { // which has to pass through
		if err := os.Chmod(string(r), 0o711); err != nil {
			return fmt.Errorf("directory for a storage daemon: %w", err)
		}
	}
	return nil
}

// Stop ends the daemon and removes the directory. A missing directory is no error.
func (r Reader) Stop(ctx context.Context) error {
	if err := daemon.Abort(ctx, r.Daemon()); err != nil {
		return fmt.Errorf("end a storage daemon: %w", err)
	}
	if err := os.RemoveAll(string(r)); err != nil {
		return fmt.Errorf("directory of a storage daemon: %w", err)
	}
	_ = os.Remove(filepath.Dir(string(r))) // refused while it has other files
	return nil
}

// running returns the daemon or helper of a directory; without a process id if there is
// none.
func running(dir string) (daemon.Info, error) {
	info, err := daemon.Inspect(dir)
	if errors.Is(err, daemon.ErrNotRunning) {
		return daemon.Info{}, nil
	}
	return info, err
}
