// Package libvirterr interprets the errors of go-libvirt's monitor commands for the
// packages qmplibvirt and goqemu.
package libvirterr

import (
	"errors"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/qmp"
)

// Mark returns err, which also wraps [qmp.ErrNotSent] if it means that QEMU never got the
// command. Its text is unchanged.
func Mark(err error) error {
	var fromLibvirt libvirt.Error
	if errors.Is(err, libvirt.ErrUnsupported) || errors.As(err, &fromLibvirt) && refused(fromLibvirt) {
		return notSent{err}
	}
	return err
}

// notSent is an error of libvirt's that wraps qmp.ErrNotSent.
type notSent struct{ error }

func (e notSent) Unwrap() []error { return []error{e.error, qmp.ErrNotSent} }

// refused reports whether libvirt's error means that QEMU never got the command. Other
// errors, such as an internal error, leave that unknown.
func refused(err libvirt.Error) bool {
	switch libvirt.ErrorNumber(err.Code) {
	case libvirt.ErrNoDomain, libvirt.ErrInvalidDomain, libvirt.ErrNoSupport, libvirt.ErrNoConnect,
		libvirt.ErrOperationInvalid,  // the domain is not running
		libvirt.ErrOperationDenied,   // a read-only connection
		libvirt.ErrAccessDenied,      // policy
		libvirt.ErrAuthFailed,        //
		libvirt.ErrAuthUnavailable,   //
		libvirt.ErrAuthCancelled,     //
		libvirt.ErrOperationTimeout,  // another job holds the domain's lock
		libvirt.ErrConfigUnsupported, //
		libvirt.ErrOperationUnsupported:
		return true
	}
	return false
}
