package main

import (
	"errors"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
	"github.com/luksplug/luksplug/secrets/passphrase"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// The exit codes. They are part of the command line's interface.
const (
	exitDone        = 0
	exitFailed      = 1
	exitUsage       = 2
	exitUnsupported = 3
	exitSecret      = 4
	exitRefused     = 5
	exitRolledBack  = 6
	exitLeftBehind  = 7
	exitPending     = 8
	exitInterrupted = 130 // as of a shell: interrupted, and what was begun goes on
)

// usageError is an error of the command line.
type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// exitCode returns the exit code of an error. The state of the VM takes precedence; then
// a wrong secret, whether or not something was rolled back; then refusals.
func exitCode(err error) int {
	switch {
	case err == nil:
		return exitDone
	case is[*hotplug.LeftBehindError](err), is[*volume.LeftError](err):
		return exitLeftBehind
	case is[*hotplug.PendingError](err):
		return exitPending
	case is[*leftRunningError](err):
		return exitInterrupted
	case errors.Is(err, qmp.ErrWrongPassphrase), errors.Is(err, qmp.ErrLoginRefused):
		return exitSecret
	case is[*hotplug.RolledBackError](err), is[*hotplug.CopyError](err), errors.Is(err, errDropped):
		return exitRolledBack
	case is[*usageError](err), is[*diskxml.XMLError](err), is[*blockgraph.InvalidError](err), is[*keystore.UnknownSchemeError](err),
		errors.Is(err, keystore.ErrInvalidURI), errors.Is(err, passphrase.ErrInvalidSource),
		errors.Is(err, secrets.ErrInvalidDocument), errors.Is(err, libvirtvm.ErrInvalidURI), errors.Is(err, volume.ErrRequest):
		return exitUsage
	case is[*blockgraph.UnsupportedError](err), is[*hotplug.VersionError](err),
		errors.Is(err, libvirtvm.ErrUnsupportedURI), errors.Is(err, pkcs11.ErrNotBuilt), errors.Is(err, secrets.ErrNoKeyring),
		errors.Is(err, volume.ErrUnsupported), errors.Is(err, reencrypt.ErrVersion):
		return exitUnsupported
	case is[*inUseError](err), errors.Is(err, secrets.ErrConflict), errors.Is(err, secrets.ErrPersistent), errors.Is(err, libvirtvm.ErrSecretInXML), errors.Is(err, errNotInMemory),
		isVolumeRefusal(err), is[*reencrypt.DrivenError](err), errors.Is(err, reencrypt.ErrRequest), errors.Is(err, reencrypt.ErrCopying), errors.Is(err, reencrypt.ErrNotSwitched):
		return exitRefused
	case is[*fsutil.WaitError](err): // the question for a passphrase was not answered
		return exitFailed
	case is[*hotplug.SecretError](err), is[*secrets.StoreError](err), errors.Is(err, volume.ErrWrongPassphrase), errors.Is(err, volume.ErrPassphrase), errors.Is(err, errNotOpened), errors.Is(err, hotplug.ErrUnusableSecret):
		return exitSecret
	case is[*hotplug.PreflightError](err), is[*blockgraph.PlacementError](err),
		is[*hotplug.NotHeldError](err), is[*hotplug.LockedError](err), errors.Is(err, hotplug.ErrUntrusted):
		return exitRefused
	}
	return exitFailed
}

// isVolumeRefusal reports whether an operation on a volume was refused before anything was changed.
func isVolumeRefusal(err error) bool {
	return slices.ContainsFunc([]error{
		volume.ErrExists, volume.ErrNoVolume, volume.ErrIncomplete,
		volume.ErrAttached, volume.ErrBusy, volume.ErrChanged,
		volume.ErrOtherVolume, volume.ErrPlace, volume.ErrDetached, volume.ErrOccupied,
		volume.ErrNoSpareSlot, volume.ErrLastPassphrase, volume.ErrSlotNotInUse, volume.ErrShared, volume.ErrUnfinished, volume.ErrNotStaged,
		volume.ErrSize, volume.ErrShrink, volume.ErrFixedSize, volume.ErrInUse,
		volume.ErrSignature, volume.ErrBacking, volume.ErrNoRoom,
	}, func(cause error) bool { return errors.Is(err, cause) })
}

// is reports whether err wraps an error of type T.
func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// oneLine joins the lines of an error's text.
func oneLine(s string) string {
	return strings.Join(strings.FieldsFunc(s, func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
