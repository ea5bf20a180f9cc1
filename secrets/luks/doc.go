// Package luks reads and unlocks the headers of LUKS volumes as used by QEMU,
// cryptsetup and the kernel, writes those of new volumes and ephemeral ones, and changes
// their key slots.
//
// A LUKS volume is a header and a payload. The payload usually follows the header;
// if it is in another file, the header is called detached. The header describes the
// encryption of the payload (cipher, mode, key length) and contains several copies
// of the volume key, each encrypted by a key derived from one passphrase: the key
// slots. LUKS1 (LUKS On-Disk Format Specification, version 1.2.3) has eight:
//
//	offset   0     LUKS\xba\xbe, version, cipher, mode, hash, payload offset
//	offset 112     digest of the volume key, which verifies a key
//	offset 208     8 key slots: state, iterations, salt, offset of the key material
//	offset 4096 .. key material: the volume key of each slot, split and encrypted
//
// LUKS2 (LUKS2 On-Disk Format Specification, version 1.1) has the same and more data
// in JSON, in two copies with checksums and sequence numbers:
//
//	offset   0     LUKS\xba\xbe, size of this copy, sequence number, checksum
//	offset 4096    JSON: keyslots, segments (of the payload), digests, config
//	size of a copy SKUL\xba\xbe: the second copy
//	after that     key material
//
// # Reading
//
// [ReadHeader] reads from any [io.ReaderAt], checks every bound before it uses a
// number, and does no other I/O. A header that it returns is well-formed;
// [Header.Usable] reports whether this package can open its volume.
//
// # Unlocking
//
// [Header.Unlock] turns a passphrase into the volume key:
//
//	passphrase -- PBKDF2 or Argon2 -----> slot key     (deliberately slow)
//	slot key   -- decrypts material ----> 4000 stripes
//	stripes    -- merge ----------------> candidate
//	candidate  -- digest ---------------> the volume key, or the next key slot
//
// Only a key that matches the digest is returned. [Unlocker] adds progress, a choice
// of key slots, and a limit on memory.
//
// # Backups
//
// [ReadBackup] reads a backup of a header, and [Backup.Compare] compares it with an
// image whose header may be damaged: whether the image has the volume of the backup,
// and whether it needs the backup.
//
// # The ephemeral header
//
// QEMU derives the slot key in its main loop, which stalls the guest for seconds. It
// does not support LUKS2. [Ephemeral] writes a LUKS1 header with the same volume key,
// encryption, payload offset and UUID, with one iteration and a random one-time
// passphrase, which QEMU opens in milliseconds. The user's passphrase does not enter
// QEMU.
//
// QEMU cannot detect a wrong ephemeral header, and would read and write garbage. So
// a header whose payload QEMU would decrypt differently is refused, with the reason:
// sectors of 4096 bytes (QEMU would decrypt every eighth right), other than one
// segment, integrity, reencryption in progress, unknown requirements. Allowed are
// aes and twofish, in xts with plain and plain64 and in cbc with plain, plain64 and
// essiv:sha256, which were compared with another implementation bit by bit.
//
// Before QEMU opens an original header, [Header.QEMUOpens] reports whether QEMU can
// open it or would abort, and [Header.QEMUUnlockTime] estimates how long the guest
// will be stalled.
//
// # New volumes
//
// [Format] describes a new header. [Format.NewKey] makes the volume key, [Format.Header]
// the header that a passphrase opens: a pure function, so that the caller decides where
// the header goes and when. [Format.MinimumCost] is the derivation for a random passphrase;
// [Format.Cost] measures one for a passphrase that a person has chosen.
//
// # A header in its place
//
// [Header.Write] and [Header.Wipe] change a header in a [Storage] in an order in which a
// loss of power leaves it recognisable, by [Backup.Compare] and [Header.Leftover]. They
// only need the header's layout, not its key.
//
// # Incomplete volumes
//
// A volume that is being filled with the data of another one must not be opened by mistake: it lacks a part of them. So its
// header is marked from before its first byte is written until its last one is stored: a magic of luksplug's own is in the
// place of "LUKS\xba\xbe", and of "SKUL\xba\xbe" in the second copy of LUKS2. QEMU, libvirt and cryptsetup find no LUKS
// header then, and [ReadHeader] returns [ErrIncomplete].
//
//	Incomplete(header)     marks the bytes of a header before they are written
//	ReadIncomplete         reads a header with or without the mark
//	Complete               removes the mark from a stored header
//	MarkIncomplete         puts it back
//
// All other bytes are those of the complete header, the checksums of LUKS2 included, so that each change of the mark is the
// write of one sector for each copy, which is stored or not.
//
// # Key slots
//
// [AddSlot] puts the volume key of a header into a spare key slot, and [WipeSlot] removes one
// after another one was opened. Both work on a [Storage], and survive a crash at any write,
// torn at sectors and reordered between two syncs; [FinishWipes] finishes what it has
// interrupted.
//
// # Key material in memory
//
// Long-lived keys are in [secrets.Secret] memory. Slot keys, stripes, key schedules
// and hash states are wiped right after use, also after failures, and no copy of the
// passphrase is left. Not wiped are the stacks of ended goroutines, which may hold data
// derived from it, and the reader's buffers.
//
// A header is not secret, but allows guessing passphrases: it prints as a short
// description, without salts and digests.
package luks
