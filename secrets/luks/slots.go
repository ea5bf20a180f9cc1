package luks

import (
	"bytes"
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/luksplug/luksplug/secrets"
)

// Errors of [AddSlot], [WipeSlot], [Header.SpareSlot], [Header.Write] and [Header.Wipe]. Test with [errors.Is].
var (
	// ErrNoSpareSlot: all key slots are in use, or there is no room for the key material of another one.
	ErrNoSpareSlot = errors.New("the LUKS header has no spare key slot")
	// ErrLastSlot: nothing shows that another key slot opens the volume.
	ErrLastSlot = errors.New("no other key slot is known to open the volume")
	// ErrSlotNotInUse: the key slot has no passphrase.
	ErrSlotNotInUse = errors.New("the key slot is not in use")
	// ErrOtherKey: the volume key is not that of the header.
	ErrOtherKey = errors.New("the volume key is that of another volume")
	// ErrNotStored: the storage returns other bytes than those that were written.
	ErrNotStored = errors.New("what was written is not what is read back")
)

// Format returns the parameters of the header that a derivation depends on, for [Format.MinimumCost] and [Format.Cost].
func (h *Header) Format() (Format, error) {
	v, err := h.volume()
	if err != nil {
		return Format{}, err
	}
	return Format{Version: h.Version, Encryption: v.encryption.String(), KeyBytes: v.keyBytes, Hash: v.digest.hash.name}, nil
}

// SpareSlot returns the number of the key slot that [AddSlot] would take. The error wraps [ErrNoSpareSlot], and
// [ErrUnsupported] or [ErrDamaged] as for [Header.Usable], or is that of the reader that was given to [ReadHeader].
func (h *Header) SpareSlot() (int, error) {
	v, err := h.volume()
	if err != nil {
		return 0, err
	}
	p, err := h.spare(v, nil)
	if err != nil {
		return 0, err
	}
	return p.number, nil
}

// place is where a new key slot goes, and how its key material is encrypted there.
type place struct {
	slot
	keyBytes int   // of the volume key
	size     int64 // of the area, in bytes
}

// spare returns the place for a new key slot of the volume. key is what has opened the volume; nil if nothing has.
func (h *Header) spare(v *volume, key *VolumeKey) (place, error) {
	if h.LUKS1 != nil {
		return h.LUKS1.spare(h.r, v)
	}
	m, err := readMetadata(h.r, h)
	if err != nil {
		return place{}, err
	}
	return m.spare(h.r, place{slot: v.like(key), keyBytes: v.keyBytes, size: luks2Slot(v.keyBytes)})
}

// like returns the key slot after which a new one is modelled: the one that key was opened from, or else any.
func (v *volume) like(key *VolumeKey) slot {
	model := slot{encryption: v.encryption, areaKeyBytes: v.keyBytes, af: v.digest.hash}
	for i, s := range v.slots {
		if i == 0 || key != nil && s.number == key.slot {
			model.encryption, model.areaKeyBytes, model.af = s.encryption, s.areaKeyBytes, s.af
		}
	}
	return model
}

// AddSlot puts the volume key into a spare key slot of the header in s, opened by passphrase after a derivation with
// cost, whose salt is made here; LUKS1 has PBKDF2 with the hash of the header only. It returns the volume key as the new
// slot has it, read back from s and opened with passphrase. The caller wipes it.
//
// It survives a crash at any moment, also if sectors of 512 bytes are stored or lost in any order between two calls of
// s.Sync: the other key slots stay as they are, and the new one is in use only when its key material is stored. LUKS1
// (LUKS On-Disk Format Specification 1.2.3, section 4.1): key material, then iterations and salt, then the state. LUKS2
// (LUKS2 On-Disk Format Specification 1.1, section 2.3): key material, then one copy of the metadata, then the other,
// after the copies are made equal; what this package does not know of the metadata is kept. If
// the passphrase does not open the slot in the end, it is wiped again.
//
// The errors wrap [ErrNoSpareSlot], [ErrOtherKey], [ErrNotStored], [ErrUnsupported], those of [ReadHeader], or are those
// of s, or that of ctx, which bounds the first derivation: once AddSlot has begun to write, it finishes. The caller keeps
// others from changing the header meanwhile.
func AddSlot(ctx context.Context, s Storage, key *VolumeKey, passphrase *secrets.Secret, cost KDF) (*VolumeKey, error) {
	added, err := addSlot(ctx, s, key, passphrase, cost)
	if err != nil {
		return nil, fmt.Errorf("add a key slot: %w", err)
	}
	return added, nil
}

func addSlot(ctx context.Context, s Storage, key *VolumeKey, passphrase *secrets.Secret, cost KDF) (*VolumeKey, error) {
	h, v, err := opened(ctx, s, key)
	if err != nil {
		return nil, err
	}
	p, err := h.spare(v, key)
	if err != nil {
		return nil, err
	}
	cost.Salt = randomBytes(slotSaltBytes)
	if p.kdf, err = cost.kdf(); err == nil {
		err = (Unlocker{}).affordable(p.slot)
	}
	if err != nil {
		return nil, err
	}
	if h.LUKS1 != nil && (cost.Type != typePBKDF2 || cost.Hash != h.LUKS1.Hash) {
		return nil, fmt.Errorf("%w: a LUKS1 header derives by PBKDF2 with its own hash, %s", ErrUnsupported, h.LUKS1.Hash)
	}
	material, err := p.material(ctx, key, passphrase)
	if err != nil {
		return nil, err
	}
	defer clear(material)
	if h.LUKS1 != nil {
		err = writeLUKS1Key(s, p, material)
	} else {
		err = writeLUKS2Key(s, h, p, material, cost)
	}
	if err != nil {
		return nil, fmt.Errorf("key slot %d: %w", p.number, err)
	}
	added, err := opens(context.WithoutCancel(ctx), s, p.number, passphrase)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("key slot %d: %w: it does not open: %w", p.number, ErrNotStored, err), eraseSlot(s, p.number))
	}
	return added, nil
}

// opened reads the header in s, and checks that key is its volume key.
func opened(ctx context.Context, s Storage, key *VolumeKey) (*Header, *volume, error) {
	h, err := ReadHeader(s)
	if err != nil {
		return nil, nil, err
	}
	v, err := h.volume()
	if err != nil {
		return nil, nil, err
	}
	return h, v, key.check(ctx, v)
}

// check returns an error that wraps [ErrOtherKey] unless k is the key of the volume.
func (k *VolumeKey) check(ctx context.Context, v *volume) error {
	if k.Len() != v.keyBytes {
		return fmt.Errorf("%w: it has %d bytes, and that of the header %d", ErrOtherKey, k.Len(), v.keyBytes)
	}
	return k.Use(func(value []byte) error {
		sum, err := pbkdf2(ctx, v.digest, value, len(v.want))
		if err == nil && subtle.ConstantTimeCompare(sum, v.want) != 1 {
			err = fmt.Errorf("%w: it does not match the digest of the header", ErrOtherKey)
		}
		return err
	})
}

// material returns the key material of a new key slot.
func (p place) material(ctx context.Context, key *VolumeKey, passphrase *secrets.Secret) (material []byte, err error) {
	slotKey, err := p.kdf.derive(ctx, passphrase, p.areaKeyBytes)
	if err != nil {
		return nil, err
	}
	defer clear(slotKey)
	err = key.Use(func(value []byte) error {
		material, err = p.encryption.seal(p.af, value, slotKey)
		return err
	})
	return material, err
}

// opens returns the volume key that passphrase opens in the key slot as it is stored.
func opens(ctx context.Context, s Storage, number int, passphrase *secrets.Secret) (key *VolumeKey, err error) {
	h, err := ReadHeader(s)
	if err != nil {
		return nil, err
	}
	err = passphrase.Use(func(value []byte) error {
		key, err = Unlocker{Slots: []int{number}}.Unlock(ctx, h, value)
		return err
	})
	return key, err
}

// WipeSlot takes a key slot out of use and overwrites its key material, which is read back, so that no passphrase opens it
// any more, as far as the storage keeps no older bytes (a snapshot, an SSD, a backup of the header). key proves that the
// volume can still be opened: it was opened from another key slot of the header, which is in use. A slot in use alone
// proves nothing, as its passphrase may be lost.
//
// It survives a crash as [AddSlot] does: the slot is out of use first, and [FinishWipes] finishes what was begun. LUKS1:
// the state, then a random salt, then the key material, then an empty salt. LUKS2: the slot leaves the lists of its digest
// and its tokens and gets a random salt, in one copy of the metadata and then in the other; then the key material; then it
// is removed from both copies.
//
// The errors wrap [ErrLastSlot], [ErrSlotNotInUse], [ErrOtherKey], [ErrNotStored], [ErrUnsupported], those of
// [ReadHeader], or are those of s, or that of ctx before the first write.
func WipeSlot(ctx context.Context, s Storage, key *VolumeKey, number int) error {
	_, v, err := opened(ctx, s, key)
	if err == nil {
		err = v.removable(key, number)
	}
	if err == nil {
		err = eraseSlot(s, number)
	}
	if err != nil {
		return fmt.Errorf("wipe key slot %d: %w", number, err)
	}
	return nil
}

// removable returns an error unless the key slot can be wiped.
func (v *volume) removable(key *VolumeKey, number int) error {
	inUse := func(n int) bool {
		return slices.ContainsFunc(v.slots, func(s slot) bool { return s.number == n }) ||
			slices.ContainsFunc(v.refused, func(e slotError) bool { return e.slot == n })
	}
	switch {
	case !inUse(number):
		return ErrSlotNotInUse
	case key.slot == number || !inUse(key.slot):
		return ErrLastSlot
	}
	return nil
}

// eraseSlot wipes a key slot in use.
func eraseSlot(s Storage, number int) error {
	h, err := ReadHeader(s)
	if err != nil {
		return err
	}
	if h.LUKS1 != nil {
		return eraseLUKS1(s, h.LUKS1, number)
	}
	return eraseLUKS2(s, h, number)
}

// FinishWipes finishes what an interrupted [AddSlot] or [WipeSlot] has begun, and returns the numbers of the key slots that
// it has wiped. These are not in use: of LUKS1 they are disabled and have a salt, of LUKS2 no digest lists them. It also
// makes both copies of LUKS2 metadata equal. The errors are those of [WipeSlot].
func FinishWipes(s Storage) ([]int, error) {
	h, err := ReadHeader(s)
	if err == nil {
		_, err = h.volume()
	}
	var numbers []int
	if err == nil && h.LUKS1 != nil {
		numbers, err = finishLUKS1(s, h.LUKS1)
	} else if err == nil {
		numbers, err = finishLUKS2(s, h)
	}
	if err != nil {
		return nil, fmt.Errorf("finish an interrupted change of key slots: %w", err)
	}
	return numbers, nil
}

// store writes content, which is stored when it returns, and reads it back.
func store(s Storage, content []byte, off int64) error {
	if len(content) == 0 {
		return nil
	}
	if _, err := s.WriteAt(content, off); err != nil {
		return fmt.Errorf("write %d bytes at offset %d: %w", len(content), off, err)
	}
	if err := s.Sync(); err != nil {
		return fmt.Errorf("sync: %w", err)
	}
	stored, err := read(s, off, len(content))
	if err != nil {
		return err
	}
	defer clear(stored)
	if !bytes.Equal(stored, content) {
		return fmt.Errorf("%w: %d bytes at offset %d", ErrNotStored, len(content), off)
	}
	return nil
}

// overwritten is how much of an area is overwritten at a time, in bytes.
const overwritten = 1 << 20

// overwrite writes random bytes to an area, as far as the storage has it.
func overwrite(s Storage, off, length int64) error {
	for end := off + length; off < end; {
		there, err := read(s, off, int(min(end-off, overwritten)))
		if err != nil || len(there) == 0 {
			return err
		}
		if err := store(s, randomBytes(len(there)), off); err != nil {
			return err
		}
		off += int64(len(there))
	}
	return nil
}

// exists reports whether a storage has all bytes up to end.
func exists(r io.ReaderAt, end int64) (bool, error) {
	b, err := read(r, end-1, 1)
	return len(b) == 1, err
}
