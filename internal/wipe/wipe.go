// Package wipe overwrites memory in which libraries leave secrets: their values, stacks,
// and the buffers of connections.
package wipe

import (
	"reflect"
	"runtime"
)

// Value clears the value that p points to. Hashes and ciphers of the standard library
// keep keys, or data that reveals keys, in unexported fields, which are accessible only by
// reflection. Data that the value points to is not cleared.
func Value(p any) { reflect.ValueOf(p).Elem().SetZero() }

// Registers overwrites the vector registers, in which copying leaves the last bytes: Go's
// scheduler saves them if it interrupts a goroutine. A copy of this length passes through
// all of them on amd64. It is best effort: an interruption before it may have saved them.
//
//go:noinline
func Registers() {
	var from, to [256]byte
	copy(to[:], from[:])
	runtime.KeepAlive(&to)
}

// stackLen is more than the hashes and ciphers of the standard library use of the stack.
const stackLen = 8 << 10

// Stack calls f, and then overwrites the part of the stack that f has used.
func Stack(f func()) {
	overwrite() // so that the stack does not grow in f, which would leave a copy
	f()
	overwrite()
}

//go:noinline
func overwrite() {
	var used [stackLen]byte
	for i := range used {
		used[i] = 0
	}
	runtime.KeepAlive(&used)
	Registers()
}
