package outcome

import "errors"

// The causes of a [PreflightError]. Each of them is one reason for which a disk is
// refused, and one thing that a caller can do about it.
var (
	// ErrTargetTaken: another disk is attached under the target.
	ErrTargetTaken = errors.New("another disk has the target")
	// ErrNameTaken: a node, object or device of the VM has a name that the plan needs.
	ErrNameTaken = errors.New("a name is taken in the VM")
	// ErrImageInUse: this VM or another process has the image open.
	ErrImageInUse = errors.New("the image is in use")
	// ErrHeaderInUse: the detached header belongs to another attached disk. A caller may
	// allow that.
	ErrHeaderInUse = errors.New("the header is in use")
	// ErrImageUnusable: the image is not there, cannot be read, or is not of the kind
	// that the disk says.
	ErrImageUnusable = errors.New("the image cannot be used")
	// ErrReadOnlyImage: the image can only be read, and the disk is to be written.
	ErrReadOnlyImage = errors.New("the image can only be read")
	// ErrHeaderUnusable: there is no LUKS header where the disk has one, or it is
	// damaged, or the payload ends before its encrypted data.
	ErrHeaderUnusable = errors.New("the LUKS header cannot be used")
	// ErrUnexpectedEncryption: the image is encrypted where the disk says that it is not,
	// or the other way round.
	ErrUnexpectedEncryption = errors.New("the image's encryption is not what the disk says")
	// ErrPermission: QEMU may not open the images, and luksplug may not change that.
	ErrPermission = errors.New("QEMU may not open the images")
	// ErrRelabelWouldHelp: QEMU may not open the images, and giving them to its user for
	// as long as the disk is attached would change that. It is an [ErrPermission] too.
	ErrRelabelWouldHelp = errors.New("QEMU may open the images once they are given to its user")
	// ErrRelabelNeedsRoot: the images were to be given to QEMU's user, which only root
	// can do. It is an [ErrPermission] too.
	ErrRelabelNeedsRoot = errors.New("only root can give the images to QEMU's user")
	// ErrServer: the server of an image refuses it, does not answer, or does not have it.
	ErrServer = errors.New("the image's server refuses it")
	// ErrNotBesideVM: the disk needs a process or file on the VM's own host, and the VM
	// runs elsewhere or its process is unknown.
	ErrNotBesideVM = errors.New("the VM's host cannot be used")
	// ErrHelperProcess: a storage daemon or a reservation helper does not start, or a
	// storage daemon cannot open the disk.
	ErrHelperProcess = errors.New("a helper process of the disk fails")
	// ErrHostDevice: a device or server that QEMU drives by itself is not ready.
	ErrHostDevice = errors.New("the host's device is not ready")
	// ErrOverlay: the overlay of a transient disk cannot be made.
	ErrOverlay = errors.New("the overlay cannot be made")
	// ErrReservations: managed persistent reservations are impossible here.
	ErrReservations = errors.New("managed reservations are impossible here")
	// ErrNotRecorded: the caller's own preparation of the attach failed.
	ErrNotRecorded = errors.New("the attach cannot be recorded")
)

// Causes are all causes of a [PreflightError], for programs that map each of them
// to a hint and for the test that none was forgotten.
func Causes() []error {
	return []error{
		ErrTargetTaken, ErrNameTaken, ErrImageInUse, ErrHeaderInUse, ErrImageUnusable, ErrReadOnlyImage,
		ErrHeaderUnusable, ErrUnexpectedEncryption, ErrPermission, ErrRelabelWouldHelp, ErrRelabelNeedsRoot, ErrServer, ErrNotBesideVM,
		ErrHelperProcess, ErrHostDevice, ErrOverlay, ErrReservations, ErrNotRecorded,
	}
}
