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
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Base is the parent of the VMs' directories.
type Base string

// OwnersDir is where below a [Base] the registry of given images is, for users
// other than root.
const OwnersDir = "owners"

// BaseOf returns the base of the options; "" for the system's own place. That is in
// memory wherever the host has a place that is: in a container, /run need not be.
func BaseOf(dir string) (Base, error) {
	if dir != "" {
		return Base(dir), nil
	}
	top, err := "/run/luksplug", error(nil)
	if os.Geteuid() != 0 {
		if top, err = userDir(); err != nil {
			return "", err
		}
	}
	const shared = "/dev/shm"
	// The directory itself may be a mount point.
	if InMemory(top) == nil || InMemory(filepath.Dir(top)) == nil || InMemory(shared) != nil {
		return Base(filepath.Join(top, "vm")), nil
	}
	// Any user can make a directory there.
	own := filepath.Join(shared, "luksplug-"+strconv.Itoa(os.Geteuid()))
	return Base(filepath.Join(own, "vm")), ownDir(own)
}

// Check reports whether files below the base are in memory, as an error where they
// are not. Nothing is made there.
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
		return fmt.Errorf("look at directory %s: %w", dir, err)
	}
	switch uint32(st.Type) {
	case unix.TMPFS_MAGIC, unix.RAMFS_MAGIC:
		return nil
	}
	return fmt.Errorf("the directory %s is not on tmpfs: an ephemeral header may not be written there", dir)
}

// userDir is the directory for the files of a user who is not root.
func userDir() (string, error) {
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		return filepath.Join(dir, "luksplug"), nil
	}
	dir := filepath.Join(os.TempDir(), "luksplug-"+strconv.Itoa(os.Geteuid()))
	if err := ownDir(dir); err != nil {
		return "", fmt.Errorf("%w: set XDG_RUNTIME_DIR", err)
	}
	return dir, nil
}

// ownDir refuses a directory of another user, in a place where any user can make
// one. It need not be there.
func ownDir(dir string) error {
	var st unix.Stat_t
	err := unix.Lstat(dir, &st)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return fmt.Errorf("directory %s: %w", dir, err)
	case st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != os.Geteuid() || st.Mode&0o022 != 0:
		return fmt.Errorf("%s is not a directory that only this user can write to", dir)
	}
	return nil
}

// VM is the directory of one VM.
type VM struct {
	Base Base
	// ID is the VM's identity, the same for every way to reach its monitor.
	ID string
}

// Path is where the directory is.
func (v VM) Path() string { return filepath.Join(string(v.Base), v.ID) }

// Disk returns the part of the directory that belongs to one disk.
func (v VM) Disk(target string) Disk { return Disk{VM: v, Target: target} }

// Make makes the directory.
func (v VM) Make() error {
	if err := access.MakeDir(v.Path()); err != nil {
		return fmt.Errorf("directory for what is attached: %w", err)
	}
	// In /dev/shm any user can make a directory, and may have been quicker.
	if usual, err := BaseOf(""); usual == v.Base {
		return err
	}
	return nil
}

// Contents is what the directory of a VM holds.
type Contents struct {
	// Notes are those of disks of the VM as it runs now, by target.
	Notes map[string]Note
	// HandedOver is by target, too.
	HandedOver map[string]HandedOver
}

// HandedOver is what there is for one disk besides its note.
type HandedOver struct {
	Daemon int      // the process id of the storage daemon, 0 for none
	Helper int      // the process id of the reservation helper, 0 for none
	Files  []string // ephemeral headers, and an overlay that still has its name
}

// Read returns what the directory holds. No directory is no error.
func (v VM) Read() (Contents, error) {
	var c Contents
	dir := v.Path()
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return c, nil
	}
	refuse := func(err error) (Contents, error) {
		return Contents{}, fmt.Errorf("look at what was handed to the VM: %w", err)
	}
	if err != nil {
		return refuse(err)
	}
	c.Notes, c.HandedOver = v.Notes(), map[string]HandedOver{}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), readerSuffix) {
			continue
		}
		if c.HandedOver[e.Name()], err = v.Disk(e.Name()).handedOver(); err != nil {
			return refuse(err)
		}
	}
	for _, e := range entries {
		target, reads := strings.CutSuffix(e.Name(), readerSuffix)
		if h := c.HandedOver[target]; reads && h.Daemon == 0 {
			info, err := running(v.Disk(target).Reader().Daemon())
			if err != nil {
				return refuse(err)
			}
			h.Daemon = info.Process.PID
			c.HandedOver[target] = h
		}
	}
	for target, n := range c.Notes {
		if n.overlayIsThere(v.ID) {
			h := c.HandedOver[target]
			h.Files = append(h.Files, n.Overlay)
			c.HandedOver[target] = h
		}
		if n.Process.PID != 0 && !n.Process.Alive() {
			delete(c.Notes, target) // of a VM that is gone, whose place this one has taken
		}
	}
	return c, nil
}

// Gone removes the whole directory of a VM that is gone: its storage daemons are
// ended, and overlays that still have a name removed. What cannot be removed is in
// the error; the rest is removed all the same.
func (v VM) Gone(ctx context.Context) error {
	entries, err := os.ReadDir(v.Path())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at what was handed to the VM: %w", err)
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
		failed = append(failed, fmt.Errorf("remove what was handed to the VM: %w", err))
	}
	return errors.Join(failed...)
}

// Disk is what belongs to one disk in the directory of its VM.
type Disk struct {
	VM     VM
	Target string
}

// HandOver is the directory of what is handed to QEMU, or of the disk's daemon.
func (d Disk) HandOver() string { return filepath.Join(d.VM.Path(), d.Target) }

// NotePath is the file of the disk's note.
func (d Disk) NotePath() string { return d.HandOver() + noteSuffix }

// MakeHandOver makes the directory [Disk.HandOver], empty and open to QEMU's user
// only.
func (d Disk) MakeHandOver(user hostproc.Credential) (string, error) {
	path := d.HandOver()
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("directory for the hand-over: %w", err)
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

// handedOver looks at what is in the directory of the hand-over.
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

// removeFiles removes the ephemeral headers that an interrupted run has left. No
// directory is no error.
func (d Disk) removeFiles() error {
	handed, err := d.handedOver()
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at what was handed over: %w", err)
	}
	for _, path := range handed.Files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was handed over: %w", err)
		}
	}
	return nil
}

// StopDaemons ends the storage daemons and the helper of a disk, if there are any,
// and removes what was handed over. Doing it again does no harm.
func (d Disk) StopDaemons(ctx context.Context) error {
	if err := d.removeFiles(); err != nil { // not a daemon's: it would not touch its directory
		return err
	}
	if err := daemon.Stop(ctx, d.HandOver()); err != nil {
		return fmt.Errorf("end the daemon of disk %s: %w", d.Target, err)
	}
	return d.Reader().Stop(ctx)
}

// Forget removes the note of a disk, its overlay where that still has a name, and
// what was handed over; and, when they were the last, the VM's directory. It refuses
// while a process of the disk runs, which could not be found again.
func (d Disk) Forget() error {
	switch info, err := running(d.HandOver()); {
	case err != nil:
		return fmt.Errorf("look at what was handed over: %w", err)
	case info.Process.PID != 0:
		return fmt.Errorf("process %d of disk %s still runs", info.Process.PID, d.Target)
	}
	if err := d.VM.Notes()[d.Target].removeOverlay(d.VM.ID); err != nil {
		return err
	}
	if err := os.Remove(d.NotePath()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note of what was attached: %w", err)
	}
	if err := os.RemoveAll(d.HandOver()); err != nil {
		return fmt.Errorf("remove what was handed over: %w", err)
	}
	_ = os.Remove(d.VM.Path()) // refused while there are other disks
	return nil
}

// Reader is the directory of a storage daemon that reads an image for luksplug.
type Reader string

const readerSuffix = ".read"

// Reader returns the disk's, beside [Disk.HandOver].
func (d Disk) Reader() Reader { return Reader(d.HandOver() + readerSuffix) }

// Daemon is the directory of the daemon itself.
func (r Reader) Daemon() string { return filepath.Join(string(r), "daemon") }

// Make makes the directory. The daemon runs as user, nil for ourselves.
func (r Reader) Make(user *hostproc.Credential) error {
	if err := os.Mkdir(string(r), 0o700); err != nil {
		return fmt.Errorf("directory for a storage daemon: %w", err)
	}
	if user != nil && int(user.UID) != os.Geteuid() { // has to pass through
		if err := os.Chmod(string(r), 0o711); err != nil {
			return fmt.Errorf("directory for a storage daemon: %w", err)
		}
	}
	return nil
}

// Stop ends the daemon and removes the directory. No directory is no error.
func (r Reader) Stop(ctx context.Context) error {
	if err := daemon.Abort(ctx, r.Daemon()); err != nil {
		return fmt.Errorf("end a storage daemon: %w", err)
	}
	if err := os.RemoveAll(string(r)); err != nil {
		return fmt.Errorf("directory of a storage daemon: %w", err)
	}
	_ = os.Remove(filepath.Dir(string(r))) // refused while there is more in it
	return nil
}

// running returns the daemon or helper of a directory, without a process id for
// none.
func running(dir string) (daemon.Info, error) {
	info, err := daemon.Inspect(dir)
	if errors.Is(err, daemon.ErrNotRunning) {
		return daemon.Info{}, nil
	}
	return info, err
}
