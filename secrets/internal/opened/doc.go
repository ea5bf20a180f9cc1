// Package opened keeps keys of key stores in the kernel, for all processes of a user on
// this host (keyrings(7)).
//
// A key is in the caller's user keyring, so it is not swapped, is lost at a reboot, and
// the kernel destroys it when its time ends. Only processes with the user id of the owner
// may read it: possession gives no right, because a process that root starts as another
// user can inherit root's session keyring, and with it possess root's keys. User
// namespaces have keyrings of their own.
//
// A key is bound to what it was made from, such as the encrypted file that contains it:
// after that has changed, the key is not returned.
//
// Errors wrap those that package secrets documents for a [secrets.Unlocker].
package opened
