// Package apply changes a VM and its host, so that a disk is there either completely or
// not at all. The steps of a plan go to a [Target], a VM or a storage daemon; a change of
// the host is a [Change] with its inverse.
//
// A step is done, failed, or of unknown outcome, after a time-out or a lost connection: a
// [Run] then queries QEMU for what exists. After a failure the steps and the changes of
// the host are undone in reverse order. The error is an [*outcome.RolledBackError] if
// nothing is left, an [*outcome.LeftBehindError] with names if something is, and the
// failure itself if the VM was not changed and the host was restored.
package apply
