//go:build pkcs11 && cgo

package pkcs11

import (
	"strings"
)

// name returns the store's URI for messages.
func (o Options) name() string {
	name := o.URI.String()
	if path, _, found := strings.Cut(name, "?"); found {
		name = path // the query only says how to access the token
	}
	if o.Dir != "" {
		name += "?wrapped=" + escape(o.Dir, queryChars)
	}
	return name
}
