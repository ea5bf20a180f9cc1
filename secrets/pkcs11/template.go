//go:build pkcs11 && cgo

package pkcs11

import (
	"strings"
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
