// Package credentials is the key store of systemd's credentials
// (https://systemd.io/CREDENTIALS/): secrets that the service manager hands to a
// service, or that systemd-creds has encrypted to a host.
//
// A credential is named like a file of package dir ([dir.FileName]): by uuid, or
// by usage type and usage:
//
//	0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	volume-%2Fvar%2Flib%2Fimages%2Fvm1.img
//
// # What the service manager handed over
//
// [New] reads $CREDENTIALS_DIRECTORY, in which systemd puts what a unit's
// LoadCredential=, LoadCredentialEncrypted= and ImportCredential= name. It is in
// memory, and readable for the service only. In a unit file, % is written %%:
//
//	LoadCredentialEncrypted=0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f:/etc/luksplug/vm1.cred
//
// # What systemd-creds has encrypted
//
// [NewEncrypted] has systemd-creds decrypt files of a directory, such as
// /etc/credstore.encrypted, for a luksplug that runs outside of such a unit, as
// root. To encrypt them to the host's TPM or to a key of the host's:
//
//	systemd-creds encrypt --name=UUID passphrase.txt /etc/credstore.encrypted/UUID
//
// The name is a part of what is encrypted: a file that was renamed, so that one
// disk would get another's key, is refused.
package credentials
