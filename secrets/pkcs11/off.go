//go:build !pkcs11 || !cgo

package pkcs11

import "github.com/luksplug/luksplug/secrets"

// New returns [ErrNotBuilt] in this build.
func New(Options) (secrets.Store, error) { return nil, ErrNotBuilt }
