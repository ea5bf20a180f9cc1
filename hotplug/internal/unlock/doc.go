// Package unlock turns secrets into keys: it selects the method by which a LUKS volume is
// opened ([Choose]), looks up secrets and derives volume keys ([Resolve]), and passes the
// values to QEMU as secret objects, encrypted under the VM's master key if it has one, as
// sealed memory files or as files on tmpfs.
//
// Passphrases, keys and headers exist only in [Values], from the look-up until Wipe.
package unlock
