//go:build pkcs11 && cgo

package pkcs11

/*
#define _DEFAULT_SOURCE
#include <stdlib.h>
#include <string.h>

// overwrite_freed overwrites the blocks of n bytes that this thread has freed last: an
// allocator hands them out again first.
static void overwrite_freed(size_t n) {
	void *blocks[16];
	int i;
	for (i = 0; i < 16; i++) {
		blocks[i] = malloc(n);
		if (blocks[i] != NULL)
			explicit_bzero(blocks[i], n);
	}
	for (i = 0; i < 16; i++)
		free(blocks[i]);
}
*/
import "C"

// overwriteFreed overwrites memory that the library miekg/pkcs11 has just freed with one of these
// sizes in bytes: it passes values through memory of C's that it does not
// clear. The caller has locked its thread, because freed memory stays with the thread.
func overwriteFreed(sizes ...int) {
	for _, n := range sizes {
		if n > 0 {
			C.overwrite_freed(C.size_t(n))
		}
	}
}
