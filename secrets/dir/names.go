package dir

import (
	"fmt"
	"net/url"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// FileName returns the name of the file that holds ref's secret: the uuid, or
// the usage type, a "-" and the usage, in which every byte other than ASCII
// letters, digits and "-", ".", "_", "~" is written as "%" and two upper-case hex
// digits, as in URIs (RFC 3986 section 2). The usage type is included because
// libvirt identifies a secret by type and usage: a CHAP password and a passphrase
// may have the same usage. The name may exceed the limit of file systems; the error
// of Lookup says so.
func FileName(ref secrets.Reference) string {
	if ref.UUID != uuid.Nil {
		return ref.UUID.String()
	}
	var b strings.Builder
	b.WriteString(string(ref.Type.UsageType()))
	b.WriteByte('-')
	for _, c := range []byte(ref.Usage) {
		if unreserved(c) {
			b.WriteByte(c)
		} else {
			fmt.Fprintf(&b, "%%%02X", c)
		}
	}
	return b.String()
}

func unreserved(c byte) bool {
	return 'a' <= c && c <= 'z' || 'A' <= c && c <= 'Z' || '0' <= c && c <= '9' ||
		c == '-' || c == '.' || c == '_' || c == '~'
}

// usageOf returns the reference by usage whose [FileName] is name, and reports
// whether there is one.
func usageOf(name string) (secrets.Reference, bool) {
	usageType, escaped, found := strings.Cut(name, "-")
	usage, err := url.PathUnescape(escaped)
	ref := secrets.Reference{Type: secrets.UsageType(usageType).Type(), Usage: usage}
	return ref, found && err == nil && ref.Validate() == nil && FileName(ref) == name
}

// uuidOf returns the uuid that name spells in lower case, and reports whether it does.
func uuidOf(name string) (uuid.UUID, bool) {
	id, err := secrets.ParseUUID(name)
	return id, err == nil && id.String() == name
}
