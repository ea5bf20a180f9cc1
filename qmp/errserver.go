package qmp

import (
	"regexp"
	"strings"
)

// serverTexts are the texts of QEMU's drivers for servers, with their meanings. Most come from the libraries
// that the drivers use; the tests of package integration provoke each from a real server. The first match
// counts.
var serverTexts = []struct {
	text string
	err  error
}{
	{"Authentication failure(513)", ErrLoginRefused}, // libiscsi; RFC 7143, section 11.13.5
	{"Authorization failure(514)", ErrForbidden},
	{"The requested URL returned error: 401", ErrLoginRefused}, // libcurl
	{"The requested URL returned error: 403", ErrForbidden},
	{"The requested URL returned error: 404", ErrImageNotFound},
	{"failed to authenticate using", ErrLoginRefused}, // QEMU's block/ssh.c

	{"MNT3ERR_ACCES", ErrForbidden}, // libnfs; RFC 1813, section 5.1.3: what is not exported, or not to us
	{"MNT3ERR_PERM", ErrForbidden},
	{"MNT3ERR_NOENT", ErrImageNotFound},
	{"NFS: ACCESS denied", ErrForbidden},
	{"NFS3ERR_ACCES", ErrForbidden},
	{"NFS3ERR_PERM", ErrForbidden},
	{"NFS3ERR_NOENT", ErrImageNotFound},
	{"Invalid URL specified", ErrImageNotFound}, // QEMU's block/nfs.c: no path

	{"LOGICAL_UNIT_NOT_SUPPORTED", ErrImageNotFound}, // libiscsi
	{"Target not found(515)", ErrImageNotFound},
	{"Requested export not available", ErrImageNotFound}, // QEMU's nbd/client.c
	{"SFTP server: No such file", ErrImageNotFound},      // libssh

	{"TLS handshake failed", ErrTLSRefused},                         // for any reason
	{"Certificate does not match the hostname", ErrServerUntrusted}, // QEMU's crypto/tlssession.c
	{"The certificate is not trusted", ErrServerUntrusted},
	{"Our own certificate", ErrTLSCredentials}, // before the next, which it may go on with
	{"The certificate hasn't got a known issuer", ErrServerUntrusted},
	{"server certificate verification failed", ErrServerUntrusted}, // libcurl with GnuTLS
	{"SSL certificate problem", ErrServerUntrusted},                // libcurl with OpenSSL
	{"no alternative certificate subject name matches", ErrServerUntrusted},
	{"certificate subject name", ErrServerUntrusted},
	{"no host key was found in known_hosts", ErrServerUntrusted}, // QEMU's block/ssh.c
	{"does not match the one in known_hosts", ErrServerUntrusted},

	{"TLS negotiation required before", ErrTLSRequired}, // QEMU's nbd/client.c
	{"for option 5 (starttls)", ErrTLSRefused},
	{"Cannot read from TLS channel", ErrTLSRefused},     // the end in TLS 1.3 if the server refuses our certificate
	{"Decryption has failed", ErrTLSKeyPassphrase},      // GnuTLS
	{"Cannot load certificate", ErrTLSCredentials},      // QEMU's crypto/tlscredsx509.c
	{"not found in PSK file", ErrTLSCredentials},        // QEMU's crypto/tlscredspsk.c
	{"Unable to access credentials", ErrTLSCredentials}, // QEMU's crypto/tlscreds.c
	{"Unable to import", ErrTLSCredentials},

	{"Connection refused", ErrServerUnreachable}, // strerror(3)
	{"No route to host", ErrServerUnreachable},
	{"Network is unreachable", ErrServerUnreachable},
	{"Connection timed out", ErrServerUnreachable},
	{"address resolution failed", ErrServerUnreachable},  // QEMU's util/qemu-sockets.c
	{"Couldn't connect to server", ErrServerUnreachable}, // libcurl
	{"Could not resolve host", ErrServerUnreachable},
	{"Can not reconnect right now", ErrServerUnreachable}, // libiscsi: the connection has failed before the login
	{"Timeout connecting to", ErrServerUnreachable},       // libssh
	{"Can not resolv into", ErrServerUnreachable},         // libnfs
	{"nfs_service failed", ErrServerUnreachable},          // libnfs: the connection has failed
}

// cephTexts are texts of QEMU's block/rbd.c, which end in the text of an errno of Ceph's: rados_connect,
// rados_ioctx_create and rbd_open.
var cephTexts = []struct {
	text *regexp.Regexp
	err  error
}{
	{regexp.MustCompile(`(?s)^error connecting: (.*: )?(Permission denied|Operation not permitted)$`), ErrLoginRefused},
	{regexp.MustCompile(`(?s)^error (opening pool|reading header from) .*: No such file or directory$`), ErrImageNotFound},
	{regexp.MustCompile(`(?s)^error (opening pool|reading header from) .*: (Permission denied|Operation not permitted)$`), ErrForbidden},
}

// serverText returns the sentinel for a refusal by a server, or for an unreachable one; nil for any other text.
func serverText(text string) error {
	for _, c := range cephTexts {
		if c.text.MatchString(text) {
			return c.err
		}
	}
	for _, s := range serverTexts {
		if strings.Contains(text, s.text) {
			return s.err
		}
	}
	return nil
}
