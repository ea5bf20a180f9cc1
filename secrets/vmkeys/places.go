package vmkeys

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
	"github.com/luksplug/luksplug/secrets/credentials"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
)

// The default directories of the keys of VMs: in memory, and on the disk.
const (
	Dir     = "/run/luksplug/keys"
	DiskDir = "/var/lib/luksplug/keys"
)

// Places are where a host holds the keys of its VMs. Each VM has a directory, named after
// its UUID, below each of them.
//
// Its methods are safe for concurrent use, also by several processes.
type Places struct {
	// Memory is a directory on a tmpfs. Keys are put here.
	Memory string
	// Disk is a directory to which [Places.Keep] moves the keys of a VM, encrypted; "" means
	// that all keys stay in memory.
	Disk string
	// Identity is the path of an age identity to which keys on the disk are encrypted. "" is
	// one for each VM, in its directory, which systemd-creds encrypts under the host's TPM
	// or key.
	Identity string
	// Stderr receives the messages of systemd-creds; nil discards them.
	Stderr io.Writer
}

// Default returns the usual places of a host.
func Default() Places { return Places{Memory: Dir, Disk: DiskDir} }

// sealedIdentity is the name of the identity of a VM that systemd-creds has encrypted.
const sealedIdentity = "identity.cred"

// parse returns the canonical form of a VM's UUID, which becomes the name of directories.
func parse(vm string) (string, error) {
	if vm == "" {
		return "", ErrNoVM
	}
	id, err := secrets.ParseUUID(vm)
	if err != nil {
		return "", fmt.Errorf("the UUID of the VM: %w", err)
	}
	return id.String(), nil
}

// memory returns the VM's store in memory, nil if its directory does not exist. The error
// wraps ErrDenied if the directory is not in memory.
func (p Places) memory(id string) (*dir.Store, error) {
	path := filepath.Join(p.Memory, id)
	f, err := open(path)
	if f == nil || err != nil {
		return nil, err
	}
	defer f.Close()
	if !f.InMemory() {
		return nil, fmt.Errorf("%w: the directory %s is not in memory, and the keys in it are not encrypted", secrets.ErrDenied, path)
	}
	return dir.New(path), nil
}

// disk returns the VM's store on the disk, nil if its directory does not exist.
func (p Places) disk(id string) (*age.Store, error) {
	if p.Disk == "" {
		return nil, nil
	}
	f, err := open(filepath.Join(p.Disk, id))
	if f == nil || err != nil {
		return nil, err
	}
	f.Close()
	return p.diskStore(id), nil
}

// diskStore returns the VM's store on the disk, whose directory need not exist.
func (p Places) diskStore(id string) *age.Store {
	path := filepath.Join(p.Disk, id)
	if p.Identity != "" {
		return age.New(path, age.Options{Identity: p.Identity})
	}
	host, name := credentials.Options{Stderr: p.Stderr}, "luksplug-keys-"+id
	return age.New(path, age.Options{
		Identity: filepath.Join(path, sealedIdentity),
		Seal: func(ctx context.Context, content *secrets.Secret) (*secrets.Secret, error) {
			return host.Encrypt(ctx, name, content)
		},
		Unseal: func(ctx context.Context, content *secrets.Secret) (*secrets.Secret, error) {
			return host.Decrypt(ctx, name, content)
		},
	})
}

// open opens the directory of a VM that only root and the caller can change; nil if it does
// not exist.
func open(path string) (*privdir.Dir, error) {
	if err := fsutil.CheckDir(path); err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrDenied, err)
	}
	f, err := privdir.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return f, err
}

// makeMemory returns the VM's store in memory, and makes its directory.
func (p Places) makeMemory(id string) (*dir.Store, error) {
	// QEMU's user may have to traverse the parent directory.
	err := makeParent(p.Memory)
	path := filepath.Join(p.Memory, id)
	if err == nil {
		err = fsutil.MakeDir(path, 0o700)
	}
	if err := made(err); err != nil {
		return nil, err
	}
	f, err := privdir.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if !f.InMemory() {
		_ = os.Remove(path) // fails if it is not empty
		return nil, fmt.Errorf("%w: the directory %s is not in memory", secrets.ErrPersistent, path)
	}
	return dir.New(path), nil
}

// made returns the error of making a directory as that of a store.
func made(err error) error {
	if errors.Is(err, fsutil.ErrUntrusted) {
		return fmt.Errorf("%w: %w", secrets.ErrDenied, err)
	}
	if err != nil {
		return fmt.Errorf("%w: the directory cannot be made: %w", secrets.ErrUnreachable, err)
	}
	return nil
}

// makeParent makes the parent of a directory, through which other users may pass, if it is
// missing.
func makeParent(directory string) error {
	parent := filepath.Dir(directory)
	if _, err := os.Lstat(parent); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return fsutil.MakeDir(parent, 0o711)
}

// ErrChanged reports that a key was changed in memory while it was moved to the disk.
var ErrChanged = errors.New("the key in memory was changed meanwhile, and stays there")

// Keep moves the keys of a VM from memory to the disk, and returns how many. A key leaves the
// memory only when its copy on the disk was read back and is the same. Ephemeral secrets
// stay in memory.
//
// If keys cannot be encrypted, all stay in memory, and the error wraps ErrDenied,
// ErrLocked or ErrUnreachable. Without a directory on the disk Keep does nothing.
func (p Places) Keep(ctx context.Context, vm string) (int, error) {
	id, err := parse(vm)
	if err != nil || p.Disk == "" {
		return 0, err
	}
	if _, documents, err := p.movable(ctx, id); len(documents) == 0 {
		return 0, err
	}
	err = fsutil.MakeDir(filepath.Dir(p.Disk), 0o711)
	if err == nil {
		err = fsutil.MakeDir(p.Disk, 0o700)
	}
	if err := made(err); err != nil {
		return 0, err
	}
	unlock, err := p.lock(ctx)
	if err != nil {
		return 0, err
	}
	defer unlock()
	// Wipe may have destroyed them before the directory on the disk was made.
	memory, documents, failed := p.movable(ctx, id)
	if len(documents) == 0 {
		return 0, failed
	}
	path := filepath.Join(p.Disk, id)
	_, err = os.Lstat(path)
	isNew := errors.Is(err, fs.ErrNotExist)
	if err := made(fsutil.MakeDir(path, 0o700)); err != nil {
		return 0, err
	}
	m := move{memory: memory, disk: p.diskStore(id), check: p.diskStore(id)}
	moved := 0
	for _, d := range documents {
		err := m.one(ctx, d)
		if err == nil {
			moved++
		}
		failed = errors.Join(failed, err)
	}
	if moved == 0 && isNew {
		return 0, errors.Join(failed, os.RemoveAll(path))
	}
	if note, found, err := p.Note(id); found && err == nil {
		failed = errors.Join(failed, p.SetNote(id, note)) // in the new directory as well
	}
	return moved, failed
}

// movable returns the VM's store in memory, and the secrets in it that may be moved.
func (p Places) movable(ctx context.Context, id string) (*dir.Store, []secrets.Document, error) {
	memory, err := p.memory(id)
	if err != nil || memory == nil {
		return nil, nil, err
	}
	documents, err := memory.List(ctx)
	return memory, slices.DeleteFunc(documents, func(d secrets.Document) bool { return d.Ephemeral }), err
}

// lock waits for the lock of the directory on the disk, which [Places.Keep] holds while it
// moves keys. Without the directory it does nothing.
func (p Places) lock(ctx context.Context) (unlock func(), err error) {
	f, err := open(p.Disk)
	if f == nil || err != nil {
		return func() {}, err
	}
	w, err := f.Lock(ctx)
	if err != nil {
		f.Close()
		return func() {}, err
	}
	return func() { w.Unlock(); f.Close() }, nil
}

// move moves secrets from memory to the disk.
type move struct {
	memory *dir.Store
	disk   *age.Store
	check  *age.Store // the same, opened anew: it reads the identity from the disk
}

func (m move) one(ctx context.Context, d secrets.Document) error {
	from := d.Reference()
	value, err := m.memory.Lookup(ctx, from)
	if err != nil && !errors.Is(err, secrets.ErrNoValue) {
		return err
	}
	defer value.Wipe()
	to, err := m.define(ctx, d)
	if err != nil {
		return err
	}
	if value != nil {
		if err := m.disk.Set(ctx, to, value); err != nil {
			return err
		}
		if err := same(ctx, m.check, to, value); err != nil {
			return fmt.Errorf("the copy on the disk: %w", err)
		}
		if err := same(ctx, m.memory, from, value); err != nil {
			return err
		}
		file := m.memory.ValueFile(ctx, from)
		if err := shred(filepath.Dir(file), filepath.Base(file)); err != nil {
			return err
		}
	}
	if d.UUID == uuid.Nil {
		return nil // which has no document
	}
	err = m.memory.Remove(ctx, from)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil // it had no document
	}
	return err
}

// define defines a secret on the disk, unless it is there already, and returns the
// reference to it. A key that is named by its usage gets a uuid.
func (m move) define(ctx context.Context, d secrets.Document) (secrets.Reference, error) {
	if d.UUID == uuid.Nil || d.UsageType == secrets.UsageNone {
		there, err := m.disk.Describe(ctx, d.Reference())
		if err == nil {
			return there.Reference(), nil
		}
		if !errors.Is(err, secrets.ErrNotFound) && !errors.Is(err, secrets.ErrWrongType) {
			return secrets.Reference{}, err
		}
	}
	if d.UUID == uuid.Nil {
		d.UUID = uuid.New()
	}
	return d.Reference(), m.disk.Define(ctx, d)
}

// same returns an error unless the store has that value.
func same(ctx context.Context, store secrets.Store, ref secrets.Reference, value *secrets.Secret) error {
	found, err := store.Lookup(ctx, ref)
	if err != nil {
		return err
	}
	defer found.Wipe()
	if !found.Equal(value) {
		return fmt.Errorf("secret with %s: %w", ref, ErrChanged)
	}
	return nil
}

// CheckDisk returns an error if keys cannot be encrypted for the disk here: they stay in
// memory then. It writes nothing.
func (p Places) CheckDisk(ctx context.Context) error {
	if p.Disk == "" {
		return errNoDisk
	}
	if p.Identity != "" {
		f, err := privdir.Open(filepath.Dir(p.Identity))
		if err != nil {
			return fmt.Errorf("the identity: %w", err)
		}
		defer f.Close()
		file, err := f.Open(filepath.Base(p.Identity))
		if err != nil {
			return fmt.Errorf("the identity: %w", err)
		}
		return file.Close()
	}
	sample := secrets.New([]byte("a text that is not secret"))
	defer sample.Wipe()
	host := credentials.Options{Stderr: p.Stderr}
	const name = "luksplug-check"
	sealed, err := host.Encrypt(ctx, name, sample)
	if err != nil {
		return err
	}
	defer sealed.Wipe()
	opened, err := host.Decrypt(ctx, name, sealed)
	opened.Wipe()
	return err
}

var errNoDisk = errors.New("no directory on the disk is configured for them")

// VM is a VM of which the host holds keys.
type VM struct {
	UUID string
	// InMemory and OnDisk are numbers of values. A value that is in both is in both.
	InMemory, OnDisk int
	// Put is when the last key was put in memory; the zero time if there is none.
	Put time.Time
	// Note is what was noted of the VM, nil for nothing.
	Note *Note
}

// VMs returns the VMs of which the host holds keys, or has held them, sorted by UUID. If
// the note of one cannot be read, it returns no VMs.
func (p Places) VMs() ([]VM, error) {
	var ids []string
	for _, place := range p.directories() {
		entries, err := os.ReadDir(place)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("the keys of VMs: %w", err)
		}
		for _, e := range entries {
			if id, err := parse(e.Name()); err == nil && id == e.Name() && e.IsDir() && !slices.Contains(ids, id) {
				ids = append(ids, id)
			}
		}
	}
	slices.Sort(ids)
	var out []VM
	for _, id := range ids {
		vm, err := p.look(id)
		if err != nil {
			return nil, fmt.Errorf("the keys of VM %s: %w", id, err)
		}
		out = append(out, vm)
	}
	return out, nil
}

// Holds reports whether the host has a directory with keys of the VM.
func (p Places) Holds(vm string) bool {
	id, err := parse(vm)
	return err == nil && slices.ContainsFunc(p.directories(), func(place string) bool {
		_, err := os.Lstat(filepath.Join(place, id))
		return err == nil
	})
}

func (p Places) directories() []string {
	if p.Disk == "" {
		return []string{p.Memory}
	}
	return []string{p.Memory, p.Disk}
}

func (p Places) look(id string) (VM, error) {
	vm := VM{UUID: id}
	err := p.files(p.Memory, id, func(name string, info fs.FileInfo) {
		if !strings.HasSuffix(name, privdir.DocumentSuffix) {
			vm.InMemory++
		}
		if info.ModTime().After(vm.Put) {
			vm.Put = info.ModTime()
		}
	})
	if err == nil && p.Disk != "" {
		err = p.files(p.Disk, id, func(name string, _ fs.FileInfo) {
			if strings.HasSuffix(name, age.ValueSuffix) {
				vm.OnDisk++
			}
		})
	}
	if err != nil {
		return vm, err
	}
	note, found, err := p.Note(id)
	if found {
		vm.Note = &note
	}
	return vm, err
}

// files calls f for each regular file of a VM that may be a key's.
func (p Places) files(place, id string, f func(name string, info fs.FileInfo)) error {
	entries, err := os.ReadDir(filepath.Join(place, id))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, e := range entries {
		if !e.Type().IsRegular() || strings.HasPrefix(e.Name(), ".") || e.Name() == noteName {
			continue
		}
		if info, err := e.Info(); err == nil { // otherwise it was removed meanwhile
			f(e.Name(), info)
		}
	}
	return err
}
