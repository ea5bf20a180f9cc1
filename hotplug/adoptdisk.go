package hotplug

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/apply"
	"github.com/luksplug/luksplug/hotplug/internal/check"
	"github.com/luksplug/luksplug/hotplug/internal/foreign"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/remoteimage"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/hotplug/internal/samedisk"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// AdoptOptions describe a disk that was attached without luksplug.
type AdoptOptions struct {
	// Node is the name of the node of the LUKS volume, which is the drive of the device.
	Node string
	// Target is the target that the disk is to have, such as "vdb".
	Target string
	// Secret names the secret that opens the volume, for the disk's XML.
	Secret secrets.Reference
	// AllowPayloadSignature is that of [Spec].
	AllowPayloadSignature bool
	// DryRun makes the adoption end before the first change.
	DryRun bool
	// Before, if not nil, is called after all checks, as that of [AttachOptions] is, with the
	// disk's XML.
	Before func(ctx context.Context, xml []byte, p Prepared) (keep string, err error)
}

// AdoptedDisk is the result of an adoption.
type AdoptedDisk struct {
	// AttachedDisk is what the VM has now. With DryRun it is what it would have.
	AttachedDisk
	// Already is true if the disk was adopted before, and nothing was done.
	Already bool
	// XML is the disk's <disk>, by which it can be attached again.
	XML []byte
	// Secret is the id of the secret object that was removed from QEMU, which no longer needs
	// it, or with DryRun would be; "" for none.
	Secret string
	// SharedSecret is the id of a secret object that stays, because another node names it.
	SharedSecret string
	// Reopened are the ids of secrets that QEMU needs again if a migration of the VM fails
	// late, see [VM.MissingSecrets].
	Reopened []string
	// Verified is true if the secret was found and opens the volume.
	Verified bool
}

// AdoptDisk makes a disk that was attached without luksplug a disk of luksplug's: List shows it,
// Detach removes its device, nodes and objects, and its images count as in use. QEMU cannot
// rename anything, so a note on this host has the names. The disk in the VM is not changed,
// except that the secret object with which it was opened is removed.
//
// What QEMU reports of the disk is compared with the files that its process has open, and the
// images are checked as by [VM.Attach]. A disk that an attach of its XML would not take for the
// same is refused. The secret is looked up in store and tried on the volume; if store does not
// have it, a warning is logged.
//
// The errors are [*PreflightError], [*SecretError] for a secret that does not open the volume,
// [*LockedError], those of package blockgraph and that of [CheckTarget]. Nothing was changed
// then.
func (vm *VM) AdoptDisk(ctx context.Context, store secrets.Store, options AdoptOptions) (*AdoptedDisk, error) {
	if err := CheckTarget(options.Target); err != nil {
		return nil, err
	}
	images := &remoteimage.Opener{Host: vm.host, Store: store, Target: options.Target}
	defer images.Close(ctx)
	a := &adoption{VM: vm, store: store, options: options, images: images}
	// Trying the secret takes a second, during which the VM is not locked.
	found, err := a.examine(ctx)
	if err != nil || found.result.Already {
		return found.result, err
	}
	verified, err := a.verify(ctx, found.disk)
	if err != nil {
		return nil, err
	}
	if options.DryRun {
		a.warn(found)
		found.result.Verified = verified
		return found.result, nil
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	if found, err = a.examine(ctx); err != nil || found.result.Already {
		return found.result, err
	}
	a.warn(found)
	found.result.Verified = verified
	if options.Before != nil {
		prepared := Prepared{Method: blockgraph.MethodQEMU, Devices: found.devices}
		if found.note.Kept, err = options.Before(ctx, found.result.XML, prepared); err != nil {
			return nil, notRecorded(options.Target, "the adoption", err)
		}
	}
	return a.takeOver(ctx, found)
}

// adoption is one adoption with its arguments.
type adoption struct {
	*VM
	store    secrets.Store
	options  AdoptOptions
	images   *remoteimage.Opener
	searches image.Searches
}

// adoptable is a disk that has passed all checks.
type adoptable struct {
	disk     *blockgraph.Disk
	note     rundir.Note
	devices  []blockgraph.Object
	warnings []string
	result   *AdoptedDisk
}

func (a *adoption) refuse(cause, err error, format string, args ...any) error {
	return &PreflightError{Target: a.options.Target, Cause: cause, Reason: fmt.Sprintf(format, args...), Err: err}
}

// examine finds and checks the disk. It changes nothing.
func (a *adoption) examine(ctx context.Context) (adoptable, error) {
	target := a.options.Target
	state, err := a.State(ctx)
	if err != nil {
		return adoptable{}, err
	}
	there := state.Disk(target)
	if there != nil && (!there.Adopted || !slices.Contains(there.Nodes, a.options.Node)) {
		return adoptable{}, a.refuse(ErrTargetTaken, nil, "luksplug has another disk, or what is left of one, under the target %s: give this one another target, or detach that one first", target)
	}
	// Without an earlier note, also one of a disk that is gone, the disk is found as it was.
	fresh := *state
	fresh.Host.Notes = maps.Clone(state.Host.Notes)
	delete(fresh.Host.Notes, target)
	found, err := foreign.Find(ctx, a.conn, a.host, &fresh, target, a.options.Node)
	if err != nil {
		return adoptable{}, err
	}
	out, err := a.describe(ctx, &fresh, found)
	if err != nil || there == nil {
		return out, err
	}
	out.result.AttachedDisk, out.result.Already, out.result.Secret = *there, true, ""
	return out, inventory.AddFrontends(ctx, a.conn, []*AttachedDisk{&out.result.AttachedDisk})
}

// describe derives the XML of a disk and checks it, with the cache mode if that is the same
// for all nodes.
func (a *adoption) describe(ctx context.Context, state *State, found *foreign.Disk) (adoptable, error) {
	devices, err := found.Devices(ctx, a.conn, a.options.Target)
	if err != nil {
		return adoptable{}, err
	}
	out := adoptable{devices: devices}
	if lost := found.Properties.Lost(); len(lost) > 0 {
		out.warnings = append(out.warnings, fmt.Sprintf("the derived XML lacks properties of the device %s, which it loses when it is attached again: %s", found.Parts.Device, strings.Join(lost, ", ")))
	}
	xml := localDisk(found, a.options, devices[0].Text("serial"))
	if out.disk, err = diskxml.ParseDisk(xml.XML()); err != nil {
		return out, a.refuse(ErrForeignLayout, err, "its XML cannot be derived")
	}
	graph, err := a.graph(ctx, out.disk, devices)
	if err != nil {
		return out, err
	}
	if err := a.check(ctx, &out, state.Without(found.Names()), graph, found); err != nil {
		return out, err
	}
	difference, err := a.compare(ctx, state, &out)
	if err == nil && difference != "" && xml.Cache != "" {
		out.warnings = append(out.warnings, fmt.Sprintf("the nodes have different cache modes: cache='%s' is not in the derived XML", xml.Cache))
		xml.Cache = ""
		if out.disk, err = diskxml.ParseDisk(xml.XML()); err == nil {
			difference, err = a.compare(ctx, state, &out)
		}
	}
	if err != nil {
		return out, err
	}
	if difference != "" {
		return out, a.refuse(ErrForeignLayout, nil, "its XML would be that of another disk: %s", difference)
	}
	out.result.XML = xml.XML()
	if len(unlock.Reopened(graph)) > 0 && found.Parts.Secret != "" {
		out.result.Reopened = []string{found.Parts.Secret}
	}
	switch secret := found.Parts.Secret; {
	case state.Objects[secret] != "secret":
	case found.Parts.SharedSecret:
		out.result.SharedSecret = secret
	default:
		out.result.Secret = secret
	}
	return out, nil
}

// localDisk returns the description of a disk.
func localDisk(found *foreign.Disk, options AdoptOptions, serial string) diskxml.LocalDisk {
	out := diskxml.LocalDisk{Target: options.Target, Bus: blockgraph.BusSCSI, Format: found.Format, Secret: options.Secret,
		Serial: serial, Cache: found.Cache, ReadOnly: found.ReadOnly}
	if found.Driver == foreign.VirtioDisk {
		out.Bus = blockgraph.BusVirtio
		out.Queues, out.QueueSize = found.Properties.Number("num-queues"), found.Properties.Number("queue-size")
	}
	for role, img := range map[blockgraph.Role]*diskxml.LocalImage{blockgraph.RolePayloadStorage: &out.Payload, blockgraph.RoleHeaderStorage: &out.Header} {
		if n, there := found.Node(role); there {
			img.Path, img.Block = n.Path, n.Driver == "host_device"
		}
	}
	return out
}

// graph returns the graph that the disk would have as luksplug's own. It is refused for a
// target that a disk of the VM's manager has.
func (a *adoption) graph(ctx context.Context, disk *blockgraph.Disk, devices []blockgraph.Object) (*blockgraph.Graph, error) {
	m := blockgraph.Machine{Devices: devices}
	if a.opts.Disks != nil {
		var err error
		if m.Disks, err = a.opts.Disks(ctx); err != nil {
			return nil, fmt.Errorf("query which disks the VM has: %w", err)
		}
	}
	graph, err := blockgraph.Build(disk, m, blockgraph.Unlock{Method: blockgraph.MethodQEMU})
	if invalid := (*blockgraph.InvalidError)(nil); errors.As(err, &invalid) {
		return nil, a.refuse(ErrForeignLayout, err, "its XML would be invalid")
	}
	return graph, err
}

// check checks the images, as those of an attach, and makes the note. state is without the
// disk.
func (a *adoption) check(ctx context.Context, out *adoptable, state *State, graph *blockgraph.Graph, found *foreign.Disk) error {
	findings, err := check.Run(ctx, &check.Candidate{
		Host: a.host, VM: a.VM.check, State: state, Disk: out.disk, Plan: graph.Plan(), Unlock: blockgraph.Unlock{Method: blockgraph.MethodQEMU},
		Spec: Spec{AllowPayloadSignature: a.options.AllowPayloadSignature}, MaxStall: NoMaxStall, Moving: true, Images: a.images, Store: a.store, Searches: &a.searches,
	}, check.Adoption())
	if err != nil {
		return err
	}
	out.warnings = append(out.warnings, findings.AllWarnings()...)
	header := unlock.HeaderOf(ctx, a.host, out.disk)
	if header == nil || header.UUID != found.UUID {
		uuid := "none that can be read"
		if header != nil {
			uuid = header.UUID
		}
		return a.refuse(ErrHeaderUnusable, nil, "QEMU has the LUKS volume %s open, and the header on this host is %s: the header was changed since, or QEMU has it from elsewhere", found.UUID, uuid)
	}
	if out.note, err = a.host.Note(ctx, out.disk, blockgraph.MethodQEMU, found.UUID); err != nil {
		return err
	}
	out.note.Adopted = &found.Parts
	return nil
}

// compare sets the result, and returns how the disk, once it is adopted, would differ from the
// one that its XML describes; "" for the same disk.
func (a *adoption) compare(ctx context.Context, state *State, out *adoptable) (string, error) {
	adopted := *state
	adopted.Host.Notes = maps.Clone(state.Host.Notes)
	if adopted.Host.Notes == nil {
		adopted.Host.Notes = map[string]rundir.Note{}
	}
	adopted.Host.Notes[out.disk.Target] = out.note
	disk := adopted.Disk(out.disk.Target)
	if disk == nil {
		return "", errors.New("the disk is not found again")
	}
	if err := inventory.AddFrontends(ctx, a.conn, []*AttachedDisk{disk}); err != nil {
		return "", err
	}
	out.result = &AdoptedDisk{AttachedDisk: *disk}
	c := samedisk.Comparison{VM: a.VM.check, Host: a.host, State: &adopted, Disk: out.disk, Attached: disk, Others: a.opts.Disks}
	return c.Difference(ctx)
}

// verify reports whether the secret was found and opens the volume. A secret that does not
// open it is refused; one that cannot be tried causes a warning.
func (a *adoption) verify(ctx context.Context, disk *blockgraph.Disk) (bool, error) {
	err := unlock.Unlocker{Progress: a.opts.OnUnlock}.Verify(ctx, disk, a.store)
	refused := (*SecretError)(nil)
	switch {
	case err == nil:
		return true, nil
	case ctx.Err() != nil, errors.As(err, &refused) && (errors.Is(err, luks.ErrWrongPassphrase) || errors.Is(err, ErrUnusableSecret)):
		return false, err
	}
	a.host.Entry(disk.Target).Warnf("it is not known whether the secret of the XML opens the volume, which the next attach needs: %v", err)
	return false, nil
}

func (a *adoption) warn(found adoptable) {
	for _, w := range found.warnings {
		a.host.Entry(a.options.Target).Warn(w)
	}
}

// takeOver writes the note, and removes the secret.
func (a *adoption) takeOver(ctx context.Context, found adoptable) (*AdoptedDisk, error) {
	dir, err := a.host.Dir(ctx)
	if err == nil {
		err = dir.WriteNote(found.note)
	}
	if err != nil {
		return nil, a.refuse(ErrNotRecorded, err, "the adoption cannot be noted on this host")
	}
	out := found.result
	if out.Secret == "" {
		return out, nil
	}
	migrating, err := a.migrating(ctx)
	switch {
	case err == nil && (migrating || apply.RunState(ctx, a.conn) == "inmigrate"):
		err = ErrMigrating // QEMU may need it again
	case err == nil:
		err = apply.DeleteObject(ctx, a.conn, out.Secret)
	}
	if err != nil { // the note has it
		a.host.Entry(a.options.Target).Warnf("the secret object %s is still in QEMU, from where repair and detach remove it: %v", out.Secret, err)
		out.Secret = ""
		return out, nil
	}
	out.Objects = nil
	if len(out.Reopened) > 0 {
		return out, nil
	}
	found.note.Adopted.Secret = "" // another object may get its name
	if err := dir.WriteNote(found.note); err != nil {
		a.host.Entry(a.options.Target).Warnf("the note of the disk still names the secret object %s, which was removed: %v", out.Secret, err)
	}
	return out, nil
}
