// Package vmkeys is the key store of a host that holds keys only for the VMs that
// it runs: a management server puts the keys of one VM onto the host before the VM
// starts there, or moves there, and they are destroyed when it has left.
//
// Each VM has a directory, named after its UUID, below one directory in memory, by
// default [Folder]. In it the keys are as in a store of package dir: files named
// after a secret's uuid or usage, of mode 0600.
//
//	/run/luksplug/keys/3e3fce45-4f53-4fa7-bb32-11f34168b82b/0a81f5b2-8403-4b23-88d6-21ccc2f80d6f
//
// A look-up is made for one VM, and finds that VM's keys only. [Wipe] destroys the
// keys of one VM.
package vmkeys
