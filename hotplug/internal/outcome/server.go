package outcome

import (
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// ServerError returns the error for an image that a storage daemon could not open, with
// the reason and a remedy. The VM was not changed.
func ServerError(target string, s blockgraph.Source, err error) error {
	var secret *SecretError
	if errors.As(err, &secret) {
		return err
	}
	if auth := s.Auth(); auth != nil && errors.Is(err, qmp.ErrLoginRefused) {
		return &SecretError{Target: target, Ref: auth.Secret, Err: fmt.Errorf(
			"%s refuses the user %s with the secret with %s: correct the secret's value, or the <auth>: %w", s, auth.User, auth.Secret, err)}
	}
	if tls := s.TLS(); tls != nil && tls.Key != nil && errors.Is(err, qmp.ErrTLSKeyPassphrase) {
		return &SecretError{Target: target, Ref: *tls.Key, Err: fmt.Errorf(
			"the secret with %s does not decrypt the key of the TLS client for %s: correct the secret's value, or name another secret: %w", *tls.Key, s, err)}
	}
	protocol := ""
	if s.Network != nil {
		protocol = s.Network.Protocol()
	}
	reason := s.String() + " cannot be opened"
	if advice := serverAdvice(protocol, err); advice != "" {
		reason += ", because " + advice
	}
	return &PreflightError{Target: target, Cause: ErrServer, Reason: reason, Err: err}
}

// Because returns the explanation of a server's error, to be appended to a message, "" for none.
func Because(command blockgraph.Command, err error) string {
	if advice := serverAdvice(command.Arguments.Text("driver"), err); advice != "" {
		return ", because " + advice
	}
	return ""
}

// serverAdvice explains a server's error and its remedy, "" if it is unknown. protocol is
// the source's protocol, or QEMU's driver for it.
func serverAdvice(protocol string, err error) string {
	switch {
	case errors.Is(err, ErrNoAnswer):
		return "nothing has come from its server: check whether it hangs, or serves only one client at a time and has one"
	case errors.Is(err, qmp.ErrLoginRefused) && protocol == "ssh":
		return "the server rejects the user: give the SSH agent of QEMU's user a key that the server accepts (SSH_AUTH_SOCK of the VM's process)"
	case errors.Is(err, qmp.ErrLoginRefused):
		return "the server requires a login: add <auth>"
	case errors.Is(err, qmp.ErrForbidden) && protocol == "rbd":
		return "the user may not use it: give it Ceph's capabilities \"profile rbd\" for the monitor and for the pool (ceph auth caps)"
	case errors.Is(err, qmp.ErrForbidden) && protocol == "nfs":
		return "the server denies access: check what it exports and to whom, and whether <identity> should name another user and group"
	case errors.Is(err, qmp.ErrForbidden):
		return "the server denies access: check what it requires, such as <cookies> or an <initiator>"
	case protocol == "rbd" && errors.Is(err, qmp.ErrWrongPassphrase):
		return "the passphrase does not open the image"
	case errors.Is(err, qmp.ErrServerUnreachable):
		return "nothing answers at that address: start the server, or correct the <host>"
	case errors.Is(err, qmp.ErrServerUntrusted) && protocol == "ssh":
		return "~/.ssh/known_hosts of QEMU's user does not have the server's host key: if it is the right server, add its key there"
	case errors.Is(err, qmp.ErrServerUntrusted) && protocol == "nbd":
		return "the server's certificate was not issued for that name by a trusted authority: correct tlsHostname, or ca-cert.pem in the directory of the TLS client's certificates"
	case errors.Is(err, qmp.ErrServerUntrusted):
		return "the server's certificate was not issued for that name by an authority that this host trusts: add the authority to the host's, or <ssl verify='no'/>"
	case errors.Is(err, qmp.ErrTLSRequired):
		return "the server requires TLS: add tls='yes'"
	case errors.Is(err, qmp.ErrTLSRefused):
		return "the server refuses TLS with this client: remove tls='yes', or correct the certificate or keys.psk in the directory of the TLS client's certificates"
	case errors.Is(err, qmp.ErrTLSKeyPassphrase):
		return "the key of the TLS client is encrypted: name the secret of its passphrase"
	case errors.Is(err, qmp.ErrTLSCredentials):
		return "the files of a TLS client cannot be used: correct the directory of its certificates"
	case errors.Is(err, qmp.ErrImageNotFound):
		return "the server does not have it: correct the <source>'s name"
	case protocol == "scsi-block" && errors.As(err, new(*qmp.Error)):
		return "a LUN must be a device that takes SCSI commands (SG_IO): use device='disk' for other devices"
	}
	return ""
}

// ErrNoAnswer reports that a server does not answer, whether or not it accepts a connection.
var ErrNoAnswer = errors.New("its server has not answered")
