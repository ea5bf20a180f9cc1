package hotplug

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/secrets/luks"
)

// looksElsewhere tells whether the disk has images that a storage daemon looks at
// before the VM opens them.
func (a *attach) looksElsewhere() bool {
	if !a.vm.filesAreLocal() || !a.vm.readsElsewhere() {
		return false
	}
	for _, i := range a.disk.Images() {
		if opensElsewhere(*i) {
			return true
		}
	}
	return false
}

// readsElsewhere tells whether this host has a storage daemon.
func (vm *VM) readsElsewhere() bool {
	_, err := exec.LookPath(daemon.Program)
	return err == nil
}

// opensElsewhere tells whether a storage daemon has to open an image to see what is
// in it, and can: those of servers, and what package image does not read. A drive
// that QEMU takes for itself, and a server that the guest talks to, are not among
// them.
func opensElsewhere(i blockgraph.Image) bool {
	switch i.Source.Kind {
	case blockgraph.SourceNetwork, blockgraph.SourceFile, blockgraph.SourceBlock:
		return !readHere(i)
	}
	return false
}

// look opens the images of a layer that a storage daemon has to open. There a
// server that does not answer, or does not let us in, does no harm: a QEMU that is
// told to open an image stands still until it is open. It refuses what the local
// checks refuse, and returns the LUKS header that it has found, nil where that is
// none of its business.
func (a *attach) look(ctx context.Context, disk *blockgraph.Disk, way blockgraph.Way, state *State) (*luks.Header, error) {
	layer := &disk.Image
	var h *luks.Header
	if header := disk.Header(); header != nil && opensElsewhere(*header) {
		if err := a.checkWritable(disk, header.Source, a.headerUse(way) == writes); err != nil {
			return nil, err
		}
		var err error
		if h, err = a.lookAtHeader(ctx, disk, way, state); err != nil {
			return nil, err
		}
	}
	if store := layer.DataStore; store != nil && opensElsewhere(*store) {
		if _, err := a.remoteReader(ctx, *store); err != nil {
			return nil, serverError(disk.Target, store.Source, err)
		}
	}
	if !opensElsewhere(*layer) {
		return h, nil
	}
	if err := a.checkWritable(disk, layer.Source, true); err != nil {
		return nil, err
	}
	found, err := a.lookAtPayload(ctx, disk)
	if found != nil {
		h = found
	}
	return h, err
}

// lookAtHeader reads a detached header, which must be that of no other disk.
func (a *attach) lookAtHeader(ctx context.Context, disk *blockgraph.Disk, way blockgraph.Way, state *State) (*luks.Header, error) {
	header := disk.Header()
	r, err := a.remoteReader(ctx, *header)
	if err != nil {
		return nil, serverError(disk.Target, header.Source, err)
	}
	name := header.Source.String()
	h, err := luks.ReadHeader(r)
	if err != nil {
		return nil, headerError(disk, name, err)
	}
	user, err := a.vm.headerUser(ctx, disk, name, h.UUID, state)
	if err != nil || user == "" {
		return h, err
	}
	return h, a.checkShared(disk, name, user, a.headerUse(way))
}

// lookAtPayload opens the layer itself. It has a LUKS header exactly when the XML
// says so, see checkEmbedded and checkDetached.
func (a *attach) lookAtPayload(ctx context.Context, disk *blockgraph.Disk) (*luks.Header, error) {
	layer := disk.Image
	refuse := func(format string) error {
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf(format, layer.Source)}
	}
	if layer.Encryption != nil && disk.Header() == nil && !layer.RawLUKS() {
		layer.Format = blockgraph.FormatRaw // its encryption is the business of whoever has the secret
	}
	r, err := a.remoteReader(ctx, layer)
	if err != nil {
		return nil, serverError(disk.Target, layer.Source, err)
	}
	if layer.RawLUKS() && disk.Header() == nil {
		h, err := luks.ReadHeader(r)
		if err != nil {
			return nil, headerError(disk, layer.Source.String(), err)
		}
		if h.PayloadOffset() == 0 {
			return nil, refuse("the image %s is a detached LUKS header without a payload: name the payload as the <source> and this image in <header>")
		}
		return h, nil
	}
	if layer.Encryption != nil && layer.Encryption.Engine == blockgraph.EngineLibRBD {
		return nil, a.tryLibRBD(ctx, disk, r)
	}
	if layer.Encryption != nil && disk.Header() == nil {
		return nil, nil
	}
	start := make([]byte, min(magicLength, r.size))
	if _, err := r.ReadAt(start, 0); err != nil {
		return nil, serverError(disk.Target, layer.Source, err)
	}
	switch {
	case !luks.HasMagic(start):
		return nil, nil
	case disk.Header() != nil:
		return nil, refuse("the payload %s begins with a LUKS header of its own: leave <header> out to use that one")
	}
	return nil, refuse("the image %s is encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks'>")
}

// checkWritable refuses what QEMU only reads, under a disk that is to be written:
// QEMU would open it, and refuse the device.
func (a *attach) checkWritable(disk *blockgraph.Disk, s blockgraph.Source, writes bool) error {
	if !writes || disk.ReadOnly {
		return nil
	}
	why := ""
	switch n := s.Network.(type) {
	case *blockgraph.Curl:
		why = "as QEMU writes to no " + n.Protocol() + " server"
	case *blockgraph.RBD:
		if n.Snapshot != "" {
			why = "as it is a snapshot"
		}
	}
	if why == "" {
		return nil
	}
	return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("%s can only be read, %s: add <readonly/>", s, why)}
}

// errNoAnswer: a server takes a connection, or not even that, and says nothing.
var errNoAnswer = errors.New("its server has not answered")
