// Package hostproc works with the processes of this machine: it identifies a process so that a reused process
// id cannot stand in for it ([Process]), waits for it and signals it by pidfd ([Handle]), reads its user and
// groups ([Credential]), finds the process that listens on a port or that is the QEMU of a VM, and runs code
// on an operating system thread of its own ([OnThread]), also with the file access of another user ([User]).
//
// Everything is read from /proc (proc(5)) or queried from the kernel each time; the
// package has no state. All functions may be called concurrently.
package hostproc
