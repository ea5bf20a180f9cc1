//go:build pkcs11 && cgo

package pkcs11

import (
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/secrets"
)

// name returns what the store is called.
func (o Options) name() string {
	name := o.URI.String()
	if path, _, found := strings.Cut(name, "?"); found {
		name = path // the rest is about how to reach it
	}
	if o.Folder != "" {
		name += "?wrapped=" + escape(o.Folder, queryChars)
	}
	return name
}

// expand returns the text for a reference; false where it asks for what that does
// not have.
func expand(text string, ref secrets.Reference) (string, bool) {
	id := ""
	if ref.UUID != uuid.Nil {
		id = ref.UUID.String()
	}
	if strings.Contains(text, "{uuid}") && id == "" || strings.Contains(text, "{usage}") && ref.Usage == "" {
		return "", false
	}
	return strings.NewReplacer("{uuid}", id, "{usage}", ref.Usage, "{type}", string(ref.Type)).Replace(text), true
}
