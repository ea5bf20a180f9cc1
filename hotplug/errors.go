package hotplug

import (
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
)

// The errors of this package say by their type what state the VM and the host are
// in.
type (
	// PreflightError: a disk was refused before anything was changed. Its fields are
	// Target, the disk's target, "" where it is not about one disk; Cause, one of the
	// causes below, which errors.Is finds; Reason, what is wrong and what to do about
	// it; and Err, the error below, which may be nil.
	PreflightError = outcome.PreflightError
	// VersionError: the VM's QEMU, of version Version, lacks Feature, which the disk
	// needs. Nothing was changed.
	VersionError = outcome.VersionError
	// SecretError: the secret Ref of the disk cannot be had, or does not open the
	// volume. Nothing was changed.
	SecretError = outcome.SecretError
	// LockedError: another run, process Holder, has been working on the VM for longer
	// than this one was willing to wait. Nothing was changed.
	LockedError = outcome.LockedError
	// NotHeldError: luksplug has attached no disk under that target. Held are the
	// targets that are there.
	NotHeldError = outcome.NotHeldError
	// NoAnswerError: QEMU has not answered a query in time. The query changed nothing.
	NoAnswerError = outcome.NoAnswerError
	// RolledBackError: an attach failed, and all that it had done was taken back, in
	// the VM, which was verified by query, and on the host. Err is the first error.
	RolledBackError = outcome.RolledBackError
	// LeftBehindError: an operation failed, and what Left names is still in the VM or on
	// the host; or may be, where Unverified says that QEMU could not be queried.
	LeftBehindError = outcome.LeftBehindError
	// PendingError: the guest was asked to release Device and has not done so yet, or
	// has Rejected it. The disk still works in the guest. Detach again goes on.
	PendingError = outcome.PendingError
)

// The causes of a [PreflightError]. errors.Is(err, hotplug.ErrHeaderInUse) matches
// the refusal of a header that another disk has.
var (
	ErrTargetTaken          = outcome.ErrTargetTaken          // another disk has the target
	ErrNameTaken            = outcome.ErrNameTaken            // a node, object or device has a name of the plan's
	ErrImageInUse           = outcome.ErrImageInUse           // this VM or another process has the image open
	ErrHeaderInUse          = outcome.ErrHeaderInUse          // another disk has the detached header; see AllowSharedHeader
	ErrImageUnusable        = outcome.ErrImageUnusable        // not there, unreadable, or of another kind
	ErrReadOnlyImage        = outcome.ErrReadOnlyImage        // can only be read, under a disk that is to be written
	ErrHeaderUnusable       = outcome.ErrHeaderUnusable       // no LUKS header, a damaged one, or a payload that was cut off
	ErrUnexpectedEncryption = outcome.ErrUnexpectedEncryption // encrypted where the XML says that it is not, or the reverse
	ErrPermission           = outcome.ErrPermission           // QEMU's user may not open the images
	ErrRelabelWouldHelp     = outcome.ErrRelabelWouldHelp     // so, and Relabel would change that
	ErrRelabelNeedsRoot     = outcome.ErrRelabelNeedsRoot     // so, and Relabel takes root
	ErrServer               = outcome.ErrServer               // a server refuses the image, or does not answer
	ErrNotBesideVM          = outcome.ErrNotBesideVM          // needs a process or file on the VM's own host
	ErrHelperProcess        = outcome.ErrHelperProcess        // a storage daemon or reservation helper fails
	ErrHostDevice           = outcome.ErrHostDevice           // a device that QEMU drives by itself is not ready
	ErrOverlay              = outcome.ErrOverlay              // the overlay of a transient disk cannot be made
	ErrReservations         = outcome.ErrReservations         // managed reservations are impossible here
	ErrNotRecorded          = outcome.ErrNotRecorded          // AttachOptions.Before failed
)

// Causes returns all causes of a [PreflightError].
func Causes() []error { return outcome.Causes() }

var (
	// ErrUnusableSecret: the secret was found, and QEMU cannot use its value.
	ErrUnusableSecret = outcome.ErrUnusableSecret
	// ErrExternalWouldHelp is the cause of a warning in the log, in its field
	// [CauseField]: QEMU unlocks the volume, and the guest stalls meanwhile, and
	// [UnlockExternal] would spare the guest that.
	ErrExternalWouldHelp = unlock.ErrExternalWouldHelp
)

// CauseField is the field of a log entry that holds its cause, an error.
const CauseField = unlock.CauseField
