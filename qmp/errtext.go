package qmp

import (
	"errors"
	"strings"
)

// What QEMU means by its refusals. QEMU gives nearly all of them the class
// GenericError, so that only the text tells them apart. Those texts are matched here
// and in errserver.go, and nowhere else; the tests provoke each from a real QEMU.
var (
	// ErrWrongPassphrase: no LUKS key slot opens with the given secret.
	ErrWrongPassphrase = errors.New("wrong passphrase")
	// ErrNotLUKS: the image has no LUKS header, or not one of the version that was requested.
	ErrNotLUKS = errors.New("not a LUKS volume")
	// ErrEncryptionUnsupported: this QEMU, or Ceph's library in it, cannot decrypt
	// the image in the requested way.
	ErrEncryptionUnsupported = errors.New("encryption is not supported")
	// ErrNodeNotFound: no block node of that node-name.
	ErrNodeNotFound = errors.New("block node not found")
	// ErrNodeInUse: the block node has a parent, a device or an export.
	ErrNodeInUse = errors.New("block node in use")
	// ErrNodeReadOnly: a writer was put on a read-only block node.
	ErrNodeReadOnly = errors.New("block node is read-only")
	// ErrImageLocked: another process holds a lock on the image file.
	ErrImageLocked = errors.New("image is locked by another process")
	// ErrObjectNotFound: no user-creatable object of that id.
	ErrObjectNotFound = errors.New("object not found")
	// ErrFDSetNotFound: no set of file descriptors of that id.
	ErrFDSetNotFound = errors.New("file descriptor set not found")
	// ErrChardevNotFound: no character device of that id.
	ErrChardevNotFound = errors.New("character device not found")
	// ErrDuplicate: the id of a node, object or device is taken.
	ErrDuplicate = errors.New("name is taken")
	// ErrDeviceNotFound: no device of that id (class DeviceNotFound). It does not
	// mean that the device's block node is free already.
	ErrDeviceNotFound = errors.New("device not found")
	// ErrUnplugPending: the guest has been requested to release the device, and has not done so yet.
	ErrUnplugPending = errors.New("device is being unplugged")
	// ErrBusNotFound: no bus of that name.
	ErrBusNotFound = errors.New("bus not found")
	// ErrNoHotplug: the bus takes no device while the VM runs.
	ErrNoHotplug = errors.New("bus does not support hot plug")
	// ErrLoginRefused: a server does not take the user, password or key, or wants one where none was given.
	ErrLoginRefused = errors.New("the server refuses the login")
	// ErrForbidden: a server does not give the image to this user.
	ErrForbidden = errors.New("the server does not allow it")
	// ErrServerUnreachable: nothing answers at a server's address.
	ErrServerUnreachable = errors.New("the server cannot be reached")
	// ErrServerUntrusted: a server has another certificate or host key than it
	// should have, or one that no trusted authority has signed.
	ErrServerUntrusted = errors.New("the server is not the one that it should be")
	// ErrTLSRequired: a server only talks over TLS.
	ErrTLSRequired = errors.New("the server wants TLS")
	// ErrTLSRefused: a server does not talk over TLS, or not with this client.
	ErrTLSRefused = errors.New("the server refuses TLS")
	// ErrTLSCredentials: the certificates or keys for TLS cannot be used.
	ErrTLSCredentials = errors.New("unusable TLS credentials")
	// ErrTLSKeyPassphrase: the key for TLS is encrypted, and not with the given passphrase.
	ErrTLSKeyPassphrase = errors.New("wrong passphrase of a TLS key")
	// ErrImageNotFound: a server has no such export, unit or file.
	ErrImageNotFound = errors.New("the server has no such image")
	// ErrCommandNotFound: this QEMU has no such command (class CommandNotFound).
	ErrCommandNotFound = errors.New("command not found")
)

// Error classes (qapi/error.json, QapiErrorClass).
const (
	genericError    = "GenericError"
	commandNotFound = "CommandNotFound"
	deviceNotFound  = "DeviceNotFound"
)

// Is reports whether QEMU's class and text are what the sentinel target stands for. Texts are searched for,
// not compared, because QEMU puts the name of an image or property in front of some.
func (e *Error) Is(target error) bool {
	text := e.Description
	has := func(part string) bool { return strings.Contains(text, part) }
	// between looks for text that begins and ends so, whatever the name between.
	between := func(begin, end string) bool {
		_, rest, found := strings.Cut(text, begin)
		return found && strings.Contains(rest, end)
	}
	switch target {
	case ErrWrongPassphrase:
		return has("Invalid password, cannot unlock any keyslot") || has("encryption load fail: Operation not permitted") // the second is of Ceph's library
	case ErrNotLUKS:
		return has("Volume is not in LUKS format") || has("encryption load fail: Invalid argument")
	case ErrEncryptionUnsupported:
		return has("encryption load fail: Operation not supported") || has("unknown image encryption format") ||
			has("RBD library does not support layered encryption")
	case ErrNodeNotFound:
		return has("Failed to find node with node-name=") || between("Cannot find device=", "node-name=")
	case ErrNodeInUse:
		return (strings.HasPrefix(text, "Block device ") || strings.HasPrefix(text, "Node ")) &&
			strings.HasSuffix(text, " is in use")
	case ErrNodeReadOnly:
		return has("Block node is read-only")
	case ErrImageLocked:
		return between("Failed to get ", " lock")
	case ErrObjectNotFound:
		return between("object '", "' not found") || has("No secret with id '")
	case ErrFDSetNotFound:
		return between("File descriptor named 'fdset-id:", "' not found")
	case ErrChardevNotFound:
		return between("Chardev '", "' not found")
	case ErrDuplicate:
		return has("Duplicate nodes with node-name='") || has("attempt to add duplicate property '") ||
			has("Duplicate device ID '")
	case ErrUnplugPending:
		// The second is a PCI Express port's, while its lamp blinks.
		return has("is already in the process of unplug") || has("Hot-unplug failed: guest is busy")
	case ErrBusNotFound:
		return between("Bus '", "' not found")
	case ErrNoHotplug:
		return between("Bus '", "' does not support hotplugging")
	case ErrLoginRefused, ErrForbidden, ErrServerUnreachable, ErrServerUntrusted, ErrTLSRequired, ErrTLSRefused, ErrTLSCredentials, ErrTLSKeyPassphrase, ErrImageNotFound:
		return serverText(text) == target
	case ErrDeviceNotFound:
		return e.Class == deviceNotFound
	case ErrCommandNotFound:
		return e.Class == commandNotFound
	}
	return false
}
