package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/access"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// note is what QEMU cannot tell of an encrypted disk: which secret it was unlocked
// with and, where that was done outside of QEMU, where the original header is. It
// is kept on tmpfs for as long as the disk is attached. It holds no secret, and nothing breaks without it: list shows less,
// and another VM's attach does not see that the header is in use.
type note struct {
	Target  string         `json:"target"`
	VM      string         `json:"vm,omitempty"` // for messages
	Way     blockgraph.Way `json:"unlock"`
	Payload string         `json:"payload"`
	Header  string         `json:"header,omitempty"`
	UUID    string         `json:"uuid,omitempty"` // of the LUKS volume
	Secrets noteSecrets    `json:"secrets,omitempty"`
	Overlay string         `json:"overlay,omitempty"` // the file, which has no name any more once it is open
	Kept    string         `json:"kept,omitempty"`    // see AttachOptions
	// Process is the VM's; without a PID where that is not known.
	Process hostproc.Process `json:"process"`
}

const noteSuffix = ".json"

// runDir is the folder of everything on this host that belongs to the VM:
//
//	TARGET.json  a note of an attached disk
//	TARGET/      what is handed to the VM's QEMU, whose user owns it
//
// Others may pass through it, since QEMU may be another user, but not list it.
func (vm *VM) runDir(ctx context.Context) (string, error) {
	base, err := vm.runBase()
	if err != nil {
		return "", err
	}
	id, err := vm.identity(ctx)
	return filepath.Join(base, id), err
}

// runBase is the parent of these folders. It is in memory wherever the host has
// a place that is: in a container, /run need not be one.
func (vm *VM) runBase() (string, error) {
	if vm.opts.RunDir != "" {
		return vm.opts.RunDir, nil
	}
	top, err := "/run/luksplug", error(nil)
	if os.Geteuid() != 0 {
		if top, err = userDir(); err != nil {
			return "", err
		}
	}
	const shared = "/dev/shm"
	// The folder itself may be one that somebody has mounted.
	if inMemory(top) == nil || inMemory(filepath.Dir(top)) == nil || inMemory(shared) != nil {
		return filepath.Join(top, "vm"), nil
	}
	// Anybody can make a folder there.
	dir := filepath.Join(shared, "luksplug-"+strconv.Itoa(os.Geteuid()))
	return filepath.Join(dir, "vm"), ownDir(dir)
}

// CheckRunDir tells whether this host has a place in memory for what is handed to
// QEMU by path. Nothing is made there.
func CheckRunDir() error { return (&VM{}).checkRunBase() }

func (vm *VM) checkRunBase() error {
	dir, err := vm.runBase()
	if err != nil {
		return err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
			return inMemory(dir)
		}
	}
}

// makeRunDir makes the VM's folder.
func (vm *VM) makeRunDir(ctx context.Context) error {
	dir, err := vm.runDir(ctx)
	if err != nil {
		return err
	}
	if err := access.MakeFolder(dir); err != nil {
		return fmt.Errorf("folder for what is attached: %w", err)
	}
	_, err = vm.runBase() // it may have been made by somebody else meanwhile
	return err
}

// writeNote keeps the note of a disk. A note that was there is replaced.
func (vm *VM) writeNote(ctx context.Context, n note) error {
	dir, err := vm.runDir(ctx)
	if err != nil {
		return err
	}
	n.VM = vm.opts.Name
	if p, err := vm.process(ctx); err == nil && p.PID != 0 {
		if n.Process, err = hostproc.ProcessOf(p.PID); err != nil {
			return fmt.Errorf("the VM's process: %w", err)
		}
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	if err := vm.makeRunDir(ctx); err != nil {
		return err
	}
	path := filepath.Join(dir, n.Target+noteSuffix)
	if err := fsutil.Replace(nil, path, append(text, '\n'), fsutil.Options{Mode: 0o600}); err != nil {
		return fmt.Errorf("note what is attached: %w", err)
	}
	return nil
}

// readNotes returns the notes in the folder of one VM, by target. A note that
// cannot be read is as good as none.
func readNotes(dir string) map[string]note {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil
	}
	out := map[string]note{}
	for _, e := range entries {
		target, isNote := strings.CutSuffix(e.Name(), noteSuffix)
		if !isNote {
			continue
		}
		if text, err := os.ReadFile(filepath.Join(dir, e.Name())); err == nil {
			var n note
			if json.Unmarshal(text, &n) == nil && n.Target == target {
				out[target] = n
			}
		}
	}
	return out
}

// handedOver is what is in the folder of one disk.
type handedOver struct {
	daemon int      // the process id of the storage daemon, 0 for none
	helper int      // that of the reservation helper
	files  []string // ephemeral headers, and an overlay that still has its name
}

// readRunDir adds to a state what the VM's folder on this host tells.
func (vm *VM) readRunDir(ctx context.Context, s *State) error {
	dir, err := vm.runDir(ctx)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at what was handed to the VM: %w", err)
	}
	s.notes, s.handedOver = readNotes(dir), map[string]handedOver{}
	var overlays = map[string]string{}
	for target, n := range s.notes {
		if n.overlayIsThere(filepath.Base(dir)) {
			overlays[target] = n.Overlay
		}
	}
	for target, n := range s.notes {
		if n.Process.PID != 0 && !runs(n.Process) {
			delete(s.notes, target) // of a VM that is gone, whose place this one has taken
		}
	}
	for _, e := range entries {
		if !e.IsDir() || strings.HasSuffix(e.Name(), readSuffix) {
			continue
		}
		if s.handedOver[e.Name()], err = readHandOver(filepath.Join(dir, e.Name())); err != nil {
			return fmt.Errorf("look at what was handed to the VM: %w", err)
		}
	}
	for _, e := range entries {
		target, reads := strings.CutSuffix(e.Name(), readSuffix)
		if h := s.handedOver[target]; reads && h.daemon == 0 {
			info, err := runningDaemon(filepath.Join(dir, e.Name(), readDaemon))
			if err != nil {
				return fmt.Errorf("look at what was handed to the VM: %w", err)
			}
			h.daemon = info.Process.PID
			s.handedOver[target] = h
		}
	}
	for target, path := range overlays {
		h := s.handedOver[target]
		h.files = append(h.files, path)
		s.handedOver[target] = h
	}
	return nil
}

// runningDaemon returns the daemon or helper of a folder, without a process id
// for none.
func runningDaemon(dir string) (daemon.Info, error) {
	info, err := daemon.Inspect(dir)
	if errors.Is(err, daemon.ErrNotRunning) {
		return daemon.Info{}, nil
	}
	return info, err
}

func readHandOver(dir string) (handedOver, error) {
	var out handedOver
	info, err := runningDaemon(dir)
	if pid := info.Process.PID; err != nil || pid != 0 {
		if info.Kind == daemon.KindHelper {
			return handedOver{helper: pid}, err
		}
		return handedOver{daemon: pid}, err
	}
	entries, err := os.ReadDir(dir)
	for _, e := range entries {
		if _, _, ours := blockgraph.ParseName(e.Name()); ours {
			out.files = append(out.files, filepath.Join(dir, e.Name()))
		}
	}
	return out, err
}

// removeHandedOver removes the ephemeral headers that an interrupted run has left
// in the folder of a disk. No folder is no error.
func removeHandedOver(dir string) error {
	handed, err := readHandOver(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("look at what was handed over: %w", err)
	}
	for _, path := range handed.files {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove what was handed over: %w", err)
		}
	}
	return nil
}

// forgetOthers removes the notes of disks that the VM does not have: a run was
// interrupted before the VM heard of the disk, or the VM has been started again.
// The VM must be locked.
func (vm *VM) forgetOthers(ctx context.Context, s *State) error {
	if !vm.filesAreLocal() {
		return nil
	}
	dir, err := vm.runDir(ctx)
	if err != nil {
		return err
	}
	for target := range readNotes(dir) {
		if s.Holding(target) == nil {
			if err := vm.forget(ctx, target); err != nil {
				return err
			}
		}
	}
	return nil
}

// forget removes the note of a disk and the folder of what was handed over,
// and, when they were the last, the VM's folder.
func (vm *VM) forget(ctx context.Context, target string) error {
	dir, err := vm.runDir(ctx)
	if err != nil {
		return err
	}
	if err := readNotes(dir)[target].removeOverlay(filepath.Base(dir)); err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, target+noteSuffix)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the note of what was attached: %w", err)
	}
	if err := os.RemoveAll(filepath.Join(dir, target)); err != nil {
		return fmt.Errorf("remove what was handed over: %w", err)
	}
	_ = os.Remove(dir) // refused while there are other disks
	return nil
}

// handOverPath returns the folder for what is handed to the VM's QEMU.
func (vm *VM) handOverPath(ctx context.Context, target string) (string, error) {
	dir, err := vm.runDir(ctx)
	return filepath.Join(dir, target), err
}

// makeHandOverDir makes that folder, empty and open to QEMU's user only.
func (vm *VM) makeHandOverDir(ctx context.Context, target string, owner *Process) (string, error) {
	path, err := vm.handOverPath(ctx, target)
	if err != nil {
		return "", err
	}
	if err := os.RemoveAll(path); err != nil {
		return "", fmt.Errorf("folder for the hand-over: %w", err)
	}
	if err := vm.makeRunDir(ctx); err != nil {
		return "", err
	}
	if err := os.Mkdir(path, 0o700); err != nil {
		return "", fmt.Errorf("folder for the hand-over: %w", err)
	}
	if uid := int(owner.User.UID); uid != os.Geteuid() {
		if err := os.Lchown(path, uid, int(owner.User.GID)); err != nil {
			return "", fmt.Errorf("folder for the hand-over to QEMU's user: %w", err)
		}
	}
	return path, nil
}

// otherUser returns the note of a disk in another VM of this host that has the
// same header, nil for none. The original header is not open in any QEMU, so
// that no image lock tells. Notes of VMs that are gone are removed.
func (vm *VM) otherUser(ctx context.Context, header, uuid string) (*note, error) {
	base, err := vm.runBase()
	if err != nil {
		return nil, err
	}
	own, err := vm.runDir(ctx)
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(base)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("look for other users of the header: %w", err)
	}
	for _, e := range entries {
		dir := filepath.Join(base, e.Name())
		if !e.IsDir() || dir == own {
			continue
		}
		for target, n := range readNotes(dir) {
			switch {
			case !n.stands():
				_ = n.removeOverlay(e.Name())                        // tried again, too
				_ = os.Remove(filepath.Join(dir, target+noteSuffix)) // tried again next time
				_ = os.Remove(dir)                                   // refused while there is more in it
			case n.Header != "" && (uuid != "" && uuid == n.UUID || image.SameFile(header, n.Header)):
				return &n, nil
			}
		}
	}
	return nil, nil
}

// stands tells whether the disk of a note is still attached: its VM runs, or,
// where its process is not known, somebody has its payload open.
func (n *note) stands() bool {
	if n.Process.PID != 0 {
		return runs(n.Process)
	}
	return errors.Is(image.CheckLock(n.Payload, image.ReadWrite), image.ErrLocked)
}

// runs tells whether that very process is still there.
func runs(p hostproc.Process) bool {
	return p.Alive()
}

// addNote adds what QEMU does not know: a note that speaks of another volume is
// one of another disk, which had the same target.
func (h *Holding) addNote(n note) {
	if n.Way != h.Unlock || h.UUID != "" && n.UUID != h.UUID {
		return
	}
	h.Header, h.Kept = n.Header, n.Kept
	if h.Payload == "" {
		h.Payload = n.Payload
	}
	if h.UUID == "" {
		h.UUID = n.UUID
	}
}
