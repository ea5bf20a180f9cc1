package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

// Engine copies the disk of a VM. [InVM] does it for disks that luksplug has attached. The methods are those of hotplug.VM; no
// method holds the VM's monitor after it has returned.
type Engine interface {
	Start(ctx context.Context, to *blockgraph.Disk, store secrets.Store, options hotplug.CopyOptions) error
	Copy(ctx context.Context) (*hotplug.Copy, error)
	// Payload returns the path of the image that the disk uses.
	Payload(ctx context.Context) (string, error)
	Converge(ctx context.Context) error
	SetSpeed(ctx context.Context, speed int64) error
	Resume(ctx context.Context) error
	Switch(ctx context.Context, s hotplug.Switch) (*hotplug.Switched, error)
	Cancel(ctx context.Context) error
	End(ctx context.Context) error
	// Renamed is called when files that the VM has open were renamed.
	Renamed(ctx context.Context, r hotplug.Renaming) error
}

// InVM is the [Engine] for a disk that luksplug has attached.
type InVM struct {
	// Target is the disk's target.
	Target string
	// With calls f with the VM. It connects to the VM for that, and disconnects afterwards.
	With func(ctx context.Context, f func(ctx context.Context, vm *hotplug.VM) error) error
}

// Start implements [Engine].
func (e InVM) Start(ctx context.Context, to *blockgraph.Disk, store secrets.Store, options hotplug.CopyOptions) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		return vm.StartCopy(ctx, e.Target, to, store, options)
	})
}

// Copy implements [Engine].
func (e InVM) Copy(ctx context.Context) (out *hotplug.Copy, err error) {
	err = e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		out, err = vm.Copy(ctx, e.Target)
		return err
	})
	return out, err
}

// Payload implements [Engine].
func (e InVM) Payload(ctx context.Context) (out string, err error) {
	err = e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		disks, err := vm.List(ctx)
		for _, d := range disks {
			if d.Target == e.Target {
				out = d.Payload
				return nil
			}
		}
		if err == nil {
			err = &hotplug.NotHeldError{Target: e.Target}
		}
		return err
	})
	return out, err
}

// Converge implements [Engine].
func (e InVM) Converge(ctx context.Context) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.ConvergeCopy(ctx, e.Target) })
}

// SetSpeed implements [Engine].
func (e InVM) SetSpeed(ctx context.Context, speed int64) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.SetCopySpeed(ctx, e.Target, speed) })
}

// Resume implements [Engine].
func (e InVM) Resume(ctx context.Context) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.ResumeCopy(ctx, e.Target) })
}

// Switch implements [Engine].
func (e InVM) Switch(ctx context.Context, s hotplug.Switch) (out *hotplug.Switched, err error) {
	err = e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		out, err = vm.SwitchCopy(ctx, e.Target, s)
		return err
	})
	return out, err
}

// Cancel implements [Engine].
func (e InVM) Cancel(ctx context.Context) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.CancelCopy(ctx, e.Target) })
}

// End implements [Engine].
func (e InVM) End(ctx context.Context) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.EndCopy(ctx, e.Target) })
}

// Renamed implements [Engine].
func (e InVM) Renamed(ctx context.Context, r hotplug.Renaming) error {
	return e.With(ctx, func(ctx context.Context, vm *hotplug.VM) error { return vm.NoteRenamed(ctx, e.Target, r) })
}

// References are what refers to the disk besides QEMU, such as libvirt's records.
type References interface {
	// Kept returns the text that is kept on the host for the new volume, see [hotplug.CopyOptions].
	Kept() string
	// Move makes them refer to the new volume, and MoveBack to the old one. Both may be repeated, also after a failure.
	Move(ctx context.Context) error
	MoveBack(ctx context.Context) error
}

// Setting is where a re-encryption takes place.
type Setting struct {
	Journal Journal
	// Engine copies in the VM.
	Engine Engine
	// Refer returns the references to the disk of an entry; nil for a VM without any. In place it is called a second time after
	// the files have their last names, with an entry that says from where to where the references move: Source is then the new
	// volume by its first names, and Target the same one by those that the old one had.
	Refer func(ctx context.Context, e Entry) (References, error)
	// Store looks up the passphrase of the new volume.
	Store secrets.Store
	// Keys stores a new passphrase.
	Keys volume.Keys
	// Forget removes the secret of a volume that is gone from its key store, whose URI is "" if it is not known. It returns nil for
	// one that is gone already, and for one that something else uses.
	Forget func(ctx context.Context, ref secrets.Reference, keyStore string) error
	// Attached returns the disks that are attached on this host.
	Attached func() ([]hotplug.Use, error)
	// Log takes log entries; nil discards them.
	Log logrus.FieldLogger
}

// undoing bounds what is done after a failure.
const undoing = time.Minute

// Start makes the new volume and begins to copy. The copy goes on when the program ends. After a failure nothing is left of it,
// or the error names it.
//
// The errors are those of [volume.Create] or [volume.CreatePlain], of [hotplug.VM.StartCopy] and of the journal. They wrap a [*volume.LeftError] if
// something of the new volume could not be removed.
func (s Setting) Start(ctx context.Context, p *Prepared) (Entry, error) {
	e := p.Entry
	lock, err := s.Journal.Lock(ctx, e.ID, nil)
	if err != nil {
		return e, err
	}
	defer lock.Release()
	if err := s.begin(ctx, p, &e); err != nil {
		return e, s.undo(ctx, e, err)
	}
	return e, nil
}

// undo removes what was made for an entry that has failed, and returns the failure, with what could not be removed.
func (s Setting) undo(ctx context.Context, e Entry, failed error) error {
	after, cancel := context.WithTimeout(context.WithoutCancel(ctx), undoing)
	defer cancel()
	if left := s.discardNew(after, e); left != nil {
		return fmt.Errorf("%w; %w", failed, left)
	}
	return failed
}

// begin is Start without undoing.
func (s Setting) begin(ctx context.Context, p *Prepared, e *Entry) error {
	disk, err := s.makeVolume(ctx, p, e)
	if err != nil {
		return err
	}
	options := hotplug.CopyOptions{Spec: p.request.Spec, Speed: e.Speed, Renamed: e.InPlace, Opened: func(ctx context.Context) error {
		return e.Target.mark(ctx, e.ID)
	}}
	refs, err := s.refer(ctx, *e)
	if err != nil {
		return err
	}
	options.Kept = refs.Kept()
	if err := s.Engine.Start(ctx, disk, s.Store, options); err != nil {
		return err
	}
	*e, err = s.Journal.Update(e.ID, PhaseCopying)
	return err
}

// makeVolume makes the new volume, and returns the disk with it.
func (s Setting) makeVolume(ctx context.Context, p *Prepared, e *Entry) (*blockgraph.Disk, error) {
	// The entry names what is about to be made.
	if err := s.Journal.Write(*e); err != nil {
		return nil, err
	}
	if err := s.create(ctx, p, e); err != nil {
		return nil, err
	}
	if err := s.Journal.Write(*e); err != nil {
		return nil, err
	}
	return diskxml.ParseDisk([]byte(e.Target.XML))
}

// create makes the new volume of an entry, and completes what is known of it.
func (s Setting) create(ctx context.Context, p *Prepared, e *Entry) error {
	v, block := &e.Target, false
	if v.plain() {
		if err := volume.CreatePlain(ctx, p.plain); err != nil {
			return err
		}
	} else {
		keys := s.Keys
		if !p.fresh {
			keys = nil // it exists
		}
		made, err := volume.Create(ctx, p.create, keys)
		if err != nil {
			return err
		}
		v.Secret = secrets.Reference{Type: secrets.Passphrase, UUID: made.Secret.UUID}
		if p.SameSecret {
			v.Secret = e.Source.Secret // which may be one without a uuid
		}
		if made.Store != nil {
			v.KeyStore = made.Store.String()
		}
		block = made.Block
	}
	xml, err := v.disk(e.Source.XML, block)
	v.XML = xml
	return err
}

// disk returns the <disk> of a volume, by that of the other one.
func (v Volume) disk(other string, block bool) (string, error) {
	xml, err := diskxml.WithVolume([]byte(other), diskxml.LocalVolume{Format: v.Format, Payload: diskxml.LocalImage{Path: v.Payload, Block: block}, Header: diskxml.LocalImage{Path: v.Header}, Secret: v.Secret})
	return string(xml), err
}

// refer returns the references.
func (s Setting) refer(ctx context.Context, e Entry) (References, error) {
	if s.Refer == nil {
		return noReferences{}, nil
	}
	return s.Refer(ctx, e)
}

// noReferences are those of a VM without a manager.
type noReferences struct{}

func (noReferences) Kept() string                   { return "" }
func (noReferences) Move(context.Context) error     { return nil }
func (noReferences) MoveBack(context.Context) error { return nil }

// discardNew removes the new volume of an entry, its secret if that is its own, and then the entry. It may be repeated.
func (s Setting) discardNew(ctx context.Context, e Entry) error {
	if err := s.remove(ctx, e.Target, e.Source, e.ID); err != nil {
		return err
	}
	for _, path := range []string{e.Target.Payload, e.Target.Header} {
		if path == "" {
			continue
		}
		if err := volume.RemoveUnfinished(path, e.Begin); err != nil {
			return err
		}
	}
	return s.Journal.Remove(e.ID)
}

// remove destroys a volume, and removes its secret if other has another one. Of a volume without encryption, made is the
// re-encryption that has to have made it, "" for the old one.
func (s Setting) remove(ctx context.Context, v, other Volume, made string) error {
	forget := func(ctx context.Context) error {
		if s.Forget == nil || v.Secret == (secrets.Reference{}) || v.Secret == other.Secret {
			return nil
		}
		return s.Forget(ctx, v.Secret, v.KeyStore)
	}
	uses, err := s.uses()
	if err != nil {
		return err
	}
	if v.plain() { // no header that could be wiped
		return v.remove(uses, made)
	}
	d := volume.Destroying{Path: v.Payload, Header: v.Header, Attached: uses, RemoveSecret: forget, DryRun: true}
	found, err := volume.Destroy(ctx, d)
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, volume.ErrNoVolume), err == nil && !strings.EqualFold(found.UUID, v.UUID):
		return forget(ctx) // another file has the name, which is not ours to remove
	case err != nil:
		return err
	}
	d.DryRun = false
	_, err = volume.Destroy(ctx, d)
	return err
}

func (s Setting) uses() ([]hotplug.Use, error) {
	if s.Attached == nil {
		return nil, nil
	}
	return s.Attached()
}
