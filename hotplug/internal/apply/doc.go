// Package apply changes a VM and its host, so that a disk is either there completely
// or not at all. The steps of a plan go to a [Target], a VM or a storage daemon;
// what has to be done on the host beside that is a [Change] with its inverse.
//
// A step has three outcomes. Done and failed are QEMU's words. Unknown is a
// time-out or a lost connection: a [Run] then queries QEMU for what exists, and
// never assumes. After a failure the steps and the changes of the host are taken
// back in reverse order, and the error says what could not be: an
// [*outcome.RolledBackError] where nothing is left, an [*outcome.LeftBehindError]
// with names where something is, and the failure itself where the VM never heard of
// the disk and the host is as it was.
package apply
