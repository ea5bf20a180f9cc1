package vmkeys

import (
	"fmt"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents: the keys of
// the VM that the parameter uuid names, or else of the VM that o.VM returns.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	dir := Dir
	if l.Rest != "" {
		var err error
		if dir, err = l.Path("a directory"); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(dir) {
			return nil, fmt.Errorf("%w: of kind vm: %q is not an absolute path", storeuri.ErrInvalid, dir)
		}
	}
	id := l.Take("uuid")
	if id == "" {
		vm := o.VM
		if vm == nil {
			vm = func() string { return "" }
		}
		return New(dir, vm).Owned(o.Owner), nil
	}
	parsed, err := secrets.ParseUUID(id)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind vm: uuid: %w", storeuri.ErrInvalid, err)
	}
	return New(dir, func() string { return parsed.String() }), nil
}
