package hotplug

import (
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/image"
	"github.com/luksplug/luksplug/secrets/luks"
)

// checkFiles looks at the disk's images on this host: that they are there and
// may be used, that nobody else uses them, and that they are what the XML says.
// A mistake here costs data: a LUKS image that is attached as a raw disk is
// formatted by the guest, a header that serves two payloads gives both the same
// key.
func (vm *VM) checkFiles(disk *blockgraph.Disk, state *State) error {
	if !vm.filesAreLocal() {
		vm.log.WithField("disk", disk.Target).Warn("the VM runs on another machine: its image files were not checked before the attach")
		return nil
	}
	if err := checkUnused(disk, state); err != nil {
		return err
	}
	payload, err := checkAccess(disk, disk.Image, "payload")
	if err != nil {
		return err
	}
	if header := disk.Header(); header != nil {
		if _, err := checkAccess(disk, *header, "header"); err != nil {
			return err
		}
		return checkDetached(disk)
	}
	return checkEmbedded(disk, payload)
}

// filesAreLocal tells whether the XML's paths can be looked at here.
func (vm *VM) filesAreLocal() bool {
	if vm.opts.Files != FilesAuto {
		return vm.opts.Files == FilesLocal
	}
	_, local := vm.client.PeerPID()
	return local
}

// checkUnused refuses an image that this VM has open already. The image locks
// would tell as well, but not which disk it is, nor for a read-only pair.
func checkUnused(disk *blockgraph.Disk, state *State) error {
	for _, n := range state.Nodes {
		if n.Driver != "file" && n.Driver != "host_device" && n.Driver != "host_cdrom" {
			continue
		}
		user := "node " + n.Name
		if target, _, ours := blockgraph.ParseName(n.Name); ours {
			user = "disk " + target
		}
		if header := disk.Header(); header != nil && image.SameFile(n.File, header.Source.Path) {
			return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the header %s is in use by %s of this VM: one header over two payloads would give both the same key, so make a header for each", header.Source.Path, user)}
		}
		if image.SameFile(n.File, disk.Image.Source.Path) {
			return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is in use by %s of this VM", disk.Image.Source.Path, user)}
		}
	}
	return nil
}

// checkAccess checks that an image is of the kind that the XML says, may be
// opened the way in which QEMU will open it, and is not locked. It returns what
// the image is.
func checkAccess(disk *blockgraph.Disk, img blockgraph.Image, what string) (*image.Info, error) {
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
	} else if err := image.Writable(path); err != nil {
		if what == "header" {
			return refuse("the %s %s cannot be written, and QEMU needs it writable under a writable disk: make it writable, or add <readonly/>", err)
		}
		return refuse("the %s %s cannot be written: make it writable, or add <readonly/>", err)
	}
	if err := image.CheckLock(path, access); err != nil {
		return refuse("the %s %s is in use outside of this VM: end its other use", err)
	}
	if img.Format == blockgraph.FormatQcow2 && info.Format != image.Qcow2 {
		return refuse(fmt.Sprintf("the %%s %%s is not a qcow2 image but %s: correct the format in the XML", info.Format), nil)
	}
	return info, nil
}

// checkDetached checks a header that is not in the image: that it is one, and
// that the payload has none of its own.
func checkDetached(disk *blockgraph.Disk) error {
	header := disk.Header()
	h, err := readHeader(*header)
	if err != nil {
		return headerError(disk, header.Source.Path, err)
	}
	if err := checkVersion(disk, header.Source.Path, h); err != nil {
		return err
	}
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

// readHeader reads the LUKS header at the start of what an image holds.
func readHeader(img blockgraph.Image) (*luks.Header, error) {
	guest, err := image.OpenGuest(img.Source.Path, image.Format(img.Format))
	if err != nil {
		return nil, err
	}
	defer func() { _ = guest.Close() }() // only read
	return luks.ReadHeader(guest)
}

// checkEmbedded checks an image whose header, if it has one, is inside: it has
// one exactly when the XML says <encryption>.
func checkEmbedded(disk *blockgraph.Disk, info *image.Info) error {
	path := disk.Image.Source.Path
	encrypted := disk.Image.Encryption != nil
	if disk.Image.Format == blockgraph.FormatQcow2 {
		return checkEmbeddedQcow2(disk, info.Qcow2, encrypted)
	}
	h, err := readHeader(disk.Image)
	switch {
	case encrypted && err != nil:
		return headerError(disk, path, err)
	case encrypted:
		if err := checkVersion(disk, path, h); err != nil {
			return err
		}
		if h.PayloadOffset() == 0 {
			return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is a detached LUKS header without a payload: name the payload as the <source> and this file in <header>", path)}
		}
	case errors.Is(err, luks.ErrNotLUKS):
		return nil
	case err != nil && !errors.Is(err, luks.ErrDamaged) && !errors.Is(err, luks.ErrUnsupported):
		return &PreflightError{Target: disk.Target, Reason: "the image " + path + " cannot be read", Err: err}
	default: // a LUKS header, whatever its state
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the image %s is encrypted with LUKS, and the XML has no <encryption>: the guest would see ciphertext and could destroy the header, so add <encryption format='luks'>", path)}
	}
	return nil
}

func checkEmbeddedQcow2(disk *blockgraph.Disk, header *image.Qcow2Header, encrypted bool) error {
	path := disk.Image.Source.Path
	switch crypt := header.Crypt; {
	case encrypted && crypt == image.CryptNone:
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the qcow2 image %s is not encrypted, and the XML has <encryption>: remove it, or add its <header>", path)}
	case encrypted && crypt != image.CryptLUKS:
		return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("the qcow2 image %s is encrypted with %q: only luks is supported", path, crypt)}
	case !encrypted && crypt != image.CryptNone:
		return &PreflightError{Target: disk.Target, Reason: fmt.Sprintf("the qcow2 image %s is encrypted (%s), and the XML has no <encryption>: add <encryption format='luks'>", path, crypt)}
	case encrypted && header.LUKS != nil:
		return checkVersion(disk, path, header.LUKS)
	}
	return nil
}

// checkVersion refuses the LUKS versions that QEMU does not open.
func checkVersion(disk *blockgraph.Disk, path string, h *luks.Header) error {
	if h.Version == 1 {
		return nil
	}
	return &blockgraph.UnsupportedError{Element: "disk/source/encryption", Reason: fmt.Sprintf("the header of %s for disk %s is LUKS version %d: QEMU opens LUKS1 only (convert it with cryptsetup convert --type luks1 where its key slots allow)", path, disk.Target, h.Version)}
}

func headerError(disk *blockgraph.Disk, path string, err error) error {
	reason := fmt.Sprintf("the LUKS header in %s cannot be read", path)
	if errors.Is(err, luks.ErrNotLUKS) {
		reason = fmt.Sprintf("%s has no LUKS header: check the path, or format the volume", path)
	}
	return &PreflightError{Target: disk.Target, Reason: reason, Err: err}
}
