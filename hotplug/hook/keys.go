package hook

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

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// Keys are the keys that this host holds for VMs (package vmkeys), and the rules by which
// they live and end: they live as long as the domain is defined on this host or runs here.
//
// Its methods are safe for concurrent use, also by several processes.
type Keys struct {
	Places []vmkeys.Places
	VMs    VMs
	// Forget are reasons of [Release] after which the keys of a domain are destroyed although it
	// is still defined.
	Forget []string
	// Warn takes what has not been done, and does not matter to the caller. It may be nil.
	Warn func(error)
}

// KeysState is why the host holds the keys of a VM.
type KeysState string

// The states of a VM's keys.
const (
	// KeysRunning: the VM runs here, or is about to.
	KeysRunning KeysState = "running"
	// KeysDefined: a domain of this host has the UUID.
	KeysDefined KeysState = "defined"
	// KeysSaved: the VM was saved to a file, from which it may be restored.
	KeysSaved KeysState = "saved"
	// KeysExpected: the VM has not been here since its keys were put.
	KeysExpected KeysState = "expected"
	// KeysGone: the VM was here, and is neither defined nor running now.
	KeysGone KeysState = "gone"
)

// VMKeys are the keys of one VM.
type VMKeys struct {
	vmkeys.VM
	Places vmkeys.Places
	State  KeysState
	// Domain is the name of the domain that has the UUID now, or of the one that had it.
	Domain string
	// Defined is true if a domain of this host is defined with the UUID.
	Defined bool
}

// ErrNoLibvirt reports that this host has no libvirt whose definitions are where they are
// looked for, so that it is unknown whether a VM is gone.
var ErrNoLibvirt = errors.New("this host has no libvirt for QEMU")

// arriving is the longest time from the hook's prepare to the start of QEMU's process.
const arriving = 10 * time.Minute

// hostDomains are the domains of a host, as libvirt's files have them.
type hostDomains struct {
	defined, running []listedDomain
	// unseen is true if libvirt has no directory of definitions: it makes one for the first,
	// and keeps it.
	unseen bool
}

// inventory reads the domains of this host, of all drivers of libvirt. It needs no libvirtd:
// the files are libvirt's own memory.
func (v VMs) inventory() (hostDomains, error) {
	var out hostDomains
	_, err := os.Stat(v.Definitions)
	if errors.Is(err, fs.ErrNotExist) {
		// The daemon makes the directory of those that run when it starts.
		out.unseen = true
		_, parent := os.Stat(filepath.Dir(v.Definitions))
		_, running := os.Stat(v.Running)
		err = errors.Join(parent, running)
	}
	if err != nil {
		return hostDomains{}, fmt.Errorf("%w: %w", ErrNoLibvirt, err)
	}
	for _, dir := range append([]string{v.Definitions}, v.OtherDefinitions...) {
		all, err := v.domains(dir)
		if err != nil {
			return hostDomains{}, err
		}
		out.defined = append(out.defined, all...)
	}
	out.running, err = v.domains(v.Running)
	return out, err
}

// Changed returns when a domain was last defined or undefined on this host, as far as this
// is known: the time changes with each.
func (v VMs) Changed() time.Time {
	info, err := os.Stat(v.Definitions)
	if err != nil {
		return time.Time{}
	}
	return info.ModTime()
}

// Defined returns the name and the UUID of the defined domain with that name or UUID. An
// error says that there is none, or several.
func (v VMs) Defined(domain string) (name, uuid string, err error) {
	all, err := v.domains(v.Definitions)
	if err != nil {
		return "", "", err
	}
	var found []listedDomain
	for _, d := range all {
		if d.Name == domain {
			return d.Name, canonical(d.UUID), nil
		}
		if strings.EqualFold(canonical(d.UUID), domain) {
			found = append(found, d)
		}
	}
	if len(found) != 1 {
		return "", "", fmt.Errorf("%d domains of this host are named %q or have this UUID", len(found), domain)
	}
	return found[0].Name, canonical(found[0].UUID), nil
}

// canonical returns a UUID as libvirt writes it.
func canonical(uuid string) string { return strings.ToLower(strings.TrimSpace(uuid)) }

// named returns the name of the domain with a UUID, "" if there is none.
func named(all []listedDomain, id string) (name string, found bool) {
	i := slices.IndexFunc(all, func(d listedDomain) bool { return canonical(d.UUID) == canonical(id) })
	if i < 0 {
		return "", false
	}
	return all[i].Name, true
}

// List returns the VMs of which this host holds keys. On doubt a VM is not gone; if that
// is unknown for all, the error says so and no VM is returned.
func (k Keys) List() ([]VMKeys, error) {
	var out []VMKeys
	for _, p := range k.Places {
		vms, err := p.VMs()
		if err != nil {
			return nil, err
		}
		for _, vm := range vms {
			out = append(out, VMKeys{VM: vm, Places: p})
		}
	}
	if len(out) == 0 {
		return nil, nil
	}
	domains, err := k.VMs.inventory()
	if err != nil {
		return nil, fmt.Errorf("whether VMs with keys on this host are gone is unknown: %w", err)
	}
	for i := range out {
		_, out[i].Defined = named(domains.defined, out[i].UUID)
		out[i].State, out[i].Domain = stateOf(out[i].VM, domains)
	}
	return out, nil
}

// stateOf returns why the host holds the keys of a VM, and the name of its domain.
func stateOf(vm vmkeys.VM, domains hostDomains) (KeysState, string) {
	if name, found := named(domains.running, vm.UUID); found {
		return KeysRunning, name
	}
	// Also a QEMU of any user, without libvirt.
	runs := len(hostproc.FindQEMUs(vm.UUID)) > 0
	name, defined := named(domains.defined, vm.UUID)
	n := vm.Note
	if !defined && n != nil {
		name = n.Domain
		defined = n.Defined && domains.unseen // by what is no longer there
	}
	switch {
	case runs:
		return KeysRunning, name
	case defined:
		return KeysDefined, name
	case n == nil:
		return KeysExpected, ""
	case n.Here && time.Since(n.Time) < arriving:
		return KeysRunning, name
	case vm.Put.After(n.Time):
		return KeysExpected, name // new keys, for its return
	}
	return ended(*n), name
}

// ended returns the state of the keys of a VM that has ended, and is not defined.
func ended(n vmkeys.Note) KeysState {
	switch {
	case n.End == ReasonFailed:
		return KeysExpected // it may be tried again
	case n.End == ReasonSaved && !n.Managed:
		return KeysSaved
	}
	return KeysGone
}

// Prune destroys the keys of VMs that are gone, except that with the UUID except, and
// returns them. It notes those that are defined, so that their end is seen.
func (k Keys) Prune(except string) ([]VMKeys, error) {
	all, err := k.List()
	var gone []VMKeys
	failed := []error{err}
	for _, vm := range all {
		if strings.EqualFold(vm.UUID, except) {
			continue
		}
		switch vm.State {
		case KeysGone:
			err := vm.Places.Wipe(vm.UUID)
			if err == nil {
				gone = append(gone, vm)
			}
			failed = append(failed, err)
		case KeysDefined:
			failed = append(failed, vm.seen())
		}
	}
	return gone, errors.Join(failed...)
}

// seen notes that the VM's domain is defined here.
func (vm VMKeys) seen() error {
	n := vmkeys.Note{Domain: vm.Domain}
	if vm.Note != nil {
		if vm.Note.Defined && !vm.Put.After(vm.Note.Time) {
			return nil
		}
		n = *vm.Note
	}
	n.Defined, n.Time = true, time.Now()
	return vm.Places.SetNote(vm.UUID, n)
}

// Settled is what became of the keys of a VM.
type Settled struct {
	State   KeysState // "" if there are none
	Defined bool      // a domain of this host is defined with the UUID
}

// Settle brings the keys of one VM to where they belong: it destroys those of a VM that is
// gone, and moves those of a domain that is defined here to the disk. The error wraps
// [vmkeys.ErrOtherVM] if the domain is not the one whose keys they are.
func (k Keys) Settle(ctx context.Context, vm string) (Settled, error) {
	var out Settled
	if !slices.ContainsFunc(k.Places, func(p vmkeys.Places) bool { return p.Holds(vm) }) {
		return out, nil
	}
	all, err := k.List()
	if err != nil {
		return out, err
	}
	var failed []error
	for _, one := range all {
		if strings.EqualFold(one.UUID, vm) {
			out = Settled{one.State, one.Defined}
			failed = append(failed, one.settle(ctx))
		}
	}
	return out, errors.Join(failed...)
}

func (vm VMKeys) settle(ctx context.Context) error {
	switch {
	case vm.State == KeysGone:
		return vm.Places.Wipe(vm.UUID)
	case !vm.Defined:
		return nil
	}
	if err := vm.belongs(); err != nil {
		return err
	}
	var noted error
	if vm.State == KeysDefined {
		noted = vm.seen()
	}
	if vm.InMemory == 0 {
		return noted
	}
	_, err := vm.Places.Keep(ctx, vm.UUID)
	return errors.Join(noted, err)
}

// belongs returns an error that wraps [vmkeys.ErrOtherVM] if the keys are those of a domain of
// another name.
func (vm VMKeys) belongs() error {
	if vm.Note == nil {
		return nil
	}
	return sameDomain(*vm.Note, vm.UUID, vm.Domain)
}

// ErrRenamed reports that the keys of a UUID were used by a domain of another name: the
// domain was renamed, or another one was defined with the UUID of one that is gone. Errors
// that wrap it wrap [vmkeys.ErrOtherVM] as well.
var ErrRenamed = errors.New("a domain of another name had it when it used the keys")

func sameDomain(n vmkeys.Note, id, name string) error {
	if n.Domain == "" || n.Domain == name {
		return nil
	}
	return fmt.Errorf("%w, %s: %w: %s, and this is domain %s", vmkeys.ErrOtherVM, id, ErrRenamed, n.Domain, name)
}

// CheckOwner returns an error that wraps [vmkeys.ErrOtherVM] if the keys of the event's UUID may
// be those of another VM: see [VMs.CheckUUID], or those of a domain of another name.
func (k Keys) CheckOwner(e Event) error {
	if err := k.VMs.CheckUUID(e); err != nil {
		return err
	}
	id := e.UUID()
	for _, p := range k.Places {
		if id == "" || !p.Holds(id) {
			continue
		}
		n, found, err := p.Note(id)
		if err != nil {
			return err
		}
		if found {
			if err := sameDomain(n, id, e.Domain); err != nil {
				return err
			}
		}
	}
	return nil
}

// Adopt gives the keys of a UUID to the domain of that name, which has it now. It returns
// the number of places with such keys.
func (k Keys) Adopt(vm, domain string) (int, error) {
	adopted := 0
	for _, p := range k.Places {
		if !p.Holds(vm) {
			continue
		}
		n, _, err := p.Note(vm)
		if err == nil {
			n.Domain, n.Time = domain, time.Now()
			err = p.SetNote(vm, n)
		}
		if err != nil {
			return adopted, err
		}
		adopted++
	}
	return adopted, nil
}

// Event follows the life of the event's domain: [Prepare] notes that it is here, and at
// [Release] its keys are destroyed, unless it is defined here, or has ended in a way from
// which it can come back. At both, the keys of other VMs that are gone are destroyed.
//
// A start needs nothing of this: errors of Prepare go to Warn.
func (k Keys) Event(_ context.Context, e Event) error {
	if len(k.Places) == 0 {
		return nil
	}
	if e.Operation != Prepare && e.Operation != Release {
		return nil
	}
	_, err := k.Prune(e.UUID())
	k.warn(err)
	if e.Operation == Release {
		return k.left(e)
	}
	k.warn(k.arrived(e))
	return nil
}

func (k Keys) warn(err error) {
	if err != nil && k.Warn != nil {
		k.Warn(err)
	}
}

// arrived notes that the event's domain is here. Only a domain with disks of luksplug's can
// use keys.
func (k Keys) arrived(e Event) error {
	id := e.UUID()
	if id == "" || !e.HasDisks() {
		return nil
	}
	return k.note(id, e.Domain, func(n vmkeys.Note) vmkeys.Note {
		n.Here, n.End, n.Managed = true, "", false
		return n
	})
}

// note changes the notes of a VM's keys. Those of a domain of another name stay.
func (k Keys) note(id, domain string, change func(vmkeys.Note) vmkeys.Note) error {
	var failed []error
	for _, p := range k.Places {
		if !p.Holds(id) {
			continue
		}
		n, found, err := p.Note(id)
		if err == nil && found && n.Domain != "" {
			err = sameDomain(n, id, domain)
		}
		if err == nil {
			n.Domain = domain
			n = change(n)
			n.Time = time.Now()
			err = p.SetNote(id, n)
		}
		failed = append(failed, err)
	}
	return errors.Join(failed...)
}

// left follows the end of the event's domain.
func (k Keys) left(e Event) error {
	id := e.UUID()
	if id == "" || !slices.ContainsFunc(k.Places, func(p vmkeys.Places) bool { return p.Holds(id) }) {
		return nil
	}
	if err := k.CheckOwner(e); err != nil {
		return fmt.Errorf("the keys of the VM are kept: %w", err)
	}
	domains, err := k.VMs.inventory()
	if err != nil {
		return fmt.Errorf("the keys of the VM are kept: %w", err)
	}
	_, defined := named(domains.defined, id)
	n, _, err := k.Places[0].Note(id)
	defined = defined || domains.unseen && err == nil && n.Defined
	end := vmkeys.Note{End: e.Extra, Managed: e.Extra == ReasonSaved && k.VMs.managedSave(e.Domain)}
	if slices.Contains(k.Forget, e.Extra) || !defined && ended(end) == KeysGone {
		var failed []error
		for _, p := range k.Places {
			failed = append(failed, p.Wipe(id))
		}
		return errors.Join(failed...)
	}
	return k.note(id, e.Domain, func(n vmkeys.Note) vmkeys.Note {
		n.Here, n.End, n.Managed, n.Defined = false, end.End, end.Managed, defined
		return n
	})
}

// managedSave reports whether libvirt has saved the domain to a file of its own.
func (v VMs) managedSave(domain string) bool {
	if filepath.Base(domain) != domain {
		return false
	}
	_, err := os.Lstat(filepath.Join(v.State, "save", domain+".save"))
	return !errors.Is(err, fs.ErrNotExist)
}
