package secrets

import "fmt"

// Errors of a secret that may not go to a [Destination]. A store returns them as a
// [*StoreError].
var (
	// ErrOtherNode: the secret is private, and its value would go to another node.
	ErrOtherNode = fmt.Errorf("%w, and does not go to another node", ErrPrivate)
	// ErrUnknownNode: the secret is private, and the node to which its value would go is
	// not known.
	ErrUnknownNode = fmt.Errorf("%w, and is not known to stay on this node", ErrPrivate)
)

// Destination is where a value goes when it leaves this process: the one place that decides
// whether the secret's document permits that. It also applies to what is derived from a
// value and replaces it, as the ephemeral header of a LUKS volume with its one-time passphrase,
// which reveal the volume key.
//
// The zero value of each field is the most restricted one.
type Destination struct {
	// Name names the destination in messages, such as "the VM's QEMU".
	Name   string
	Node   Node
	Reader Reader
	Medium Medium
}

// Node is the node on which the value is read.
type Node string

// The nodes.
const (
	// UnknownNode: nothing shows that the reader is on this node, such as a process behind a
	// proxy. It is treated as another node.
	UnknownNode Node = ""
	ThisNode    Node = "this"
	OtherNode   Node = "other"
)

// Reader is who gets the value.
type Reader string

// The readers.
const (
	// Caller: the user who runs the program, or a file or program of that user's.
	Caller Reader = ""
	// Hypervisor: a QEMU, or a storage daemon that serves it a disk.
	Hypervisor Reader = "hypervisor"
)

// Medium is what holds the value.
type Medium string

// The media.
const (
	// Lasting: a disk, or another medium that survives a reboot.
	Lasting Medium = ""
	// Memory: the memory of a process, a pipe, a socket, or a file on a tmpfs. It may be
	// swapped out, as all memory.
	Memory Medium = "memory"
)

// Accepts returns nil if the secret with the document may go to the destination. The rules are
// those of libvirt's documents (https://libvirt.org/formatsecret.html): the value of a private
// secret "must not be revealed to any caller of libvirt, nor to any other node", and an
// ephemeral one "must only be kept in memory, never stored persistently".
//
// The error wraps [ErrPrivate], which [ErrOtherNode] and [ErrUnknownNode] are, or
// [ErrPersistent].
func (to Destination) Accepts(d Document) error {
	switch {
	case d.Private && to.Node == OtherNode:
		return fmt.Errorf("%w: %s is on one; use it on that node, from a key store there", ErrOtherNode, to.Name)
	case d.Private && to.Node != ThisNode:
		return fmt.Errorf("%w: the process of %s is not known on this one", ErrUnknownNode, to.Name)
	case d.Private && to.Reader != Hypervisor:
		return fmt.Errorf("%w: attach may use it, but it is not shown", ErrPrivate)
	case d.Ephemeral && to.Medium != Memory:
		return fmt.Errorf("%w: %s is not in memory", ErrPersistent, to.Name)
	}
	return nil
}

// BindDestination returns a store with the secrets of store that may go to the destination. For
// others, Lookup returns the error of [Destination.Accepts] and does not read the value. A
// store that is no [Describer] has no documents, and so no restrictions. Documents are not
// read if the destination accepts every secret.
func BindDestination(store Store, to Destination) Store {
	if to.Accepts(Document{Private: true, Ephemeral: true}) == nil {
		return store
	}
	return restrict(store, func(d Document, _ Reference) error { return to.Accepts(d) })
}
