package hotplug

import (
	"context"
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets/luks"
)

// checkFiles looks at the disk's images on this host: that they are there and
// may be used, that nobody else uses them, and that they are what the XML says.
// A mistake here costs data: a LUKS image that is attached as a raw disk is
// formatted by the guest, a header that serves two payloads gives both the same
// key.
//
// It returns the size in bytes that a volume must have which is unlocked outside
// of QEMU, 0 for others.
func (a *attach) checkFiles(ctx context.Context, unlock blockgraph.Unlock, state *State) (int64, error) {
	vm, disk := a.vm, a.disk
	if !vm.filesAreLocal() {
		return 0, a.checkElsewhere(state)
	}
	if err := checkUnused(disk, state); err != nil {
		return 0, err
	}
	size := int64(0)
	for i, layer := range disk.Layers() {
		// A layer is checked like a disk of its own; those below the top one
		// are only read.
		alone := *disk
		alone.Image, alone.ReadOnly = *layer, disk.ReadOnly || disk.Transient || i > 0
		n, err := a.checkLayer(ctx, &alone, unlock, state)
		if err != nil {
			return 0, err
		}
		if i == 0 {
			size = n
		}
	}
	return size, nil
}

// checkLayer checks one layer: what of it is on this host, and what of it a storage
// daemon has to look at.
func (a *attach) checkLayer(ctx context.Context, disk *blockgraph.Disk, unlock blockgraph.Unlock, state *State) (int64, error) {
	layer, header := &disk.Image, disk.Header()
	if store := layer.DataStore; store != nil && store.Source.Local() {
		if _, err := checkAccess(disk, *store, "data store", a.imageUse()); err != nil {
			return 0, err
		}
	}
	var payload *image.Info
	var err error
	if layer.Source.Local() {
		if payload, err = checkAccess(disk, *layer, "payload", a.imageUse()); err != nil {
			return 0, err
		}
	}
	var h *luks.Header
	switch {
	case header != nil && readHere(*header):
		if h, err = a.checkHeader(ctx, disk, *header, unlock, state); err != nil {
			return 0, err
		}
		if payload == nil || !readHere(*layer) {
			break
		}
		if err := checkDetached(disk); err != nil {
			return 0, err
		}
	case header == nil && payload != nil && readHere(*layer):
		if h, err = checkEmbedded(disk, payload); err != nil {
			return 0, err
		}
	}
	remote := !readHere(*layer.LUKSHeader())
	switch {
	case a.servers.done && remote:
		return a.servers.size, nil // was checked before the key was derived
	case !a.servers.done && a.vm.readsElsewhere():
		found, err := a.look(ctx, disk, unlock.Way, state)
		if err != nil {
			return 0, err
		}
		if remote {
			h = found
		}
	}
	if h == nil {
		return 0, nil
	}
	if err := checkOpens(disk, h, unlock.Way); err != nil || unlock.Way != blockgraph.ByHeader {
		return 0, err
	}
	size, err := a.volumeSize(ctx, disk, h)
	if remote && a.servers.size == 0 { // the top layer comes first
		a.servers.size, a.servers.uuid = size, h.UUID
	}
	return size, err
}

// checkHeader checks a detached header: the file, what it holds, and that it is
// the header of no other disk.
func (a *attach) checkHeader(ctx context.Context, disk *blockgraph.Disk, header blockgraph.Image, unlock blockgraph.Unlock, state *State) (*luks.Header, error) {
	path := header.Source.Path
	access := a.headerUse(unlock.Way)
	// The file first: its locks would tell as well, but not whose they are.
	user, err := a.vm.headerUser(ctx, disk, path, "", state)
	if err != nil {
		return nil, err
	}
	if user == "" || access == shares {
		if _, err := checkAccess(disk, header, "header", access); err != nil {
			return nil, err
		}
	}
	h, err := readHeader(header)
	if err != nil {
		return nil, headerError(disk, path, err)
	}
	if user == "" {
		user, err = a.vm.headerUser(ctx, disk, path, h.UUID, state)
	}
	if err != nil || user == "" {
		return h, err
	}
	return h, a.checkShared(disk, path, user, access)
}

// headerUse says what becomes of a detached header: where the key is derived
// here, QEMU gets another one.
func (a *attach) headerUse(way blockgraph.Way) use {
	switch {
	case way != blockgraph.ByHeader:
		return a.imageUse()
	case a.options.AllowSharedHeader:
		return shares
	}
	return reads
}

// imageUse says what becomes of an image that QEMU opens as the disk says.
func (a *attach) imageUse() use {
	if a.arrival == ArrivalMigration {
		return moves
	}
	return writes
}

// checkShared answers for a detached header that user has already.
func (a *attach) checkShared(disk *blockgraph.Disk, header, user string, access use) error {
	if access != shares {
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the header %s is in use by %s: one header over two payloads would give both the same key, so make a header for each, or allow it with --allow-shared-header", header, user)}
	}
	a.shared = fmt.Sprintf("the header %s is also that of %s, as was allowed: both payloads have the same key", header, user)
	return nil
}

// headerUser returns who has the detached header already, "" for nobody.
func (vm *VM) headerUser(ctx context.Context, disk *blockgraph.Disk, path, uuid string, state *State) (string, error) {
	for _, n := range state.Nodes {
		sameFile := n.isStorage() && image.SameFile(n.File, path)
		sameVolume := uuid != "" && n.Image.Specific.Data.UUID == uuid
		if sameFile || sameVolume {
			return state.user(n), nil
		}
	}
	for target, n := range state.notes {
		if target != disk.Target && n.Header != "" && image.SameFile(n.Header, path) && state.Holding(target) != nil {
			return "disk " + target + " of this VM", nil
		}
	}
	other, err := vm.otherUser(ctx, path, uuid)
	if err != nil || other == nil {
		return "", err
	}
	return fmt.Sprintf("disk %s of VM %s", other.Target, other.VM), nil
}

// readHere tells whether package image reads the image: a file or block device of
// this host, all of it, in a format that it knows. Others take a storage daemon.
func readHere(i blockgraph.Image) bool {
	return i.Source.Local() && (i.Format == blockgraph.FormatRaw || i.Format == blockgraph.FormatQcow2)
}

// filesAreLocal tells whether the XML's paths can be looked at here.
func (vm *VM) filesAreLocal() bool {
	if vm.opts.Files != FilesAuto {
		return vm.opts.Files == FilesLocal
	}
	_, local := vm.client.PeerPID()
	return local
}

// checkUnused refuses a payload that this VM has open already. The image locks
// would tell as well, but not which disk it is, nor for a read-only pair.
func checkUnused(disk *blockgraph.Disk, state *State) error {
	source := disk.Image.Source
	for _, n := range state.Nodes {
		if source.Local() && n.isStorage() && image.SameFile(n.File, source.Path) {
			return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is in use by %s", source, state.user(n))}
		}
	}
	for target, n := range state.notes {
		if !source.Local() && n.Payload == source.String() && target != disk.Target && state.Holding(target) != nil {
			return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is in use by disk %s of this VM", source, target)}
		}
	}
	return nil
}

// isStorage tells whether the node reads a file or device of the host.
func (n *Node) isStorage() bool {
	return n.Driver == "file" || n.Driver == "host_device" || n.Driver == "host_cdrom"
}

// user says for people whose a node is.
func (s *State) user(n Node) string {
	if target, _, ours := blockgraph.ParseName(n.Name); ours {
		return "disk " + target + " of this VM"
	}
	return "node " + n.Name + " of this VM"
}

// use is what becomes of an image.
type use string

const (
	writes use = "writes" // QEMU opens it as the disk says
	moves  use = "moves"  // so it does, but not before another QEMU, which has it open, hands it over
	reads  use = "reads"  // only this process reads it, and nobody else may write
	shares use = "shares" // only this process reads it, and others may do what they like
)

// checkAccess checks that an image is of the kind that the XML says, may be
// opened the way in which QEMU will open it, and is not locked. It returns what
// the image is.
func checkAccess(disk *blockgraph.Disk, img blockgraph.Image, what string, u use) (*image.Info, error) {
	path := img.Source.Path
	refuse := func(reason string, err error) (*image.Info, error) {
		return nil, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf(reason, what, path), Err: err}
	}
	info, err := image.Probe(path)
	if err != nil {
		return refuse("the %s %s cannot be used", err)
	}
	if block := img.Source.Kind == blockgraph.SourceBlock; block != info.Block {
		if block {
			return refuse("the %s %s is not a block device: use type='file'", nil)
		}
		return refuse("the %s %s is a block device: use type='block'", nil)
	}
	access := image.ReadWrite
	if disk.ReadOnly {
		access = image.Read
	} else if err := image.Writable(path); (u == writes || u == moves) && err != nil {
		if what == "header" {
			return refuse("the %s %s cannot be written, and QEMU needs it writable under a writable disk: make it writable, or add <readonly/>", err)
		}
		return refuse("the %s %s cannot be written: make it writable, or add <readonly/>", err)
	}
	if err := image.CheckLock(path, access); u != shares && u != moves && err != nil {
		return refuse("the %s %s is in use outside of this VM: end its other use", err)
	}
	if img.Format == blockgraph.FormatQcow2 && info.Format != image.Qcow2 {
		return refuse(fmt.Sprintf("the %%s %%s is not a qcow2 image but %s: correct the format in the XML", info.Format), nil)
	}
	return info, nil
}

// checkDetached checks that the payload of a detached header has none of its
// own.
func checkDetached(disk *blockgraph.Disk) error {
	prefix, err := image.GuestPrefix(disk.Image.Source.Path, image.Format(disk.Image.Format), magicLength)
	if err != nil && !errors.Is(err, image.ErrUnsupported) {
		return &PreflightError{Target: disk.Target, Reason: "the payload " + disk.Image.Source.Path + " cannot be read", Err: err}
	}
	if luks.HasMagic(prefix) {
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the payload %s begins with a LUKS header of its own: leave <header> out to use that one", disk.Image.Source.Path)}
	}
	return nil
}

const magicLength = 6 // of LUKS, LUKS On-Disk Format Specification, figure 1

// checkEmbedded checks an image whose header, if it has one, is inside: it has
// one exactly when the XML says <encryption>.
func checkEmbedded(disk *blockgraph.Disk, info *image.Info) (*luks.Header, error) {
	path := disk.Image.Source.Path
	encrypted := disk.Image.Encryption != nil
	if disk.Image.Format == blockgraph.FormatQcow2 {
		return info.Qcow2.LUKS, checkEmbeddedQcow2(disk, info.Qcow2)
	}
	h, err := readHeader(disk.Image)
	switch {
	case encrypted && err != nil:
		return nil, headerError(disk, path, err)
	case encrypted && h.PayloadOffset() == 0:
		return nil, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is a detached LUKS header without a payload: name the payload as the <source> and this file in <header>", path)}
	case encrypted:
		return h, nil
	case errors.Is(err, luks.ErrNotLUKS):
		return nil, nil
	case err != nil && !errors.Is(err, luks.ErrDamaged) && !errors.Is(err, luks.ErrUnsupported):
		return nil, &PreflightError{Target: disk.Target, Reason: "the image " + path + " cannot be read", Err: err}
	}
	// a LUKS header, whatever its state
	return nil, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks'>", path)}
}

func checkEmbeddedQcow2(disk *blockgraph.Disk, header *image.Qcow2Header) error {
	path, encrypted := disk.Image.Source.Path, disk.Image.Encryption != nil
	switch crypt := header.Crypt; {
	case encrypted && crypt == image.CryptNone:
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the qcow2 image %s is not encrypted, and the XML has <encryption>: remove it, or add its <header>", path)}
	case encrypted && crypt != image.CryptLUKS:
		return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("the qcow2 image %s is encrypted with %q: only luks is supported", path, crypt)}
	case !encrypted && crypt != image.CryptNone:
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the qcow2 image %s is encrypted (%s), and the XML has no <encryption>: add <encryption format='luks'>", path, crypt)}
	}
	return nil
}

// checkOpens refuses a header that whoever is going to unlock it does not open.
func checkOpens(disk *blockgraph.Disk, h *luks.Header, way blockgraph.Way) error {
	path := disk.Image.Source.Path
	if header := disk.Header(); header != nil {
		path = header.Source.Path
	}
	err, who := h.QEMUOpens(), "QEMU's own driver"
	if way == blockgraph.ByHeader {
		err, who = h.Usable(), "luksplug"
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, luks.ErrUnsupported):
		return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("%s does not unlock the header of %s for disk %s: %v", who, path, disk.Target, err)}
	}
	return &PreflightError{Target: disk.Target, Reason: "the LUKS header of " + path, Err: err}
}

// volumeSize returns how large the volume of a header is: what the payload has
// from the payload offset on.
func (a *attach) volumeSize(ctx context.Context, disk *blockgraph.Disk, h *luks.Header) (int64, error) {
	source := disk.Image.Source
	bytes, err := a.payloadSize(ctx, disk)
	if err != nil {
		return 0, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the payload %s cannot be read", source), Err: err}
	}
	const sector = luks.SectorSize
	size := (bytes+sector-1)/sector*sector - h.PayloadOffset() // QEMU counts a last, partial sector
	if size <= 0 {
		return 0, &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the payload %s ends at byte %d, before the encrypted data that its LUKS header places at byte %d: it has been cut off", source, bytes, h.PayloadOffset())}
	}
	return size, nil
}

// payloadSize returns how many bytes the payload has, inside of its format.
func (a *attach) payloadSize(ctx context.Context, disk *blockgraph.Disk) (int64, error) {
	if !readHere(disk.Image) {
		r, err := a.remoteReader(ctx, disk.Image)
		if err != nil {
			return 0, err
		}
		return r.size, nil
	}
	payload, err := image.OpenGuest(disk.Image.Source.Path, image.Format(disk.Image.Format))
	if err != nil {
		return 0, err
	}
	defer closeRead(payload)
	return payload.Size(), nil
}

func headerError(disk *blockgraph.Disk, path string, err error) error {
	reason := fmt.Sprintf("the LUKS header in %s cannot be read", path)
	if errors.Is(err, luks.ErrNotLUKS) {
		reason = fmt.Sprintf("%s has no LUKS header: check the path, or format the volume", path)
	}
	return &PreflightError{Target: disk.Target, Reason: reason, Err: err}
}
