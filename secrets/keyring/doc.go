// Package keyring is the key store of the desktop: the Secret Service
// (https://specifications.freedesktop.org/secret-service-spec/latest/) that
// gnome-keyring, KWallet and KeePassXC offer on the user's D-Bus.
//
// A secret is an item, found by its attributes:
//
//	application   luksplug
//	uuid          0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	usage-type    volume, ceph, iscsi, tls or vtpm
//	usage         /var/lib/images/vm1.img
//	private       yes, or not there
//	ephemeral     yes, or not there
//	description   free text, or not there
//
// Other tools can make them, too:
//
//	secret-tool store --label=vm1 application luksplug uuid 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//
// All collections are searched. New items go to one of them, the default; the one
// that is called session is in memory, and the only one that takes ephemeral
// secrets. An item without bytes is a secret without value. Attributes are not
// secret: some services keep them in clear.
//
// Values cross the bus encrypted (dh-ietf1024-sha256-aes128-cbc-pkcs7), which
// keeps them out of the bus's own logs and monitors. It does not protect
// against an attacker who can change messages.
//
// A locked collection is unlocked by a prompt of the service, at the desktop. If no
// prompt is possible, or the user dismisses it, the error is [secrets.ErrLocked] and
// says what can be done.
package keyring
