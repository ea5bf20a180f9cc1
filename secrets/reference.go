package secrets

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// ErrInvalidReference is wrapped by the errors of [Reference.Validate] and
// [ParseUUID].
var ErrInvalidReference = errors.New("invalid secret reference")

// Type is the purpose of a secret. The values are those of the type attribute of
// libvirt's <secret> element in disk XML (https://libvirt.org/formatdomain.html,
// https://libvirt.org/formatstorageencryption.html), and "vtpm" for the state of
// an emulated TPM, which no disk refers to.
type Type string

// The types.
const (
	Passphrase Type = "passphrase" // unlocks an encrypted volume
	Ceph       Type = "ceph"       // authenticates to a Ceph cluster
	ISCSI      Type = "iscsi"      // authenticates to an iSCSI target (CHAP)
	TLS        Type = "tls"        // decrypts a TLS private key
	VTPM       Type = "vtpm"       // encrypts the state of an emulated TPM
)

// Valid reports whether t is one of the types above.
func (t Type) Valid() bool {
	switch t {
	case Passphrase, Ceph, ISCSI, TLS, VTPM:
		return true
	}
	return false
}

// UsageType returns the type attribute of the <usage> element of the <secret>
// documents that t refers to: "volume" for a passphrase, t's own name for the
// others (https://libvirt.org/formatsecret.html).
func (t Type) UsageType() UsageType {
	if t == Passphrase {
		return UsageVolume
	}
	return UsageType(t)
}

// Reference names a secret by its type and exactly one of UUID and Usage. It is
// comparable, is not secret and may be printed.
type Reference struct {
	Type  Type
	UUID  uuid.UUID
	Usage string // for a passphrase, usually the path of the volume
}

// String returns the secret's name for messages: "uuid 0a81f5b2-..." or
// `usage "/var/lib/images/vm1.img"`.
func (r Reference) String() string {
	if r.Usage != "" {
		return fmt.Sprintf("usage %q", r.Usage)
	}
	return "uuid " + r.UUID.String()
}

// Validate returns an error that wraps [ErrInvalidReference] unless the type is
// known and exactly one of UUID and Usage is given. The all-zero UUID counts as
// not given.
func (r Reference) Validate() error {
	if !r.Type.Valid() {
		return fmt.Errorf("%w: unknown type %q: use passphrase, ceph, iscsi, tls or vtpm", ErrInvalidReference, r.Type)
	}
	switch {
	case r.UUID == uuid.Nil && r.Usage == "":
		return fmt.Errorf("%w: neither uuid nor usage is given: name the secret by one of them", ErrInvalidReference)
	case r.UUID != uuid.Nil && r.Usage != "":
		return fmt.Errorf("%w: both uuid and usage are given: name the secret by one of them", ErrInvalidReference)
	case strings.ContainsRune(r.Usage, 0):
		return fmt.Errorf("%w: the usage holds a NUL character", ErrInvalidReference)
	}
	return nil
}

// ParseUUID parses a secret's uuid in the form of libvirt documents: 32 hexadecimal
// digits in either case, bare or in the 8-4-4-4-12 form. Other forms that
// [uuid.Parse] accepts (urn:uuid:, braces) are refused, and so is the all-zero
// uuid. Errors wrap [ErrInvalidReference].
func ParseUUID(s string) (uuid.UUID, error) {
	digits := s
	if len(s) == 36 {
		for _, i := range []int{8, 13, 18, 23} {
			if s[i] != '-' {
				return uuid.Nil, invalidUUID(s)
			}
		}
		digits = s[:8] + s[9:13] + s[14:18] + s[19:23] + s[24:]
	}
	var u uuid.UUID
	if len(digits) != 2*len(u) {
		return uuid.Nil, invalidUUID(s)
	}
	if _, err := hex.Decode(u[:], []byte(digits)); err != nil {
		return uuid.Nil, invalidUUID(s)
	}
	if u == uuid.Nil {
		return uuid.Nil, fmt.Errorf("%w: the uuid is all zeros, which names no secret", ErrInvalidReference)
	}
	return u, nil
}

func invalidUUID(s string) error {
	return fmt.Errorf("%w: %q is not a uuid: write it like 0a81f5b2-8403-7b23-c8d6-21ccc2f80d6f", ErrInvalidReference, s)
}
