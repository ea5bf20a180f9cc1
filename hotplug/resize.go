package hotplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/hotplug/internal/inventory"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// NewSize is the size that a disk is to have, in bytes.
type NewSize struct {
	Bytes int64
	// Added is true if Bytes are added to the present size.
	Added bool
}

// Of returns the new size of a disk that has a size of present. The error wraps [ErrSize] if no disk has it.
func (n NewSize) Of(present int64) (int64, error) {
	size := n.Bytes
	if n.Added {
		size += present
	}
	switch {
	case n.Bytes <= 0 || size < n.Bytes:
		return 0, fmt.Errorf("%w: %d bytes", ErrSize, n.Bytes)
	case size%luks.SectorSize != 0:
		return 0, fmt.Errorf("%w: %d bytes are no multiple of %d", ErrSize, size, luks.SectorSize)
	}
	return size, nil
}

// ResizeOptions are the options of a resize.
type ResizeOptions struct {
	// Size is that of the guest's disk.
	Size NewSize
	// Allocate reserves the new space of a raw file on the host. Without it the file is sparse.
	Allocate bool
	// DryRun makes all checks, and changes nothing.
	DryRun bool
}

// Resized is the result of a resize.
type Resized struct {
	Target string
	// Old and New are the sizes of the guest's disk in bytes. They are equal if it had the size already.
	Old, New int64
	// Payload is the path of the image, as QEMU or the note has it.
	Payload string
	// Driver is the type of the device, such as "scsi-hd".
	Driver string
	// File is true if the image is a raw file that was grown before QEMU was told, and false if QEMU has grown the
	// image, or if it is a device of the host.
	File bool
}

// Resize makes the disk at target larger, and tells the guest. A raw file on this host, which the VM's process has to have
// open, is grown first; a qcow2 image is grown by QEMU (block_resize of QEMU's QMP reference, on the node that the device
// uses, so that filters above the volume follow). A block device must have the new size already.
//
// Before the first change a [*PreflightError] has one of the causes [ErrSize], [ErrShrink], [ErrFixedSize], [ErrManaged],
// [ErrDiskInUse], [ErrImageInUse], [ErrReadOnlyImage] and [ErrImageUnusable]. The other errors are [*NotHeldError],
// [*RolledBackError], if the image and the VM are as before, and [*LeftBehindError], if the image stays larger or QEMU
// could not be queried; a further call then continues.
func (vm *VM) Resize(ctx context.Context, target string, options ResizeOptions) (*Resized, error) {
	if err := CheckTarget(target); err != nil {
		return nil, err
	}
	lock, err := vm.lock(ctx)
	if err != nil {
		return nil, err
	}
	defer lock.Release()
	state, err := vm.State(ctx)
	if err != nil {
		return nil, err
	}
	disk := state.Disk(target)
	if disk == nil {
		return nil, vm.notResizable(ctx, target, state)
	}
	r := resize{vm: vm, disk: disk, options: options}
	if err := r.examine(ctx, state); err != nil {
		return nil, err
	}
	out := &Resized{Target: target, Old: r.old, New: r.size, Payload: disk.Payload, Driver: disk.Driver, File: r.file != nil && r.file.Needed()}
	if r.file != nil {
		defer r.file.Close()
	}
	if options.DryRun || r.size == r.old {
		return out, nil
	}
	return out, r.run(ctx)
}

// notResizable is the error for a target that luksplug has no disk at.
func (vm *VM) notResizable(ctx context.Context, target string, state *State) error {
	err := vm.notHeld(ctx, target, state)
	var missing *NotHeldError
	if errors.As(err, &missing) && missing.Foreign {
		return &PreflightError{Target: target, Cause: ErrManaged,
			Reason: fmt.Sprintf("libvirt has attached it, and not luksplug: use virsh blockresize %s %s SIZE", vm.opts.Name, target)}
	}
	return err
}

// resize is one run of [VM.Resize].
type resize struct {
	vm      *VM
	disk    *AttachedDisk
	options ResizeOptions

	old, size int64  // of the guest's disk
	node      string // the device uses it
	file      *image.Growth
}

func (r *resize) refuse(cause error, format string, args ...any) error {
	return &PreflightError{Target: r.disk.Target, Cause: cause, Reason: fmt.Sprintf(format, args...)}
}

// examine makes all checks, and opens the file that is to be grown.
func (r *resize) examine(ctx context.Context, state *State) error {
	top := state.Top(r.disk)
	if top == nil {
		return r.refuse(ErrFixedSize, "no device in the VM uses a block node of it: run luksplug repair if an interrupted run has left it")
	}
	r.node, r.old = top.Name, top.Image.VirtualSize
	var err error
	if r.size, err = r.options.Size.Of(r.old); err != nil {
		return r.refuse(ErrSize, "%v", err)
	}
	switch {
	case r.size == r.old:
		return nil
	case r.size < r.old:
		return r.refuse(ErrShrink, "it has %d bytes, and a guest loses what is beyond %d: make it smaller while it is detached", r.old, r.size)
	case top.ReadOnly:
		return r.refuse(ErrReadOnlyImage, "it is read-only in the VM")
	}
	if err := r.checkParts(); err != nil {
		return err
	}
	if err := r.vm.checkUnused(ctx, r.disk, "resize"); err != nil {
		return err
	}
	if err := r.checkShared(ctx); err != nil {
		return err
	}
	return r.checkImage(ctx, state)
}

// checkParts refuses a disk with a part that does not follow.
func (r *resize) checkParts() error {
	if r.disk.Unlock == blockgraph.MethodStorageDaemon {
		return r.refuse(ErrFixedSize, "a storage daemon serves it by NBD, whose exports keep their size: detach it, resize the volume, and attach it again")
	}
	for _, name := range r.disk.Nodes {
		_, role, _ := blockgraph.ParseName(name)
		base, layer := role.Base()
		switch {
		case role == blockgraph.RoleOverlayFormat:
			return r.refuse(ErrFixedSize, "it is transient: its overlay would get the size, and the image below would not")
		case layer > 0:
			return r.refuse(ErrFixedSize, "its image has other images below it, which would keep their size: detach it, and resize or merge them with qemu-img")
		case base == blockgraph.RolePayloadSlice:
			return r.refuse(ErrFixedSize, "its payload is a slice of a file")
		case base == blockgraph.RoleDataStorage:
			return r.refuse(ErrFixedSize, "its data are in a data store, which would keep its size")
		}
	}
	return nil
}

// checkShared refuses a disk that other VMs may use: only this one would learn of the new size.
func (r *resize) checkShared(ctx context.Context) error {
	with, err := r.vm.sharedWith(ctx, r.disk)
	if err == nil && with != "" {
		err = r.refuse(ErrImageInUse, "%s, where it would keep the old size: detach it everywhere, and resize the volume", with)
	}
	return err
}

// sharedWith describes what else uses, or may use, the disk's image; "" if nothing does.
func (vm *VM) sharedWith(ctx context.Context, disk *AttachedDisk) (string, error) {
	users, err := vm.otherVMs(ctx, disk)
	if err != nil {
		return "", err
	}
	if len(users) > 0 {
		var names []string
		for _, u := range users {
			names = append(names, fmt.Sprintf("disk %s of VM %s", blockgraph.TargetOf(u.Target), u.VM))
		}
		return "its image is also " + listed(names), nil
	}
	results := vm.conn.QueryEach(ctx, monitor.QOMGet(inventory.Peripheral+disk.Device, "share-rw"))
	var refused *qmp.Error // by a device without the property
	if results[0].Err != nil && !errors.As(results[0].Err, &refused) {
		return "", results[0].Err
	}
	if string(results[0].Value) == "true" {
		return "it is shareable, and may be a disk of other VMs", nil
	}
	return "", nil
}

// otherVMs returns the disks of other VMs of this host that have the same image.
func (vm *VM) otherVMs(ctx context.Context, disk *AttachedDisk) ([]rundir.Note, error) {
	if !vm.host.Local || disk.Payload == "" {
		return nil, nil
	}
	dir, err := vm.host.Dir(ctx)
	if err != nil {
		return nil, err
	}
	return dir.PayloadUsers(disk.Payload)
}

// checkImage checks the image as far as this host has it, and opens a raw file.
func (r *resize) checkImage(ctx context.Context, state *State) error {
	storage := state.Storage(r.disk)
	if storage == nil || !storage.IsStorage() || !r.vm.host.Local {
		return r.allocating("the image is not a file of this host")
	}
	for _, name := range r.disk.Nodes {
		if n := state.Node(name); n != nil && n.Driver == "qcow2" && !isHeader(name) {
			return r.allocating("the image is qcow2")
		}
	}
	// The difference is the place of a header in the image.
	wanted := storage.Image.VirtualSize - r.old + r.size
	process, err := r.vm.host.Process(ctx)
	if err != nil || process.PID == 0 {
		return r.allocating("the VM's process is unknown") // QEMU grows the file
	}
	file, err := image.OpenGrowth(process.PID, r.disk.Payload, wanted)
	switch {
	case err != nil:
		return &PreflightError{Target: r.disk.Target, Cause: ErrImageUnusable, Reason: "its image cannot be resized", Err: err}
	case file.Block && file.Old != wanted:
		defer file.Close()
		return r.refuse(ErrSize, "%s is a block device of %d bytes, which only its owner can resize (lvextend, for example), and the guest's disk has the size of the device, which makes %d bytes now", r.disk.Payload, file.Old, r.old+file.Old-storage.Image.VirtualSize)
	case file.Old > wanted:
		defer file.Close()
		return r.refuse(ErrSize, "%s has grown to %d bytes since it was attached, and QEMU would cut it off at %d: give at least %d bytes", r.disk.Payload, file.Old, wanted, r.old+file.Old-storage.Image.VirtualSize)
	}
	r.file = file
	return nil
}

// allocating refuses to allocate the space of an image that luksplug itself does not grow.
func (r *resize) allocating(why string) error {
	if r.options.Allocate {
		return r.refuse(ErrSize, "only the space of a raw file on the VM's host can be allocated, and %s", why)
	}
	return nil
}

// isHeader reports whether a node belongs to a detached header.
func isHeader(name string) bool {
	_, role, _ := blockgraph.ParseName(name)
	switch role, _ = role.Base(); role {
	case blockgraph.RoleHeaderFormat, blockgraph.RoleHeaderSlice, blockgraph.RoleHeaderStorage:
		return true
	}
	return false
}

// run makes the change.
func (r *resize) run(ctx context.Context) error {
	if r.file != nil {
		if err := r.grow(ctx); err != nil {
			return err
		}
	}
	command := qmp.Command{Execute: "block_resize", Arguments: qmp.Object{{Name: "node-name", Value: r.node}, {Name: "size", Value: r.size}}}
	_, err := r.vm.conn.Execute(ctx, command)
	after, cancel := r.vm.host.Recovering(ctx)
	defer cancel()
	now, queryErr := r.present(after)
	switch {
	case queryErr != nil:
		return r.left(errors.Join(err, queryErr), true)
	case now == r.size:
		return nil // also if no answer came
	case err == nil:
		err = fmt.Errorf("QEMU has made it %d bytes, and not %d", now, r.size)
	}
	if now == r.old && r.file != nil {
		if undo := r.file.Undo(); undo != nil {
			return r.left(errors.Join(err, undo), false)
		}
	}
	if now != r.old {
		return r.left(err, false)
	}
	return &RolledBackError{Target: r.disk.Target, Operation: "resized", Err: err}
}

// grow grows the file of the host.
func (r *resize) grow(ctx context.Context) error {
	how := image.Sparse
	if r.options.Allocate {
		how = image.Allocated
	}
	err := r.file.Grow(ctx, how, nil)
	if err == nil {
		return nil
	}
	if undo := r.file.Undo(); undo != nil {
		return r.left(errors.Join(err, undo), false)
	}
	return &RolledBackError{Target: r.disk.Target, Operation: "resized", Err: err}
}

// present returns the size of the guest's disk.
func (r *resize) present(ctx context.Context) (int64, error) {
	if err := r.vm.conn.Reconnect(ctx); err != nil {
		return 0, err
	}
	state, err := inventory.Nodes(ctx, r.vm.conn)
	if err != nil {
		return 0, err
	}
	node := state.Node(r.node)
	if node == nil {
		return 0, fmt.Errorf("the VM has no node %s any more", r.node)
	}
	return node.Image.VirtualSize, nil
}

// left names the image, whose size has changed or may have.
func (r *resize) left(err error, unverified bool) error {
	what := fmt.Sprintf("a part of the new size of %s, which was to have %d bytes for the guest and had %d", r.disk.Payload, r.size, r.old)
	return &LeftBehindError{Target: r.disk.Target, Left: []string{what}, Unverified: unverified, Err: err,
		Remedy: "no data are lost: resize it again to the same size"}
}
