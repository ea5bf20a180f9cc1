package outcome

import (
	"errors"

	"github.com/luksplug/luksplug/secrets/luks"
)

// The causes of a [PreflightError]. Each is one reason for a refusal, with one remedy for
// the caller.
var (
	// ErrTargetTaken: another disk is attached under the target.
	ErrTargetTaken = errors.New("another disk has the target")
	// ErrNameTaken: a node, object or device of the VM has a name that the plan needs.
	ErrNameTaken = errors.New("a name is taken in the VM")
	// ErrImageInUse: this VM or another process has the image open.
	ErrImageInUse = errors.New("the image is in use")
	// ErrHeaderInUse: the detached header belongs to another attached disk. A caller may
	// allow sharing.
	ErrHeaderInUse = errors.New("the header is in use")
	// ErrImageUnusable: the image is missing, cannot be read, or is not of the kind in the
	// XML.
	ErrImageUnusable = errors.New("the image cannot be used")
	// ErrReadOnlyImage: the image is read-only, and the disk is writable.
	ErrReadOnlyImage = errors.New("the image can only be read")
	// ErrHeaderUnusable: the LUKS header is missing or damaged, or the payload ends before
	// its encrypted data.
	ErrHeaderUnusable = errors.New("the LUKS header cannot be used")
	// ErrHeaderDamaged: the LUKS header in the image is missing or damaged. A caller who has a
	// backup of it may recover the volume. It is an [ErrHeaderUnusable] too.
	ErrHeaderDamaged = errors.New("the LUKS header in the image is damaged")
	// ErrIncomplete: the volume is one of the two of a re-encryption, and lacks a part of the data: the new one until it is
	// filled, and the old one from then on. The other volume has all of them.
	ErrIncomplete = luks.ErrIncomplete
	// ErrTwoHeaders: the payload of a detached header begins with a LUKS header of its own. A
	// caller may recover the volume, if the detached one is a backup of that. It is an
	// [ErrUnexpectedEncryption] too.
	ErrTwoHeaders = errors.New("the payload has a LUKS header of its own")
	// ErrWrongBackup: the header that is to recover a volume is not a backup of its header.
	ErrWrongBackup = errors.New("the header is not a backup of that of the volume")
	// ErrBackupUnproven: nothing shows that the header that is to recover a volume is of that
	// volume, so that the disk can only be read.
	ErrBackupUnproven = errors.New("the header may not be a backup of that of the volume")
	// ErrNotDamaged: the header in the image opens without being recovered.
	ErrNotDamaged = errors.New("the header in the image is not damaged")
	// ErrUnexpectedEncryption: the image is encrypted although the XML does not say so, or
	// the reverse.
	ErrUnexpectedEncryption = errors.New("the image's encryption is not what the disk says")
	// ErrGuestHeader: a raw image without encryption, or a data store, begins with a header
	// of LUKS or of an image format. A caller may allow it, if the guest has written it. It is an [ErrUnexpectedEncryption]
	// too.
	ErrGuestHeader = errors.New("a raw image begins with the header of another format")
	// ErrPayloadSignature: the payload of a detached header has the signature of a file
	// system or of other plain data. A caller may allow it.
	ErrPayloadSignature = errors.New("the payload looks like plain data")
	// ErrImageChain: an image names a file that the XML does not name. A caller may allow
	// it.
	ErrImageChain = errors.New("the image names a file that the XML does not name")
	// ErrSystemFile: the image is a system file of the host, which is given to no QEMU.
	ErrSystemFile = errors.New("the image is a system file")
	// ErrPermission: QEMU may not open the images, and luksplug was not asked to change that.
	ErrPermission = errors.New("QEMU may not open the images")
	// ErrRelabelWouldHelp: QEMU may not open the images, and giving them to its user while
	// the disk is attached would grant access. It is an [ErrPermission] too.
	ErrRelabelWouldHelp = errors.New("QEMU may open the images once they are given to its user")
	// ErrRelabelNeedsRoot: the images were to be given to QEMU's user, which needs root.
	// It is an [ErrPermission] too.
	ErrRelabelNeedsRoot = errors.New("only root can give the images to QEMU's user")
	// ErrServer: the server of an image refuses it, does not answer, or does not have it.
	ErrServer = errors.New("the image's server refuses it")
	// ErrRemoteVM: the disk needs a process or file on the VM's own host, and the VM
	// runs on another host or its process is unknown.
	ErrRemoteVM = errors.New("the VM's host cannot be used")
	// ErrHelperProcess: a storage daemon or a reservation helper does not start, or a
	// storage daemon cannot open the disk.
	ErrHelperProcess = errors.New("a helper process of the disk fails")
	// ErrHostDevice: a device or server that QEMU drives itself is not ready.
	ErrHostDevice = errors.New("the host's device is not ready")
	// ErrOverlay: the overlay of a transient disk cannot be made.
	ErrOverlay = errors.New("the overlay cannot be made")
	// ErrReservations: managed persistent reservations are impossible here.
	ErrReservations = errors.New("managed reservations are impossible here")
	// ErrIdentity: the VM's QEMU reports another UUID than its process or its manager, or
	// what this host has under the UUID belongs to another process.
	ErrIdentity = errors.New("the VM is not the one that it says it is")
	// ErrNeedsQEMU: only QEMU could unlock the volume, and QEMU or an image says so, not the
	// caller.
	ErrNeedsQEMU = errors.New("only QEMU could unlock the volume")
	// ErrStall: QEMU would stall the guest for too long while it unlocks the volume.
	ErrStall = errors.New("QEMU would stall for too long")
	// ErrDiskInUse: of a detach or a resize: a block job, an export, another node or another device uses
	// the disk's nodes, so QEMU could not delete them.
	ErrDiskInUse = errors.New("the disk is in use")
	// ErrMounted: of a detach: the guest's agent reports that the guest has mounted the
	// disk. A caller may detach it all the same.
	ErrMounted = errors.New("the guest has mounted the disk")
	// ErrNoNode: the VM has no block node with the name of a disk that is to be adopted.
	ErrNoNode = errors.New("the VM has no such node")
	// ErrNotLUKS: what is to be adopted is no LUKS volume.
	ErrNotLUKS = errors.New("the node is no LUKS volume")
	// ErrNoDevice: no device with an id uses the volume that is to be adopted.
	ErrNoDevice = errors.New("no device uses the volume")
	// ErrNodeShared: a node of the disk that is to be adopted has other users.
	ErrNodeShared = errors.New("the node has other users")
	// ErrManaged: libvirt manages the disk that is to be adopted or resized.
	ErrManaged = errors.New("libvirt manages the disk")
	// ErrForeignLayout: the disk that is to be adopted has a part that luksplug does not take
	// over.
	ErrForeignLayout = errors.New("the disk has a part that cannot be adopted")
	// ErrSize: of a resize: no disk has that size, or the image cannot have it.
	ErrSize = errors.New("the disk cannot have that size")
	// ErrShrink: of a resize: the disk would become smaller while a VM has it.
	ErrShrink = errors.New("an attached disk cannot be made smaller")
	// ErrFixedSize: of a resize: the disk has a part whose size cannot change while the VM has it.
	ErrFixedSize = errors.New("the disk has a part of fixed size")
	// ErrCopying: the disk is being copied to another volume already.
	ErrCopying = errors.New("the disk is being copied")
	// ErrUncopyable: of a copy: the disk has a part that a copy does not follow.
	ErrUncopyable = errors.New("the disk cannot be copied while the VM has it")
	// ErrNoCopy: the disk is not being copied.
	ErrNoCopy = errors.New("the disk is not being copied")
	// ErrNotInStep: of the end of a copy: the new volume is not as the disk is.
	ErrNotInStep = errors.New("the copy is not in step")
	// ErrSwitched: of the end of a copy: the disk uses the new volume already.
	ErrSwitched = errors.New("the disk uses the new volume")
	// ErrNotRecorded: the caller's Before failed.
	ErrNotRecorded = errors.New("the attach cannot be recorded")
)

// narrower are the causes that are a part of another one, which a caller may test for
// instead.
var narrower = []struct{ cause, of error }{
	{ErrRelabelWouldHelp, ErrPermission}, {ErrRelabelNeedsRoot, ErrPermission},
	{ErrGuestHeader, ErrUnexpectedEncryption}, {ErrTwoHeaders, ErrUnexpectedEncryption},
	{ErrHeaderDamaged, ErrHeaderUnusable},
}

// Causes returns all causes of a [PreflightError], for programs that map them to hints
// and for tests.
func Causes() []error {
	return []error{
		ErrTargetTaken, ErrNameTaken, ErrImageInUse, ErrHeaderInUse, ErrImageUnusable, ErrReadOnlyImage,
		ErrHeaderUnusable, ErrHeaderDamaged, ErrIncomplete, ErrTwoHeaders, ErrWrongBackup, ErrBackupUnproven, ErrNotDamaged, ErrUnexpectedEncryption, ErrGuestHeader, ErrPayloadSignature, ErrImageChain, ErrSystemFile, ErrPermission, ErrRelabelWouldHelp, ErrRelabelNeedsRoot, ErrServer, ErrRemoteVM,
		ErrHelperProcess, ErrHostDevice, ErrOverlay, ErrReservations, ErrIdentity, ErrNeedsQEMU, ErrStall, ErrDiskInUse, ErrMounted, ErrNoNode, ErrNotLUKS, ErrNoDevice, ErrNodeShared, ErrManaged, ErrForeignLayout, ErrSize, ErrShrink, ErrFixedSize, ErrCopying, ErrUncopyable, ErrNoCopy, ErrNotInStep, ErrSwitched, ErrNotRecorded,
	}
}
