package memtest

import "unsafe"

// addressOf returns the address of b's memory, which does not move.
func addressOf(b []byte) uintptr { return uintptr(unsafe.Pointer(unsafe.SliceData(b))) }
