package secrets

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"unicode/utf8"

	"github.com/google/uuid"
)

// ErrInvalidDocument is wrapped by the errors of [Document.Validate].
var ErrInvalidDocument = errors.New("invalid secret document")

// UsageType is the type attribute of a <secret> document's <usage> element
// (https://libvirt.org/formatsecret.html).
type UsageType string

// The usage types.
const (
	UsageNone   UsageType = "" // no <usage>: a reference of any type matches by uuid
	UsageVolume UsageType = "volume"
	UsageCeph   UsageType = "ceph"
	UsageISCSI  UsageType = "iscsi"
	UsageTLS    UsageType = "tls"
	UsageVTPM   UsageType = "vtpm"
)

// Valid reports whether u is one of the types above.
func (u UsageType) Valid() bool {
	switch u {
	case UsageNone, UsageVolume, UsageCeph, UsageISCSI, UsageTLS, UsageVTPM:
		return true
	}
	return false
}

// Type returns the type of the references that match u; [Passphrase] for
// UsageNone, which matches all types.
func (u UsageType) Type() Type {
	if u == UsageVolume || u == UsageNone {
		return Passphrase
	}
	return Type(u)
}

// Document is the content of a <secret> document: all metadata of a secret,
// without its value. It is not secret and may be printed. It is comparable.
// [ParseDocument] and [Document.XML] read and write it.
type Document struct {
	// UUID identifies the secret. It is the zero UUID only for a secret that was
	// stored manually under a usage.
	UUID uuid.UUID
	// Ephemeral: the secret may be kept in memory only, and is lost at a
	// reboot.
	Ephemeral bool
	// Private: the value is used for attaching, and goes neither to the caller nor to
	// another node. Libvirt's own store enforces this; [Store.Lookup] of the other stores
	// returns the value, and [Destination] is what users of it ask.
	Private     bool
	Description string
	UsageType   UsageType
	Usage       string // a volume's path, a name, or an iSCSI target
}

// Validate returns an error that wraps [ErrInvalidDocument] for an unknown usage
// type, a usage type without usage or a usage without type, a document with
// neither uuid nor usage, and text that XML cannot represent.
func (d Document) Validate() error {
	switch {
	case !d.UsageType.Valid():
		return fmt.Errorf("%w: unknown usage type %q: use volume, ceph, iscsi, tls or vtpm", ErrInvalidDocument, d.UsageType)
	case (d.UsageType == UsageNone) != (d.Usage == ""):
		return fmt.Errorf("%w: a usage has both a type and a name", ErrInvalidDocument)
	case d.UUID == uuid.Nil && d.Usage == "":
		return fmt.Errorf("%w: it has neither uuid nor usage", ErrInvalidDocument)
	case !IsText(d.Usage):
		return fmt.Errorf("%w: the usage has characters that XML cannot represent", ErrInvalidDocument)
	case !IsText(d.Description):
		return fmt.Errorf("%w: the description has characters that XML cannot represent", ErrInvalidDocument)
	}
	return nil
}

// IsText reports whether s survives writing and parsing a document unchanged: it is
// UTF-8 without control characters other than tab and newline (XML 1.0 section 2.2;
// section 2.11 changes a carriage return).
func IsText(s string) bool {
	return utf8.ValidString(s) && !strings.ContainsFunc(s, func(r rune) bool {
		return r < ' ' && r != '\t' && r != '\n' || r == 0xFFFE || r == 0xFFFF
	})
}

// Reference returns the reference to d's secret: by uuid if d has one, else by usage.
func (d Document) Reference() Reference {
	if d.UUID != uuid.Nil {
		return Reference{Type: d.UsageType.Type(), UUID: d.UUID}
	}
	return Reference{Type: d.UsageType.Type(), Usage: d.Usage}
}

// String returns the secret's name for messages, like [Reference.String].
func (d Document) String() string { return d.Reference().String() }

// Answers reports whether ref names d's secret. The error wraps [ErrWrongType] for
// a reference by uuid whose type does not match the usage type. libvirt refuses it
// too: a Ceph key must not become a disk's passphrase by mistake.
func (d Document) Answers(ref Reference) (bool, error) {
	if ref.Usage != "" {
		return ref.Usage == d.Usage && ref.Type.UsageType() == d.UsageType, nil
	}
	switch {
	case ref.UUID == uuid.Nil || ref.UUID != d.UUID:
		return false, nil
	case d.UsageType != UsageNone && d.UsageType != ref.Type.UsageType():
		return false, fmt.Errorf("%w: its usage type is %s, and a reference of type %s needs %s",
			ErrWrongType, d.UsageType, ref.Type, ref.Type.UsageType())
	}
	return true, nil
}

// Find returns the document of the secret that ref names. The error wraps
// [ErrNotFound] or [ErrWrongType]; it names a similar usage, or the same one of another type.
func Find(documents []Document, ref Reference) (Document, error) {
	for _, d := range documents {
		if found, err := d.Answers(ref); found || err != nil {
			return d, err
		}
	}
	return Document{}, notAmong(documents, ref)
}

// CheckDefine returns nil if d may be added to documents, or may replace the document
// with d's uuid. The rules are libvirt's: a usage belongs to one secret, a secret
// keeps its usage, and a private secret stays private. The error wraps
// [ErrConflict].
func CheckDefine(documents []Document, d Document) error {
	if i := slices.IndexFunc(documents, func(o Document) bool { return o.UUID == d.UUID }); i >= 0 {
		old := documents[i]
		switch {
		case old.UsageType != d.UsageType || old.Usage != d.Usage:
			return fmt.Errorf("%w: the secret is already defined %s, which cannot be changed: undefine it first", ErrConflict, old.use())
		case old.Private && !d.Private:
			return fmt.Errorf("%w: the secret is private, which cannot be changed: undefine it first", ErrConflict)
		}
		return nil
	}
	for _, o := range documents {
		if d.Usage != "" && o.Usage == d.Usage && o.UsageType == d.UsageType {
			return fmt.Errorf("%w: there is already one %s, the secret with %s", ErrConflict, d.use(), o)
		}
	}
	return nil
}

func (d Document) use() string {
	if d.UsageType == UsageNone {
		return "without a usage"
	}
	return fmt.Sprintf("for the %s %q", d.UsageType, d.Usage)
}
