// Package unlock turns secrets into keys: it picks the method by which a LUKS
// volume is opened ([Choose]), looks up secrets and derives volume keys
// ([Resolve]), and brings the values to QEMU as secret objects, encrypted under the
// VM's master key where it has one, as sealed memory files or as files on tmpfs.
//
// A passphrase, key or header is in a [Values] only, from its look-up until Wipe.
package unlock
