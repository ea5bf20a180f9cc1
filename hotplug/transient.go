package hotplug

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// overlayOf returns the overlay of a transient disk, nil for other disks.
func overlayOf(g *blockgraph.Graph) *blockgraph.Overlay {
	if g.Daemon != nil {
		return g.Daemon.Overlay
	}
	return g.Overlay
}

// overlayName returns what overlays of this VM's disks are named after.
func (vm *VM) overlayName(ctx context.Context) (string, error) {
	if name := vm.opts.Name; name != "" && !strings.Contains(name, "/") { // which a monitor's address has
		return name, nil
	}
	return vm.identity(ctx)
}

// overlayMark is by what the overlay of a disk is known to be ours, whichever run
// has made it.
func overlayMark(vm, target string) string { return vm + "/" + target }

// encryptOverlay makes the volume that an overlay is encrypted with. The object
// has its passphrase.
func (v *Values) encryptOverlay(object string) error {
	header, err := luks.Fresh()
	if err != nil {
		return err
	}
	v.overlay = header
	return header.Passphrase().Use(func(value []byte) error {
		v.passphrases[object], err = encode(value, secrets.Passphrase)
		return err
	})
}

// checkOverlay checks that the overlay of a transient disk can be made: its place
// is here, free, and may be written to.
func (a *attach) checkOverlay(ctx context.Context, graph *blockgraph.Graph) error {
	o := overlayOf(graph)
	a.overlay = o
	if o == nil {
		return nil
	}
	refuse := func(reason string, err error) error {
		return &PreflightError{Target: a.disk.Target, Reason: reason, Err: err}
	}
	if !a.vm.filesAreLocal() {
		return refuse("it is transient, and the VM runs on another machine: luksplug makes the overlay itself, so run it there", nil)
	}
	id, err := a.vm.identity(ctx)
	if err != nil {
		return err
	}
	// One of an interrupted run is removed when nothing else stands against the disk.
	switch err := overlay.Check(o.Path, overlayMark(id, a.disk.Target)); {
	case err == nil, errors.Is(err, fs.ErrNotExist):
	default:
		return refuse(fmt.Sprintf("the file %s is where the overlay of the transient disk would be: remove it if nobody needs it", o.Path), err)
	}
	folder := filepath.Dir(o.Path)
	if err := unix.Access(folder, unix.W_OK|unix.X_OK); err != nil {
		return refuse(fmt.Sprintf("the overlay of the transient disk cannot be made in %s", folder), err)
	}
	if _, err := a.vm.process(ctx); err != nil {
		return refuse("the overlay of the transient disk must belong to QEMU's user", err)
	}
	return nil
}

// withOverlay executes a step. Where that opens an overlay, the file is made
// before, as large as what lies below it in the process that ask asks; and whatever
// becomes of the step, the file has no name after it: QEMU opens it by the
// descriptor that it has from here on, and it is gone with QEMU, even when the
// whole host goes down.
func (vm *VM) withOverlay(ctx context.Context, s blockgraph.Step, values *Values, ask asker, step func() error) error {
	if s.Overlay == nil {
		return step()
	}
	mark, err := vm.makeOverlay(ctx, s.Overlay, values, ask)
	if err != nil {
		return err
	}
	err = step()
	if failed := overlay.Remove(s.Overlay.Path, mark); failed != nil {
		err = errors.Join(err, failed)
	}
	return err
}

// makeOverlay makes the file of an overlay, and returns its mark. One of an
// interrupted run is removed first.
func (vm *VM) makeOverlay(ctx context.Context, o *blockgraph.Overlay, values *Values, ask asker) (mark string, err error) {
	id, err := vm.identity(ctx)
	if err != nil {
		return "", err
	}
	target, _, _ := blockgraph.ParseName(o.Node) // a name of package blockgraph's
	mark = overlayMark(id, target)
	owner, err := vm.process(ctx)
	if err != nil {
		return "", err
	}
	answers, err := ask(ctx, queryNodes)
	if err != nil {
		return "", fmt.Errorf("ask for the size of the image below the overlay: %w", err)
	}
	state := &State{}
	if err := decode(answers[0], &state.Nodes, queryNodes); err != nil {
		return "", err
	}
	base := state.Node(o.Base)
	if base == nil {
		return "", fmt.Errorf("ask for the size of the image below the overlay: there is no node %s", o.Base)
	}
	options := overlay.Options{Size: base.Image.VirtualSize, Mark: mark, Owner: owner.User, Label: owner.Labels.Image}
	if o.Secret != "" {
		if options.Header = values.overlay; options.Header == nil {
			return "", fmt.Errorf("the plan needs an encrypted overlay %s, which was not resolved", o.Path)
		}
	}
	if err := overlay.Remove(o.Path, mark); err != nil && !errors.Is(err, overlay.ErrForeign) {
		return "", err
	}
	return mark, overlay.Create(o.Path, options)
}

// overlayIsThere tells whether the disk's overlay has its name still, or again.
func (n note) overlayIsThere(vm string) bool {
	return n.Overlay != "" && overlay.Check(n.Overlay, overlayMark(vm, n.Target)) == nil
}

// removeOverlay removes the disk's overlay, if it has its name still. vm is the
// identity of the VM.
func (n note) removeOverlay(vm string) error {
	if n.Overlay == "" {
		return nil
	}
	err := overlay.Remove(n.Overlay, overlayMark(vm, n.Target))
	if errors.Is(err, overlay.ErrForeign) {
		return nil // somebody else has a file there now
	}
	return err
}
