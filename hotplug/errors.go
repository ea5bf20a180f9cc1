package hotplug

import (
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// The type of an error of this package tells the state of the VM and the host.
type (
	// PreflightError: a disk was refused before anything was changed. Its fields are
	// Target, the disk's target, "" if it is not about one disk; Cause, one of the causes
	// below, which errors.Is finds; Reason, what is wrong and how to fix it; and Err, the
	// underlying error, which may be nil.
	PreflightError = outcome.PreflightError
	// VersionError: the VM's QEMU, of version Version, lacks Feature, which the disk
	// needs. Nothing was changed.
	VersionError = outcome.VersionError
	// SecretError: the secret Ref of the disk cannot be looked up, or does not open the
	// volume. Nothing was changed.
	SecretError = outcome.SecretError
	// LockedError: another run, process Holder, has held the lock of the VM for longer
	// than LockWait. Nothing was changed.
	LockedError = outcome.LockedError
	// NotHeldError: luksplug has attached no disk under that target. Held are the targets
	// of the disks that it has attached.
	NotHeldError = outcome.NotHeldError
	// NoAnswerError: QEMU has not answered a query in time. The query changed nothing.
	NoAnswerError = outcome.NoAnswerError
	// RolledBackError: an attach or a resize failed, and all its changes were undone, in the VM, which
	// was verified by query, and on the host. Err is the first error.
	RolledBackError = outcome.RolledBackError
	// LeftBehindError: an operation failed, and what Left names is still in the VM or on the host.
	// If Unverified is true, QEMU could not be queried, and Left may exist or not.
	LeftBehindError = outcome.LeftBehindError
	// PendingError: the guest has not released Device yet, or has Rejected the request.
	// The disk still works in the guest. Calling Detach again continues.
	PendingError = outcome.PendingError
)

// The causes of a [PreflightError]. errors.Is(err, hotplug.ErrHeaderInUse) matches the
// refusal of a header that another disk uses.
var (
	ErrTargetTaken          = outcome.ErrTargetTaken          // another disk has the target
	ErrNameTaken            = outcome.ErrNameTaken            // the plan needs a name of an existing node, object or device
	ErrImageInUse           = outcome.ErrImageInUse           // this VM or another process has the image open
	ErrHeaderInUse          = outcome.ErrHeaderInUse          // another disk has the detached header; see AllowSharedHeader
	ErrImageUnusable        = outcome.ErrImageUnusable        // missing, unreadable, or of another kind
	ErrReadOnlyImage        = outcome.ErrReadOnlyImage        // read-only, under a writable disk
	ErrHeaderUnusable       = outcome.ErrHeaderUnusable       // no LUKS header, a damaged one, or a truncated payload
	ErrHeaderDamaged        = outcome.ErrHeaderDamaged        // the header in the image is missing or damaged; see blockgraph.Recovery
	ErrIncomplete           = outcome.ErrIncomplete           // one of the two volumes of a re-encryption; the other one has all data
	ErrTwoHeaders           = outcome.ErrTwoHeaders           // the payload of a detached header has one of its own; see blockgraph.Recovery
	ErrWrongBackup          = outcome.ErrWrongBackup          // the header that is to recover a volume is of another one
	ErrBackupUnproven       = outcome.ErrBackupUnproven       // the header may be of another volume: only to be read
	ErrNotDamaged           = outcome.ErrNotDamaged           // the volume opens without recovery
	ErrUnexpectedEncryption = outcome.ErrUnexpectedEncryption // encrypted although the XML does not say so, or the reverse
	ErrGuestHeader          = outcome.ErrGuestHeader          // a header of LUKS or another format in a raw image; see AllowGuestHeader
	ErrPayloadSignature     = outcome.ErrPayloadSignature     // a payload that looks like plain data; see AllowPayloadSignature
	ErrImageChain           = outcome.ErrImageChain           // an image names a file that the XML does not name; see TrustImageChain
	ErrSystemFile           = outcome.ErrSystemFile           // a system file, which is given to no QEMU
	ErrPermission           = outcome.ErrPermission           // QEMU's user may not open the images
	ErrRelabelWouldHelp     = outcome.ErrRelabelWouldHelp     // as ErrPermission, and Relabel would grant access
	ErrRelabelNeedsRoot     = outcome.ErrRelabelNeedsRoot     // as ErrPermission, and Relabel needs root
	ErrServer               = outcome.ErrServer               // a server refuses the image, or does not answer
	ErrRemoteVM             = outcome.ErrRemoteVM             // needs a process or file on the VM's own host
	ErrHelperProcess        = outcome.ErrHelperProcess        // a storage daemon or reservation helper fails
	ErrHostDevice           = outcome.ErrHostDevice           // a device that QEMU drives itself is not ready
	ErrOverlay              = outcome.ErrOverlay              // the overlay of a transient disk cannot be made
	ErrReservations         = outcome.ErrReservations         // managed reservations are impossible here
	ErrIdentity             = outcome.ErrIdentity             // QEMU reports another UUID than its process or manager
	ErrNeedsQEMU            = outcome.ErrNeedsQEMU            // only QEMU could unlock, and the caller has not chosen UnlockQEMU
	ErrStall                = outcome.ErrStall                // QEMU would stall for longer than MaxStall
	ErrDiskInUse            = outcome.ErrDiskInUse            // of a detach or resize: a job, export, node or device uses the disk's nodes
	ErrMounted              = outcome.ErrMounted              // of a detach: the guest has mounted the disk; see DetachOptions.Force
	ErrNotRecorded          = outcome.ErrNotRecorded          // Before of AttachOptions or AdoptOptions failed
	ErrNoNode               = outcome.ErrNoNode               // an adoption: the VM has no such node
	ErrNotLUKS              = outcome.ErrNotLUKS              // an adoption: the node is no LUKS volume
	ErrNoDevice             = outcome.ErrNoDevice             // an adoption: no device with an id uses the volume
	ErrNodeShared           = outcome.ErrNodeShared           // an adoption: a node has other users
	ErrManaged              = outcome.ErrManaged              // an adoption or resize: libvirt manages the disk
	ErrSize                 = outcome.ErrSize                 // a resize: no disk has that size, or the image cannot have it
	ErrShrink               = outcome.ErrShrink               // a resize: the disk would become smaller
	ErrFixedSize            = outcome.ErrFixedSize            // a resize: a part of the disk has a fixed size
	ErrCopying              = outcome.ErrCopying              // a copy to another volume: one runs already
	ErrUncopyable           = outcome.ErrUncopyable           // a copy: a part of the disk would not follow
	ErrNoCopy               = outcome.ErrNoCopy               // a copy: the disk is not being copied
	ErrSwitched             = outcome.ErrSwitched             // the end of a copy: the disk uses the new volume
	ErrNotInStep            = outcome.ErrNotInStep            // the end of a copy: the new volume is not as the disk is
	ErrForeignLayout        = outcome.ErrForeignLayout        // an adoption: the disk has a part that luksplug does not take over
)

// Causes returns all causes of a [PreflightError].
func Causes() []error { return outcome.Causes() }

var (
	// ErrUntrusted: a directory or file that luksplug keeps on this host belongs to another
	// user, or others can change it. Its text names it and tells what to do. It was
	// not used.
	ErrUntrusted = fsutil.ErrUntrusted
	// ErrUnusableSecret: the secret was found, but QEMU cannot use its value.
	ErrUnusableSecret = outcome.ErrUnusableSecret
	// ErrExternalWouldHelp is the cause of a warning in the log, in its field
	// [CauseField]: QEMU unlocks the volume, which stalls the guest, and [UnlockExternal]
	// would avoid the stall.
	ErrExternalWouldHelp = unlock.ErrExternalWouldHelp
)

// CauseField is the field of a log entry that holds its cause, an error.
const CauseField = unlock.CauseField
