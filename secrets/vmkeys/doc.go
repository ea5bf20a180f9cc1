// Package vmkeys is the key store of a host that holds keys only for its own VMs: a
// management server writes the keys of a VM to the host before the VM starts or arrives by
// migration, the host keeps them with the VM, and they are destroyed when it is gone.
//
// Each VM has a directory named after its UUID, below one directory in memory, by
// default [Dir]. The keys in it are as in a store of package dir: files named
// after a secret's uuid or usage, with mode 0600.
//
//	/run/luksplug/keys/3e3fce45-4f53-4fa7-bb32-11f34168b82b/0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
//
// [Places.Keep] moves them to a directory of the VM on the disk, by default below [DiskDir].
// The keys in it are as in a store of package age, and its identity is encrypted by
// systemd-creds, unless another one is named. Nothing is moved that cannot be encrypted, and
// read back.
//
// A look-up is for one VM and finds only its keys. [Places.Wipe] destroys the keys of one
// VM. When that is due is not known to this package: the caller knows which VMs there are,
// and writes a [Note] of each.
package vmkeys
