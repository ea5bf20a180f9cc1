package hotplug

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/hotplug/access"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

// Starting is a VM of this host whose QEMU is not there yet: its disks are given
// to QEMU as arguments, and what these refer to is put where QEMU reads it as it
// starts. It is what a libvirt hook works with.
//
// A Starting is used by one goroutine at a time. Whoever starts the VM sees to it
// that nobody else does.
type Starting struct {
	vm *VM
}

// NewStarting returns the VM with this UUID, whose QEMU is going to run as user.
// Of opts only Name, Log, RunDir and LockDir are used.
func NewStarting(id string, user *hostproc.Credential, opts Options) *Starting {
	opts.Files = FilesLocal
	opts.Recovery = defaultRecovery
	return &Starting{vm: &VM{opts: opts, id: id, proc: &Process{User: user}, log: opts.logger()}}
}

// Arrival says where the VM comes from.
type Arrival string

const (
	// ArrivalBoot: it starts from nothing. Nobody has its images open.
	ArrivalBoot Arrival = ""
	// ArrivalRestore: it comes from a file of its state. Nobody has its images
	// open.
	ArrivalRestore Arrival = "restore"
	// ArrivalMigration: another QEMU, of this VM, has its images open until it
	// hands them over.
	ArrivalMigration Arrival = "migration"
)

// StartDisk is a disk of a VM that is about to start.
type StartDisk struct {
	Disk *blockgraph.Disk
	// Devices are the disk's devices as they were, see [blockgraph.Machine]; nil
	// has QEMU choose the place.
	Devices []blockgraph.Object
	// Way is how the volume is opened: ByQEMU or ByHeader. Nobody is kept waiting
	// by a QEMU that has not started its guest, but ByHeader keeps the passphrase
	// from it.
	Way blockgraph.Way
	// AllowSharedHeader is as in [AttachOptions].
	AllowSharedHeader bool
	// Relabel and Owners are as in [AttachOptions].
	Relabel bool
	Owners  []access.Owner
}

// StartWay returns the way in which the disk of a starting VM is opened that was,
// or would be, opened so in a running one.
func StartWay(disk *blockgraph.Disk, running blockgraph.Way) blockgraph.Way {
	if running != blockgraph.ByHeader {
		return blockgraph.ByQEMU
	}
	for _, layer := range disk.Layers() {
		if layer.RawLUKS() {
			return blockgraph.ByHeader
		}
	}
	return blockgraph.ByQEMU
}

// graph builds the disk's graph. It depends on nothing but the disk and the VM's
// place in the file system: what Prepare writes is what Arguments names.
func (s *Starting) graph(ctx context.Context, d StartDisk) (*blockgraph.Graph, blockgraph.Unlock, error) {
	u := blockgraph.Unlock{Way: d.Way}
	if d.Disk.Transient {
		return nil, u, &blockgraph.UnsupportedError{Element: "disk/transient", Reason: "a VM that is about to start has no transient disk of luksplug's: attach it when the VM runs"}
	}
	if managed(d.Disk) != nil {
		return nil, u, &PreflightError{Target: d.Disk.Target, Reason: "its reservations are managed, and a VM that is about to start has no qemu-pr-helper of luksplug's: run one, and name its socket with managed='no'"}
	}
	folder, err := s.vm.handOverPath(ctx, d.Disk.Target)
	if err != nil {
		return nil, u, err
	}
	if d.Way == blockgraph.ByHeader {
		u.Folder = folder
	}
	graph, err := blockgraph.Build(d.Disk, blockgraph.Machine{Devices: d.Devices}, u)
	return graph, u, err
}

// StartArguments are a disk as QEMU is started with it.
type StartArguments struct {
	// Arguments are QEMU's, an option and its value each.
	Arguments []string
	// Limits is what block_set_io_throttle is to be told once QEMU runs, nil for
	// nothing: they cannot be arguments.
	Limits blockgraph.Object
	// Reopened are the ids of secrets that QEMU needs a second time, when the
	// guest of a VM that arrives runs on: the qcow2 driver opens an image again
	// that another QEMU has had (qcow2_co_invalidate_cache).
	Reopened []string
}

// Arguments returns the disk as arguments for QEMU, which name files that
// [Starting.Prepare] makes. No file is looked at, and no secret.
func (s *Starting) Arguments(ctx context.Context, d StartDisk) (*StartArguments, error) {
	graph, _, err := s.graph(ctx, d)
	if err != nil {
		return nil, err
	}
	folder, err := s.vm.handOverPath(ctx, d.Disk.Target)
	if err != nil {
		return nil, err
	}
	out := &StartArguments{Limits: graph.Throttling, Reopened: reopened(graph)}
	graph.Throttling = nil
	out.Arguments, err = render.Arguments(graph.Plan(), func(o blockgraph.GraphObject) (string, error) { return filepath.Join(folder, o.ID), nil })
	return out, err
}

// Check finds out whether the disk could be started now: its files are looked at
// as by [VM.Attach], and its secrets are looked up, but no key is derived.
// Nothing is changed. The errors are those of Attach.
func (s *Starting) Check(ctx context.Context, d StartDisk, arrival Arrival, store secrets.Store) error {
	a, graph, err := s.check(ctx, d, arrival, store)
	if err != nil {
		return err
	}
	defer a.closeRemote(ctx)
	for _, o := range graph.Objects {
		data, ok := o.Secret()
		if !ok || !data.Kept() {
			continue
		}
		secret, err := store.Lookup(ctx, o.Ref)
		if err != nil {
			return &SecretError{Target: d.Disk.Target, Ref: o.Ref, Err: err}
		}
		secret.Wipe()
	}
	return nil
}

// check looks at the disk's files.
func (s *Starting) check(ctx context.Context, d StartDisk, arrival Arrival, store secrets.Store) (*attach, *blockgraph.Graph, error) {
	if err := d.Disk.Validate(); err != nil {
		return nil, nil, err
	}
	graph, unlock, err := s.graph(ctx, d)
	if err != nil {
		return nil, nil, err
	}
	a := &attach{vm: s.vm, disk: d.Disk, store: store, out: &Attached{}, arrival: arrival,
		options: AttachOptions{AllowSharedHeader: d.AllowSharedHeader, Relabel: d.Relabel, Owners: d.Owners}}
	_, err = a.checkFiles(ctx, unlock, &State{})
	if err == nil {
		a.permits, err = a.checkPermissions(ctx, unlock.Way)
	}
	if err != nil {
		a.closeRemote(ctx)
		return nil, nil, err
	}
	return a, graph, nil
}

// Prepare does what Check does, derives the keys, and writes what QEMU reads as
// it starts: the passphrases of [Starting.Arguments] and, by ByHeader, ephemeral
// headers, each file readable by QEMU's user alone and in memory. Images that QEMU
// may not open are given to its user, where that is wanted. After a failure all is as
// it was.
//
// The files are removed by [Starting.Started] or [Starting.Gone], and the images go
// back by [Starting.GiveBack].
func (s *Starting) Prepare(ctx context.Context, d StartDisk, arrival Arrival, store secrets.Store) (err error) {
	a, graph, err := s.check(ctx, d, arrival, store)
	if err != nil {
		return err
	}
	defer a.closeRemote(ctx)
	values, err := Resolve(ctx, graph, store, Unlocker{Open: a.openHeader})
	if err != nil {
		return err
	}
	defer values.Wipe()
	defer func() {
		if err != nil {
			err = errors.Join(err, s.vm.forbid(context.WithoutCancel(ctx), d.Disk.Target))
		}
	}()
	if err = a.permit(ctx); err != nil {
		return err
	}
	if len(graph.Objects) == 0 && len(graph.Headers) == 0 {
		return nil
	}
	folder, err := s.vm.makeHandOverDir(ctx, d.Disk.Target, s.vm.proc)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.RemoveAll(folder))
		}
	}()
	if err := inMemory(folder); err != nil {
		return err
	}
	if _, err = values.handOver(graph, s.vm.proc); err != nil {
		return err
	}
	for _, o := range graph.Objects {
		if _, ok := o.Secret(); !ok {
			continue
		}
		if err = values.writeSecret(filepath.Join(folder, o.ID), s.vm.proc, o.ID); err != nil {
			return err
		}
	}
	return nil
}

// Started removes what the disk at target was started with: QEMU has read it.
func (s *Starting) Started(ctx context.Context, target string) error {
	folder, err := s.vm.handOverPath(ctx, target)
	if err != nil {
		return err
	}
	if err := os.RemoveAll(folder); err != nil {
		return fmt.Errorf("remove what disk %s was started with: %w", target, err)
	}
	return nil
}

// Note notes the disk on this host, as an attach does, so that list shows it and
// no other VM is given its header. pid is QEMU's process, 0 where it is not known.
func (s *Starting) Note(ctx context.Context, d StartDisk, pid int) error {
	a := &attach{vm: s.vm, disk: d.Disk, out: &Attached{}}
	s.vm.proc.PID = pid
	return a.note(ctx, Unlocking{Unlock: blockgraph.Unlock{Way: d.Way}}, nil)
}

// Gone removes all of the VM's on this host: its storage daemons are ended, and
// notes and files removed. The VM's QEMU must be gone. What cannot be removed is
// in the error; the rest is removed all the same.
func (s *Starting) Gone(ctx context.Context) error {
	dir, err := s.vm.runDir(ctx)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return s.removeLock(ctx)
	}
	if err != nil {
		return fmt.Errorf("look at what was handed to the VM: %w", err)
	}
	failed := []error{s.removeLock(ctx)}
	for _, n := range readNotes(dir) {
		failed = append(failed, n.removeOverlay(filepath.Base(dir)))
	}
	for _, e := range entries {
		path := filepath.Join(dir, e.Name())
		switch {
		case !e.IsDir():
		case strings.HasSuffix(e.Name(), readSuffix):
			failed = append(failed, stopReader(ctx, path))
		default:
			failed = append(failed, removeHandedOver(path), daemon.Stop(ctx, path))
		}
	}
	if err := os.RemoveAll(dir); err != nil {
		failed = append(failed, fmt.Errorf("remove what was handed to the VM: %w", err))
	}
	return errors.Join(failed...)
}

// removeLock removes the lock file of a run that was killed. One that somebody
// holds is his to remove.
func (s *Starting) removeLock(ctx context.Context) error {
	path, err := s.vm.lockPath(ctx)
	if err != nil {
		return err
	}
	if l, err := tryLock(path); err == nil {
		l.release()
	}
	return nil
}

// GiveBack takes the images back that were given to the user of the VM's QEMU, which
// must be gone. stay leaves them as they are: a QEMU of another host goes on with
// them. owners are those that a record has: they count for images that this host has
// not given away itself, for a VM that came from another one.
func (s *Starting) GiveBack(ctx context.Context, owners []access.Owner, stay bool) error {
	_, err := s.vm.forbidAll(ctx, func(string) bool { return true }, stay)
	if stay || len(owners) == 0 || s.vm.proc.User == nil {
		return err
	}
	registry, e := s.vm.owners()
	if e == nil {
		e = registry.Restore(owners, s.vm.proc.User.UID)
	}
	return errors.Join(err, e)
}

// writeSecret writes the value of a secret object to a new file that only owner
// can read, in a folder that is in memory.
func (v *Values) writeSecret(path string, owner *Process, id string) error {
	encoded, ok := v.passphrases[id]
	if !ok {
		return fmt.Errorf("the secret of object %s was not resolved", id)
	}
	value := make([]byte, base64.StdEncoding.DecodedLen(len(encoded)))
	defer clear(value)
	n, err := base64.StdEncoding.Decode(value, encoded)
	if err != nil {
		return fmt.Errorf("the secret of object %s: %w", id, err)
	}
	return handOverFile(path, owner, "the secret of object "+id, func(write func([]byte) error) error { return write(value[:n]) })
}

// arrivalFile is where the VM's folder says where the VM comes from.
const arrivalFile = "arrival"

// Arrive notes where the VM comes from, for those who get it ready.
func (s *Starting) Arrive(ctx context.Context, a Arrival) error {
	if a == ArrivalBoot {
		return nil
	}
	if err := s.vm.makeRunDir(ctx); err != nil {
		return err
	}
	dir, err := s.vm.runDir(ctx)
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(dir, arrivalFile), []byte(a), 0o600); err != nil {
		return fmt.Errorf("note where the VM comes from: %w", err)
	}
	return nil
}

// Arrival returns what Arrive has noted since the VM was gone last; ArrivalBoot
// for nothing.
func (s *Starting) Arrival(ctx context.Context) (Arrival, error) {
	dir, err := s.vm.runDir(ctx)
	if err != nil {
		return "", err
	}
	text, err := os.ReadFile(filepath.Join(dir, arrivalFile))
	if errors.Is(err, fs.ErrNotExist) {
		return ArrivalBoot, nil
	}
	if err != nil {
		return "", fmt.Errorf("where the VM comes from: %w", err)
	}
	return Arrival(text), nil
}

// Arrived forgets what Arrive has noted.
func (s *Starting) Arrived(ctx context.Context) error {
	dir, err := s.vm.runDir(ctx)
	if err != nil {
		return err
	}
	if err := os.Remove(filepath.Join(dir, arrivalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("forget where the VM comes from: %w", err)
	}
	_ = os.Remove(dir) // refused while there is more in it
	return nil
}
