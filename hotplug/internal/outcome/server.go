package outcome

import (
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// ServerError says why an image cannot be opened that a storage daemon has to
// open, and what to do. Nothing has been done to the VM.
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

// Because is what a message says besides the command that a server has made fail.
func Because(command blockgraph.Command, err error) string {
	if advice := serverAdvice(command.Arguments.Text("driver"), err); advice != "" {
		return ", because " + advice
	}
	return ""
}

// serverAdvice says what a server's refusal means and what to do about it, "" where
// that is not known. protocol is that of the source, or QEMU's driver for it.
func serverAdvice(protocol string, err error) string {
	switch {
	case errors.Is(err, ErrNoAnswer):
		return "nothing has come from its server: see whether that hangs, or serves one client at a time and has one"
	case errors.Is(err, qmp.ErrLoginRefused) && protocol == "ssh":
		return "the server does not let in the user: give the SSH agent of QEMU's user a key that it takes (SSH_AUTH_SOCK of the VM's process)"
	case errors.Is(err, qmp.ErrLoginRefused):
		return "the server wants to know who it talks to: add <auth>"
	case errors.Is(err, qmp.ErrForbidden) && protocol == "rbd":
		return "the user may not use it: give it Ceph's capabilities \"profile rbd\" for the monitor and for the pool (ceph auth caps)"
	case errors.Is(err, qmp.ErrForbidden) && protocol == "nfs":
		return "the server does not give it to us: see what it exports and to whom, and whether <identity> should name another user and group"
	case errors.Is(err, qmp.ErrForbidden):
		return "the server does not give it to us: see what it wants, such as <cookies> or an <initiator>"
	case protocol == "rbd" && errors.Is(err, qmp.ErrWrongPassphrase):
		return "the passphrase does not open the image"
	case errors.Is(err, qmp.ErrServerUnreachable):
		return "nobody answers at that address: start the server, or correct the <host>"
	case errors.Is(err, qmp.ErrServerUntrusted) && protocol == "ssh":
		return "the server has not the host key that ~/.ssh/known_hosts of QEMU's user has for it: if it is the right server, put its key there"
	case errors.Is(err, qmp.ErrServerUntrusted) && protocol == "nbd":
		return "the server's certificate is not one for that name by an authority that we trust: correct tlsHostname, or ca-cert.pem in the directory of the TLS client's certificates"
	case errors.Is(err, qmp.ErrServerUntrusted):
		return "the server's certificate is not one for that name by an authority that this host trusts: add the authority to the host's, or <ssl verify='no'/>"
	case errors.Is(err, qmp.ErrTLSRequired):
		return "the server talks over TLS only: add tls='yes'"
	case errors.Is(err, qmp.ErrTLSRefused):
		return "the server does not talk over TLS with this client: remove tls='yes', or correct what the directory of the TLS client's certificates has for it, certificate or keys.psk"
	case errors.Is(err, qmp.ErrTLSKeyPassphrase):
		return "the key of the TLS client is encrypted: name the secret of its passphrase"
	case errors.Is(err, qmp.ErrTLSCredentials):
		return "the files of a TLS client cannot be used: correct the directory of its certificates"
	case errors.Is(err, qmp.ErrImageNotFound):
		return "the server does not have it: correct the <source>'s name"
	case protocol == "scsi-block" && errors.As(err, new(*qmp.Error)):
		return "a LUN must be a device that takes SCSI commands (SG_IO), and device='disk' is for others"
	}
	return ""
}

// ErrNoAnswer: a server takes a connection, or not even that, and says nothing.
var ErrNoAnswer = errors.New("its server has not answered")
