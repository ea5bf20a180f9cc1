package qmp

import (
	"errors"
	"testing"
)

// TestServerText has texts of QEMU 10.0.2, from real servers in package integration.
func TestServerText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"iSCSI: Failed to connect to LUN : Failed to log in to target. Status: Authentication failure(513)":                               ErrLoginRefused,
		"iSCSI: Failed to connect to LUN : SENSE KEY:ILLEGAL_REQUEST(5) ASCQ:LOGICAL_UNIT_NOT_SUPPORTED(0x2500)":                          ErrImageNotFound,
		"iSCSI: Failed to connect to LUN : iscsi_service failed with : iscsi_service_reconnect_if_loggedin. Can not reconnect right now.": ErrServerUnreachable,
		"Failed to connect to '127.0.0.1:25242': Connection refused":                                                                      ErrServerUnreachable,
		"Certificate does not match the hostname other.example":                                                                           ErrServerUntrusted,
		"Our own certificate /c/client-cert.pem failed validation against /c/ca-cert.pem: The certificate hasn't got a known issuer":      ErrTLSCredentials,
		"Cannot load certificate '/c/client-cert.pem' & key '/c/client-key.pem': Decryption has failed.":                                  ErrTLSKeyPassphrase,
		"TLS handshake failed: Decryption has failed.":                                                                                    ErrTLSRefused,
		"CURL: Error opening file: The requested URL returned error: 403":                                                                 ErrForbidden,
		"no host key was found in known_hosts":                                                                                            ErrServerUntrusted,
		"failed to authenticate using publickey authentication and the identities held by your ssh-agent":                                 ErrLoginRefused,
		"failed to open remote file '/nowhere': SFTP server: No such file (libssh error code: 1, sftp error code: 2)":                     ErrImageNotFound,
		"Failed to open file : open call failed with \"NFS: Lookup of /nowhere failed with NFS3ERR_NOENT(-2)\"":                           ErrImageNotFound,
		"Failed to mount nfs share: mount_cb: RPC error: Mount failed with error MNT3ERR_ACCES(13) Permission denied(13)":                 ErrForbidden,
		"Failed to open file : open call failed with \"NFS: ACCESS denied. Required access rw-. Allowed access r--\"":                     ErrForbidden,
		"Invalid URL specified": ErrImageNotFound,
		"Failed to mount nfs share: nfs_mount_async failed. Failed to start connection. Failed to start connection. Invalid address:nowhere.invalid. Can not resolv into IPv4/v6 structure.": ErrServerUnreachable,
		"Failed to mount nfs share: nfs_mount_async failed. Failed to start connection. Failed to start connection. connect() to server failed. Network is unreachable(101)":                 ErrServerUnreachable,
		"Failed to mount nfs share: nfs_service failed":                                                              ErrServerUnreachable,
		"TLS negotiation required before option 7 (go)":                                                              ErrTLSRequired,
		"Failed to read option reply: Cannot read from TLS channel: The TLS connection was non-properly terminated.": ErrTLSRefused,
		"error connecting: Permission denied":                                                                        ErrLoginRefused,
		"error connecting: Invalid argument":                                                                         nil,
		"error opening pool elsewhere: No such file or directory":                                                    ErrImageNotFound,
		"error reading header from missing: No such file or directory":                                               ErrImageNotFound,
		"error reading header from theirs: Operation not permitted":                                                  ErrForbidden,
		"Block node is read-only":                                                                                    nil,
	} {
		err := &Error{Command: "blockdev-add", Class: genericError, Description: text}
		if got := serverText(text); !errors.Is(got, want) {
			t.Errorf("%q is taken for %v, want %v", text, got, want)
		}
		if want != nil && (!errors.Is(err, want) || errors.Is(err, ErrWrongPassphrase)) {
			t.Errorf("%q: errors.Is does not match", text)
		}
	}
}

// TestCephEncryptionText has texts of QEMU 10.0.2 with librbd 16.
func TestCephEncryptionText(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]error{
		"encryption load fail: Operation not permitted":               ErrWrongPassphrase,
		"encryption load fail: Invalid argument":                      ErrNotLUKS,
		"unknown image encryption format: 2: Operation not supported": ErrEncryptionUnsupported,
		"RBD library does not support layered encryption":             ErrEncryptionUnsupported,
	} {
		if err := (&Error{Command: "blockdev-add", Class: genericError, Description: text}); !errors.Is(err, want) {
			t.Errorf("%q is not taken for %v", text, want)
		}
	}
}
