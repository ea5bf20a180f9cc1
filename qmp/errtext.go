package qmp

import (
	"errors"
	"regexp"
)

// The causes of QEMU's refusals. QEMU gives nearly all of them the class GenericError, so that only the
// text distinguishes them. Those texts are matched only here and in errserver.go; the tests provoke each
// from a real QEMU.
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
	// ErrJobNotFound: no job of that id.
	ErrJobNotFound = errors.New("job not found")
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
	// ErrLoginRefused: a server rejects the user, password or key, or requires one that was not given.
	ErrLoginRefused = errors.New("the server refuses the login")
	// ErrForbidden: a server denies this user the image.
	ErrForbidden = errors.New("the server denies access")
	// ErrServerUnreachable: nothing answers at a server's address.
	ErrServerUnreachable = errors.New("the server cannot be reached")
	// ErrServerUntrusted: a server has another certificate or host key than expected, or one that no
	// trusted authority has signed.
	ErrServerUntrusted = errors.New("the server's certificate or host key is not trusted")
	// ErrTLSRequired: a server requires TLS.
	ErrTLSRequired = errors.New("the server requires TLS")
	// ErrTLSRefused: a server refuses TLS, or this client.
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

// errorTexts are the texts by which QEMU refuses a command, without those of servers.
var errorTexts = []struct {
	err  error
	text *regexp.Regexp
}{
	// "encryption load fail", "image encryption format" and "layered encryption" are from Ceph's library.
	{ErrWrongPassphrase, regexp.MustCompile(`Invalid password, cannot unlock any keyslot|encryption load fail: Operation not permitted`)},
	{ErrNotLUKS, regexp.MustCompile(`Volume is not in LUKS format|encryption load fail: Invalid argument`)},
	{ErrEncryptionUnsupported, regexp.MustCompile(`encryption load fail: Operation not supported|unknown image encryption format|` +
		`RBD library does not support layered encryption`)},
	{ErrNodeNotFound, regexp.MustCompile(`Failed to find node with node-name=|(?s:Cannot find device=.*node-name=)`)},
	{ErrJobNotFound, regexp.MustCompile(`^Job not found$`)},
	{ErrNodeInUse, regexp.MustCompile(`(?s)^(Block device|Node) .*is in use$`)},
	{ErrNodeReadOnly, regexp.MustCompile(`Block node is read-only`)},
	{ErrImageLocked, regexp.MustCompile(`(?s)Failed to get .* lock`)},
	{ErrObjectNotFound, regexp.MustCompile(`(?s)object '.*' not found|No secret with id '`)},
	{ErrFDSetNotFound, regexp.MustCompile(`(?s)File descriptor named 'fdset-id:.*' not found`)},
	{ErrChardevNotFound, regexp.MustCompile(`(?s)Chardev '.*' not found`)},
	{ErrDuplicate, regexp.MustCompile(`Duplicate nodes with node-name='|attempt to add duplicate property '|Duplicate device ID '`)},
	// The second is that of a PCI Express port while its indicator blinks.
	{ErrUnplugPending, regexp.MustCompile(`is already in the process of unplug|Hot-unplug failed: guest is busy`)},
	{ErrBusNotFound, regexp.MustCompile(`(?s)Bus '.*' not found`)},
	{ErrNoHotplug, regexp.MustCompile(`(?s)Bus '.*' does not support hotplugging`)},
}

// Is reports whether the sentinel target stands for QEMU's class and text. Texts are searched for, not
// compared, because QEMU puts the name of an image or property in front of some.
func (e *Error) Is(target error) bool {
	switch target {
	case ErrDeviceNotFound:
		return e.Class == deviceNotFound
	case ErrCommandNotFound:
		return e.Class == commandNotFound
	}
	for _, t := range errorTexts {
		if t.err == target {
			return t.text.MatchString(e.Description)
		}
	}
	err := serverText(e.Description)
	return err != nil && err == target
}
