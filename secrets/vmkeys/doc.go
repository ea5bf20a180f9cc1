// Package vmkeys is the key store of a host that holds keys only for the VMs that
// it runs: a management server writes the keys of a VM to the host before the VM
// starts or arrives by migration, and they are destroyed after it has left.
//
// Each VM has a directory named after its UUID, below one directory in memory, by
// default [Dir]. The keys in it are as in a store of package dir: files named
// after a secret's uuid or usage, with mode 0600.
//
//	/run/luksplug/keys/3e3fce45-4f53-4fa7-bb32-11f34168b82b/0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
//
// A look-up is for one VM and finds only its keys. [Wipe] destroys the keys of one
// VM.
package vmkeys
