package luks

import "fmt"

// FreshSize is the payload offset of a header from [Fresh], in bytes: the end of all
// its key slots, used or not.
const FreshSize = 4040 * SectorSize

// Fresh returns a LUKS1 header of a new volume, with a random volume key, one key
// slot of one PBKDF2 iteration and a random one-time passphrase: an ephemeral header
// without an original. After it has been wiped and the program that opened it no
// longer has the key, the data of the volume is lost.
//
// The payload begins at [FreshSize], which leaves room for all key slots of the
// header. The caller wipes the header.
func Fresh() (*EphemeralHeader, error) {
	key, err := Format{PayloadOffset: FreshSize}.NewKey()
	if err != nil {
		return nil, fmt.Errorf("make a LUKS header: %w", err)
	}
	defer key.Wipe()
	return Ephemeral(key)
}
