// Package credentials is the key store of systemd's credentials
// (https://systemd.io/CREDENTIALS/): secrets that the service manager passes to a
// service, or that systemd-creds has encrypted for a host.
//
// A credential is named like a file of package dir ([dir.FileName]): by uuid, or
// by usage type and usage:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	volume-%2Fvar%2Flib%2Fimages%2Fvm1.img
//
// # Credentials of a service
//
// [New] reads $CREDENTIALS_DIRECTORY, where systemd writes the credentials of a unit's
// LoadCredential=, LoadCredentialEncrypted= and ImportCredential=. It is in memory,
// and only the service can read it. In a unit file, write % as %%:
//
//	LoadCredentialEncrypted=0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f:/etc/luksplug/vm1.cred
//
// # Encrypted credentials
//
// [NewEncrypted] runs systemd-creds to decrypt files of a directory, such as
// /etc/credstore.encrypted. It is for a luksplug that runs as root outside of such a
// unit. To encrypt a credential with the host's TPM or key:
//
//	systemd-creds encrypt --name=UUID passphrase.txt /etc/credstore.encrypted/UUID
//
// The encryption includes the name: systemd-creds refuses a renamed file, which would
// give one disk the key of another.
package credentials
