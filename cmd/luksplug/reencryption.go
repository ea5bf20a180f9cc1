package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

// journal returns the journal of re-encryptions: it is beside the default key store, like luksplug's directories for volumes.
func (a *app) journal() (reencrypt.Journal, error) {
	c, _, err := readConfig(a.flags.config)
	if err != nil {
		return reencrypt.Journal{}, err
	}
	if c.State != "" {
		return reencrypt.Journal{Dir: filepath.Join(filepath.Dir(absolute(c.State)), "reencrypt")}, nil
	}
	j, err := reencrypt.DefaultJournal()
	if err != nil {
		return j, &usageError{err}
	}
	return j, nil
}

// vmOf returns the VM of an address as the journal has it.
func (v vmAddress) vmOf(uuid string) reencrypt.VM {
	if v.domain != "" {
		return reencrypt.VM{Name: v.domain, UUID: uuid, Connect: v.uri.text}
	}
	address := v.qmp
	if path, is := strings.CutPrefix(address, "unix:"); is {
		address = "unix:" + absolute(path)
	} else if strings.Contains(address, "/") || !strings.Contains(address, ":") {
		address = absolute(address)
	}
	return reencrypt.VM{Name: address, UUID: uuid, Monitor: address}
}

// addressOf returns how the VM of an entry is reached. The flags win if they name a VM: a monitor may have another address now.
func (a *app) addressOf(vm reencrypt.VM) (vmAddress, error) {
	switch {
	case a.flags.qmp != "" && vm.Monitor != "", a.flags.domain != "" && vm.Monitor == "":
		return a.address()
	case vm.Monitor != "":
		return vmAddress{qmp: vm.Monitor}, nil
	}
	at := vmAddress{uri: libvirtURI{vm.Connect, "the journal of re-encryptions"}, domain: vm.UUID, name: vm.Name}
	if at.domain == "" {
		at.domain = vm.Name
	}
	if a.flags.connect != "" {
		at.uri = libvirtURI{a.flags.connect, a.flags.connectFrom}
	}
	return at, nil
}

// errVMEnded reports that the VM of a re-encryption does not run any more.
var errVMEnded = errors.New("the VM has ended")

// hasEnded reports whether the error of a connection means that the VM does not run: nothing listens at the address of its monitor, or
// libvirt says so.
func hasEnded(err error) bool {
	return errors.Is(err, errVMEnded) || errors.Is(err, libvirtvm.ErrOff) || errors.Is(err, libvirtvm.ErrNoDomain) ||
		is[*dialing.Error](err) && (errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ECONNREFUSED))
}

// withVMOf runs f on the VM of an entry, within the time limit of a command. The error satisfies hasEnded if it does not run, or if
// another VM is at its address.
func (a *app) withVMOf(ctx context.Context, vm reencrypt.VM, f func(context.Context, virtualMachine) error) error {
	at, err := a.addressOf(vm)
	if err != nil {
		return err
	}
	// A QEMU that is ending resets connections, and has no identity, for a moment before nothing listens any more.
	const tries, pause = 10, 100 * time.Millisecond
	for n := 1; ; n++ {
		reached := false
		err := at.with(ctx, a, a.flags.limit(), func(ctx context.Context, m virtualMachine) error {
			if vm.UUID != "" && a.vm != vm.UUID {
				reached = a.vm != ""
				return fmt.Errorf("the VM at %s is %s, and that of the re-encryption is %s: %w", vm.Name, a.vm, vm.UUID, errVMEnded)
			}
			reached = true
			return f(ctx, m)
		})
		mayEnd := errors.Is(err, qmp.ErrConnectionLost) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, errVMEnded)
		if reached || !mayEnd || n == tries {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(pause):
		}
	}
}

// engine returns what copies in the VM of an entry.
func (a *app) engine(e reencrypt.Entry) reencrypt.Engine {
	return reencrypt.InVM{Target: e.Disk, With: func(ctx context.Context, f func(context.Context, *hotplug.VM) error) error {
		return a.withVMOf(ctx, e.VM, func(ctx context.Context, m virtualMachine) error {
			vm, err := m.VM(ctx)
			if err != nil {
				return err
			}
			return f(ctx, vm)
		})
	}}
}

// setting returns where an entry takes place.
func (a *app) setting(e reencrypt.Entry) (reencrypt.Setting, error) {
	j, err := a.journal()
	if err != nil {
		return reencrypt.Setting{}, err
	}
	s := reencrypt.Setting{
		Journal: j, Engine: a.engine(e), Store: a.laterStores(), Keys: a.define, Attached: a.uses, Log: a.log,
		Forget: func(ctx context.Context, ref secrets.Reference, keyStore string) error {
			return forgetSecret(ctx, a, j, e, ref, keyStore)
		},
	}
	switch {
	case e.VM == (reencrypt.VM{}):
		s.Engine = nil
	case e.VM.Monitor == "":
		s.Refer = a.domainReferences
	}
	return s, nil
}

// domainReferences are the records of a disk in its libvirt domain. Each step connects to libvirt again, and not to the domain's
// QEMU: while the records move, the switch has its monitor, which may serve one client only.
type domainReferences struct {
	app   *app
	entry reencrypt.Entry
	disk  *hotplug.AttachedDisk // nil if it is not attached
	kept  string
}

func (a *app) domainReferences(ctx context.Context, e reencrypt.Entry) (reencrypt.References, error) {
	r := domainReferences{app: a, entry: e}
	err := r.domain(ctx, func(ctx context.Context, d *libvirtvm.Domain) (err error) {
		if r.disk, err = attachedIn(ctx, d, e.Disk); err != nil {
			return err
		}
		m, err := r.records(ctx, d)
		if err == nil {
			r.kept = m.Kept()
		}
		return err
	})
	return r, err
}

// records returns the records.
func (r domainReferences) records(ctx context.Context, d *libvirtvm.Domain) (*libvirtvm.RecordMove, error) {
	return d.MoveRecords(ctx, r.disk, []byte(r.entry.Source.XML), []byte(r.entry.Target.XML))
}

// domain calls f with the domain. One that is not defined any more has no records.
func (r domainReferences) domain(ctx context.Context, f func(context.Context, *libvirtvm.Domain) error) error {
	err := r.app.withVMOf(ctx, r.entry.VM, func(ctx context.Context, m virtualMachine) error {
		d, is := m.(*libvirtvm.Domain)
		if !is {
			return fmt.Errorf("the VM %s is no libvirt domain: name the domain", r.entry.VM.Name)
		}
		return f(ctx, d)
	})
	if errors.Is(err, libvirtvm.ErrNoDomain) {
		return nil
	}
	return err
}

// attachedIn returns the attached disk with that target, nil if the domain is off or does not have it.
func attachedIn(ctx context.Context, d *libvirtvm.Domain, target string) (*hotplug.AttachedDisk, error) {
	vm, err := d.VM(ctx)
	if errors.Is(err, libvirtvm.ErrOff) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	disks, err := vm.List(ctx)
	for _, disk := range disks {
		if disk.Target == target {
			return disk, nil
		}
	}
	return nil, err
}

// Kept implements [reencrypt.References].
func (r domainReferences) Kept() string { return r.kept }

// Move implements [reencrypt.References].
func (r domainReferences) Move(ctx context.Context) error {
	return r.domain(ctx, func(ctx context.Context, d *libvirtvm.Domain) error {
		m, err := r.records(ctx, d)
		if err != nil {
			return err
		}
		return m.Move(ctx)
	})
}

// MoveBack implements [reencrypt.References].
func (r domainReferences) MoveBack(ctx context.Context) error {
	return r.domain(ctx, func(ctx context.Context, d *libvirtvm.Domain) error {
		m, err := r.records(ctx, d)
		if err != nil {
			return err
		}
		return m.MoveBack(ctx)
	})
}

// laterStores returns the key stores, which are opened when a secret is looked up: a new secret may have made the first one.
func (a *app) laterStores() secrets.Store {
	return secrets.Lazy("the key stores", func() (secrets.Store, error) {
		stores, err := openStores(a, a.storeOptions())
		if err != nil {
			return nil, err
		}
		return secrets.Chain(stores...), nil
	})
}

// forgetSecret removes the secret of a volume of a re-encryption, unless something else uses it: another volume, also in a document of
// libvirt, another re-encryption, or a volume to which its document binds it.
func forgetSecret(ctx context.Context, a *app, j reencrypt.Journal, e reencrypt.Entry, ref secrets.Reference, keyStore string) error {
	f, err := secretOf(ctx, a, ref, keyStore)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	v := e.Target
	if ref == e.Source.Secret {
		v = e.Source
	}
	attached, err := a.uses()
	if err != nil {
		return err
	}
	named, err := usesInLibvirt(ctx, a)
	if err != nil {
		return fmt.Errorf("check whether a document of libvirt names the secret: %w", err)
	}
	entries, err := j.List()
	if err != nil {
		return err
	}
	others := append(attached, named...)
	for _, other := range entries {
		for _, o := range []reencrypt.Volume{other.Source, other.Target} {
			if other.ID != e.ID && o.Secret != (secrets.Reference{}) {
				others = append(others, hotplug.Use{VM: other.VM.Name, In: "the re-encryption " + other.ID, Target: other.Disk, Payload: o.Payload, Header: o.Header, Secrets: []secrets.Reference{o.Secret}})
			}
		}
	}
	d := destruction{Destroying: volume.Destroying{Path: v.Payload, Header: v.Header}}
	if stays := d.staying(f, slices.DeleteFunc(others, d.isOf), false); stays != "" && !boundToMissing(f, stays) {
		return a.note("the secret %s stays in %s: %s", secretName(f.document), f.store, stays)
	}
	keeper, err := f.keeper()
	if err != nil {
		return err
	}
	return keeper.Remove(ctx, f.document.Reference())
}

// boundToMissing reports whether a secret stays only because its document binds it to a volume, and that volume is not there: it has
// been renamed.
func boundToMissing(f found, stays string) bool {
	bound := f.document.Volume()
	if bound == "" || stays != boundTo(bound) {
		return false
	}
	_, err := os.Lstat(bound)
	return errors.Is(err, fs.ErrNotExist)
}

// secretOf finds a secret in the key store with that URI, in any of them for "". The error wraps [secrets.ErrNotFound] if it is gone.
func secretOf(ctx context.Context, a *app, ref secrets.Reference, keyStore string) (out found, err error) {
	err = withStores(ctx, a, func(ctx context.Context, stores []secrets.Store) error {
		if keyStore != "" {
			stores = slices.DeleteFunc(stores, func(s secrets.Store) bool { return s.String() != keyStore })
			if len(stores) == 0 {
				return &usageError{fmt.Errorf("the secret %s is in %s, which is none of the key stores: name it with --keystore", ref, keyStore)}
			}
		}
		out, err = firstOf(stores, ref, func(store secrets.Store) (found, error) {
			lister, ok := store.(secrets.Lister)
			if !ok {
				return found{}, secrets.ErrNotFound
			}
			d, err := find(ctx, lister, ref)
			return found{store, d}, err
		})
		return err
	})
	return out, err
}

// leftRunningError reports that the program was interrupted while a copy goes on.
type leftRunningError struct {
	entry reencrypt.Entry
	err   error
}

func (e *leftRunningError) Error() string {
	return fmt.Sprintf("%v: QEMU goes on copying %s of %s; 'luksplug volume jobs %s --wait' waits for it and switches to the new volume, and --cancel ends it", e.err, e.entry.Disk, e.entry.VM.Name, shortID(e.entry))
}

func (e *leftRunningError) Unwrap() error { return e.err }

// shortID returns the beginning of the id of an entry, for people.
func shortID(e reencrypt.Entry) string { return e.ID[:8] }

// errDropped reports that a re-encryption has ended without a result.
var errDropped = errors.New("the disk is on its old volume, and nothing is left of the new one")

// drive waits until the volumes of an entry are in step, and switches to the new one. resumed is set if an earlier run has begun it. It goes on from whatever another process, or the
// VM, has done meanwhile.
func drive(ctx context.Context, a *app, e reencrypt.Entry, resumed bool) (reencrypt.Entry, *hotplug.Switched, error) {
	s, err := a.setting(e)
	if err != nil {
		return e, nil, err
	}
	shown := a.transfer("re-encrypting " + e.Disk)
	shown.resumed = resumed
	defer shown.end()
	paused, silent := false, false
	for {
		err := s.Wait(ctx, reencrypt.Waiting{Report: func(c *hotplug.Copy) {
			silent = false
			if c.Phase == hotplug.CopyPaused && !paused {
				shown.say(a, "the copy of %s is paused: %v: %s; it goes on when there is room", e.Disk, c.Err, e.Target.Payload)
			}
			paused = c.Phase == hotplug.CopyPaused
			shown.updatePhase(volume.Progress{Done: c.Done, Total: c.Total}, string(c.Phase))
		}})
		if err == nil {
			done, switched, err := finish(ctx, a, s, e)
			if err == nil || !errors.Is(err, hotplug.ErrNotInStep) {
				if gone(err) {
					return outcomeOf(ctx, a, s, e, err)
				}
				return done, switched, err
			}
			continue // the guest has written in between
		}
		switch {
		case ctx.Err() != nil:
			return e, nil, interrupted(ctx, a, s, e, shown)
		case gone(err):
			return outcomeOf(ctx, a, s, e, err)
		case busy(err):
			if !silent {
				shown.say(a, "the VM does not answer, and is asked again: %v", err)
				silent = true
			}
		default:
			return e, nil, err
		}
		select {
		case <-ctx.Done():
		case <-time.After(time.Second):
		}
	}
}

// finish is Finish within the time limit of a command.
func finish(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry) (reencrypt.Entry, *hotplug.Switched, error) {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	return s.Finish(ctx, e)
}

// gone reports whether an error means that QEMU does not copy any more.
func gone(err error) bool {
	return hasEnded(err) || errors.Is(err, reencrypt.ErrEnded) || errors.Is(err, hotplug.ErrNoCopy) || is[*hotplug.NotHeldError](err)
}

// busy reports whether an error means that the VM may answer later: its monitor serves another client, or QEMU stalls.
func busy(err error) bool {
	return errors.Is(err, qmp.ErrNoGreeting) || errors.Is(err, qmp.ErrConnectionLost) || is[*hotplug.NoAnswerError](err) || is[*hotplug.LockedError](err) || is[*ending.Error](err)
}

// outcomeOf finds out what has become of an entry whose copy is gone, and finishes that. cause is how that was noticed.
func outcomeOf(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry, cause error) (reencrypt.Entry, *hotplug.Switched, error) {
	after, outcome, err := resume(ctx, a, s, e)
	switch {
	case errors.Is(err, errNoEntry):
		return e, nil, fmt.Errorf("the re-encryption of %s was canceled: %w", e.Disk, errDropped)
	case err != nil:
		return e, nil, errors.Join(cause, err)
	case outcome == reencrypt.OutcomeDone:
		return after, nil, nil
	case outcome == reencrypt.OutcomeDropped:
		return e, nil, fmt.Errorf("re-encrypt %s: %w: %w", e.Disk, cause, errDropped)
	}
	return after, nil, cause
}

// errNoEntry reports that another process has ended a re-encryption, so that the journal does not have it any more.
var errNoEntry = errors.New("another process has ended it")

// resume is Resume within the time limit of a command. If the VM has ended, it decides without it.
func resume(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry) (reencrypt.Entry, reencrypt.Outcome, error) {
	ctx, cancel := ending.After(context.WithoutCancel(ctx), a.flags.limit())
	defer cancel()
	after, outcome, err := s.Resume(ctx, e)
	if hasEnded(err) {
		s.Engine = nil
		after, outcome, err = s.Resume(ctx, e)
	}
	if err != nil {
		if _, missing := s.Journal.Read(e.ID); errors.Is(missing, fs.ErrNotExist) {
			return e, "", errNoEntry
		}
	}
	return after, outcome, err
}

// interrupted leaves a copy running, or ends it if the user at the terminal says so.
func interrupted(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry, shown *transfer) error {
	left := &leftRunningError{e, ctx.Err()}
	shown.end()
	if !isTerminal(a.in) || !errors.Is(ctx.Err(), context.Canceled) {
		return left
	}
	after := context.WithoutCancel(ctx) // a second signal ends the program, which leaves the copy running as well
	if _, err := fmt.Fprintf(a.err, "\nluksplug: QEMU copies %s: leave it running, or cancel it? [L/c] ", printable.Line(e.Disk)); err != nil {
		return left
	}
	var answer string
	_, _ = fmt.Fscanln(a.reader(after), &answer) // no answer leaves it running
	if answer = strings.ToLower(answer); answer != "c" && answer != "cancel" {
		return left
	}
	return cancelCopy(after, a, s, e)
}

// cancelCopy cancels a re-encryption. The error tells that it was canceled, or why not.
func cancelCopy(ctx context.Context, a *app, s reencrypt.Setting, e reencrypt.Entry) error {
	ctx, cancel := a.bounded(ctx)
	defer cancel()
	if err := s.Cancel(ctx, e); err != nil {
		return err
	}
	return fmt.Errorf("the re-encryption of %s is canceled: %w", e.Disk, errDropped)
}
