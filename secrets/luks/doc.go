// Package luks reads the headers of LUKS volumes, as QEMU, cryptsetup and the
// kernel know them.
//
// A LUKS volume is a header and a payload, the payload usually right behind the
// header, or in another file: then the header is called detached. The header says
// how the payload is encrypted (cipher, mode, key length) and holds up to eight
// copies of the volume key, each encrypted by a key derived from one passphrase:
// the key slots.
//
//	offset   0     LUKS\xba\xbe, version, cipher, mode, hash, payload offset
//	offset 112     digest of the volume key, to tell a right key from a wrong one
//	offset 208     8 key slots: state, iterations, salt, where its key material is
//	offset 4096 .. key material: the volume key of each slot, split and encrypted
//
// [ReadHeader] reads from any [io.ReaderAt], checks every bound before it uses a
// number, and does no other I/O. LUKS1 is read completely (LUKS On-Disk Format
// Specification, version 1.2.3); QEMU's driver takes nothing else. LUKS2 (LUKS2
// On-Disk Format Specification, version 1.1) is recognised, with its binary header
// but without its JSON area.
//
// A header is not a secret, but whoever has it can try passphrases on it: it
// prints as a short description, without salts and digests.
package luks
