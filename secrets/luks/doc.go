// Package luks reads the headers of LUKS volumes, as QEMU, cryptsetup and the
// kernel know them, unlocks them, and writes ephemeral ones.
//
// A LUKS volume is a header and a payload, the payload usually right behind the
// header, or in another file: then the header is called detached. The header says
// how the payload is encrypted (cipher, mode, key length) and holds several copies
// of the volume key, each encrypted by a key derived from one passphrase: the key
// slots. LUKS1 (LUKS On-Disk Format Specification, version 1.2.3) has eight:
//
//	offset   0     LUKS\xba\xbe, version, cipher, mode, hash, payload offset
//	offset 112     digest of the volume key, by which a key is verified
//	offset 208     8 key slots: state, iterations, salt, where its key material is
//	offset 4096 .. key material: the volume key of each slot, split and encrypted
//
// LUKS2 (LUKS2 On-Disk Format Specification, version 1.1) says the same, and more,
// in JSON, in two copies with checksums and sequence numbers:
//
//	offset   0     LUKS\xba\xbe, size of this copy, sequence number, checksum
//	offset 4096    JSON: keyslots, segments (of the payload), digests, config
//	size of a copy SKUL\xba\xbe: the second copy
//	behind that    key material
//
// # Reading
//
// [ReadHeader] reads from any [io.ReaderAt], checks every bound before it uses a
// number, and does no other I/O. A header that it returns is well-formed; whether
// its volume can be opened here is what [Header.Usable] says.
//
// # Unlocking
//
// [Header.Unlock] turns a passphrase into the volume key:
//
//	passphrase -- PBKDF2 or Argon2 -----> slot key     (slow by intention)
//	slot key   -- decrypts material ----> 4000 stripes
//	stripes    -- merge ----------------> candidate
//	candidate  -- digest ---------------> the volume key, or the next key slot
//
// Only a key that fits the digest is returned. [Unlocker] adds progress, a choice
// of key slots, and a bound on memory.
//
// # The ephemeral header
//
// QEMU derives the slot key in its main loop: for seconds the guest is
// stalled. It does not open LUKS2 at all. [Ephemeral] writes a LUKS1 header of the same
// volume key, encryption, payload offset and UUID, with one iteration and a random
// one-time passphrase, which QEMU opens in milliseconds. The passphrase of the user
// need not enter QEMU.
//
// That header vouches for itself: QEMU cannot notice if it is wrong, and would show
// the guest garbage, or write it. So all that QEMU would decrypt differently from
// what the original header means is refused, by name: sectors of 4096 bytes (every
// eighth one would come out right), other segments than one, integrity, running
// reencryption, requirements that are not known. Allowed are aes and twofish, in
// xts with plain and plain64 and in cbc with plain, plain64 and essiv:sha256, which
// were compared with another implementation bit by bit.
//
// Before QEMU opens an original header, [Header.QEMUOpens] reports whether QEMU can
// open it, and at which keys it would abort, and [Header.QEMUUnlockTime] estimates
// for how long the guest will be stalled.
//
// # What stays in memory
//
// Keys are in [secrets.Secret] memory where they live for long. Slot keys, stripes,
// key schedules and the states of hashes are wiped as soon as they have served, also
// after failures. Not in reach are stacks of goroutines that have ended, what
// x/crypto's Argon2 leaves on the heap (its working memory is given back to the
// system at once, but a block of its first hash, which holds up to 104 bytes of the
// passphrase, is left to the garbage collector), and what the reader buffers.
//
// A header is not a secret, but passphrases can be tried on it: it
// prints as a short description, without salts and digests.
package luks
