// Package keyring is the key store for the desktop's Secret Service
// (https://specifications.freedesktop.org/secret-service-spec/latest/) that
// gnome-keyring, KWallet and KeePassXC provide on the user's D-Bus.
//
// A secret is an item that is found by its attributes:
//
//	application   luksplug
//	uuid          0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//	usage-type    volume, ceph, iscsi, tls or vtpm
//	usage         /var/lib/images/vm1.img
//	private       yes, or absent
//	ephemeral     yes, or absent
//	description   free text, or absent
//
// Other tools can create items too:
//
//	secret-tool store --label=vm1 application luksplug uuid 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f
//
// All collections are searched. New items go to one collection, by default the
// collection "default". The collection "session" is in memory, and only it accepts
// ephemeral secrets. An empty item is a secret without value. Attributes are not
// secret: some services store them in clear.
//
// Values are encrypted on the bus (dh-ietf1024-sha256-aes128-cbc-pkcs7), which keeps
// them out of logs and monitors of the bus. It does not protect against an attacker
// who can change messages.
//
// A locked collection is unlocked by a prompt of the service, at the desktop. If no
// prompt is possible, or the user dismisses it, the error wraps [secrets.ErrLocked]
// and says how to unlock it.
package keyring
