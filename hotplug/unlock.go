package hotplug

import (
	"context"
	"fmt"
	"io"
	"os/exec"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets/luks"
)

// UnlockMode is how LUKS volumes are to be unlocked.
type UnlockMode string

const (
	// UnlockAuto unlocks outside of QEMU, in this process, wherever that works,
	// and otherwise leaves it to QEMU, with a warning. "" means the same.
	UnlockAuto UnlockMode = "auto"
	// UnlockQEMU gives QEMU the passphrase. The guest stands still while QEMU
	// derives the key, for seconds as a rule.
	UnlockQEMU UnlockMode = "qemu"
	// UnlockExternal has a storage daemon unlock the volume and export the disk
	// to QEMU: the only way without a stall for a LUKS volume inside of a qcow2
	// image.
	UnlockExternal UnlockMode = "external"
)

// Unlocking is the way that was chosen for a disk.
type Unlocking struct {
	blockgraph.Unlock
	// Because says why QEMU has to do it where that was not asked for, ""
	// otherwise.
	Because string
}

// ChooseUnlock decides how the disk's volume is opened in this VM as it is now.
// Nothing is changed. What is wrong with the disk's files is not found out here,
// but by Attach.
func (vm *VM) ChooseUnlock(ctx context.Context, disk *blockgraph.Disk, state *State, mode UnlockMode) (Unlocking, error) {
	out := Unlocking{Unlock: blockgraph.Unlock{Way: blockgraph.ByQEMU}}
	if !disk.Encrypted() || mode == UnlockQEMU {
		return out, nil
	}
	var err error
	if mode == UnlockExternal {
		out.Way = blockgraph.ByDaemon
		if _, err := vm.process(ctx); err != nil {
			return out, &PreflightError{Target: disk.Target, Reason: "a storage daemon must run beside the VM", Err: err}
		}
		out.Folder, err = vm.handOverPath(ctx, disk.Target)
		return out, err
	}
	if out.Because, err = vm.whyNotOutside(ctx, disk); err != nil || out.Because != "" {
		return out, err
	}
	out.Way = blockgraph.ByHeader
	if vm.client.PassesFiles() {
		out.FDSet = freeFDSet(state)
		return out, nil
	}
	out.Folder, err = vm.handOverPath(ctx, disk.Target)
	return out, err
}

// whyNotOutside says why a volume cannot be unlocked here, "" when it can. A
// header that cannot be read is none of these reasons: the disk is refused later.
func (vm *VM) whyNotOutside(ctx context.Context, disk *blockgraph.Disk) (string, error) {
	var raw []*blockgraph.Image
	for _, layer := range disk.Layers() {
		if layer.RawLUKS() {
			raw = append(raw, layer.LUKSHeader())
		}
	}
	switch {
	case len(raw) == 0 && disk.Image.Encryption != nil && disk.Image.Encryption.Engine == blockgraph.EngineLibRBD:
		return "Ceph's library unlocks the image (--unlock external avoids that)", nil
	case len(raw) == 0:
		return "the LUKS header is inside of a qcow2 image (--unlock external avoids that)", nil
	case !vm.filesAreLocal():
		return "the VM runs on another machine", nil
	}
	for _, header := range raw {
		if !readHere(*header) {
			if _, err := exec.LookPath(daemon.Program); err != nil {
				return "only a qemu-storage-daemon could read the LUKS header, and there is none on this host", nil
			}
			continue // found out when it is read
		}
		h, err := readHeader(*header)
		if err != nil {
			return "", nil
		}
		if err := h.Usable(); err != nil {
			if h.QEMUOpens() == nil {
				return err.Error(), nil
			}
			return "", nil
		}
	}
	schema, err := vm.client.Schema(ctx)
	if err != nil {
		return "", fmt.Errorf("ask QEMU for its schema: %w", err)
	}
	if !schema.Supports("blockdev-add", headerMember) {
		return "a QEMU before 9.0 takes no other header than the volume's own", nil
	}
	if !vm.client.PassesFiles() {
		if err := vm.canWriteHeader(ctx); err != nil {
			return err.Error(), nil
		}
	}
	return "", nil
}

// canWriteHeader tells whether an ephemeral header can be handed over as a file.
func (vm *VM) canWriteHeader(ctx context.Context) error {
	if _, err := vm.process(ctx); err != nil {
		return err
	}
	return vm.checkRunBase()
}

// headerMember is the option of QEMU's LUKS driver for a detached header, since
// QEMU 9.0.
const headerMember = "luks.header"

// freeFDSet returns the id of a descriptor set that is not there. A set stays
// listed, empty, for as long as a node is open that was opened from it.
func freeFDSet(state *State) int64 {
	id := blockgraph.FirstFDSet
	for slices.ContainsFunc(state.FDSets, func(f FDSet) bool { return f.ID == id }) {
		id++
	}
	return id
}

// warnOfStall tells that the guest is about to stand still, and for how long.
func (vm *VM) warnOfStall(disk *blockgraph.Disk, u Unlocking) {
	if !disk.Encrypted() || u.Way != blockgraph.ByQEMU {
		return
	}
	log := vm.log.WithField("disk", disk.Target)
	because := ""
	if u.Because != "" {
		because = ", because " + u.Because
	}
	text := fmt.Sprintf("QEMU itself unlocks disk %s%s: the guest stands still meanwhile", disk.Target, because)
	if h := vm.headerOf(disk); h != nil {
		if first, all, err := h.QEMUUnlockTime(); err == nil {
			text += fmt.Sprintf(", for about %.1f s (%.1f s if the passphrase is wrong)", first.Seconds(), all.Seconds())
		}
	}
	if u.Because == "" {
		log.Info(text) // as was asked for
		return
	}
	log.Warn(text)
}

// headerOf returns the disk's LUKS header, nil where it cannot be read here.
func (vm *VM) headerOf(disk *blockgraph.Disk) *luks.Header {
	if !vm.filesAreLocal() || disk.Image.Encryption == nil || !readHere(*disk.Image.LUKSHeader()) {
		return nil
	}
	original := disk.Header()
	if original == nil && disk.Image.Format == blockgraph.FormatQcow2 {
		info, err := image.Probe(disk.Image.Source.Path)
		if err != nil || info.Qcow2 == nil {
			return nil
		}
		return info.Qcow2.LUKS
	}
	if original == nil {
		original = &disk.Image
	}
	h, err := readHeader(*original)
	if err != nil {
		return nil
	}
	return h
}

// readHeader reads the LUKS header at the start of what an image holds.
func readHeader(img blockgraph.Image) (*luks.Header, error) {
	h, done, err := openHeader(img)
	if err != nil {
		return nil, err
	}
	done()
	return h, nil
}

// openHeader is readHeader for a header that is going to be unlocked: the image
// stays open until done is called.
func openHeader(img blockgraph.Image) (h *luks.Header, done func(), err error) {
	guest, err := image.OpenGuest(img.Source.Path, image.Format(img.Format))
	if err != nil {
		return nil, nil, err
	}
	if h, err = luks.ReadHeader(guest); err != nil {
		closeRead(guest)
		return nil, nil, err
	}
	return h, func() { closeRead(guest) }, nil
}

// closeRead closes what was only read: nothing is lost with an error.
func closeRead(c io.Closer) { _ = c.Close() }
