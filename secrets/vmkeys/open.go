package vmkeys

import (
	"fmt"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents: the keys of
// the VM that the parameter uuid names, or of that of the options.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	folder := Folder
	if l.Rest != "" {
		var err error
		if folder, err = l.Path("a directory"); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(folder) {
			return nil, fmt.Errorf("%w: of kind vm: %q is not an absolute path", storeuri.ErrInvalid, folder)
		}
	}
	id := l.Take("uuid")
	if id == "" {
		vm := o.VM
		if vm == nil {
			vm = func() string { return "" }
		}
		return New(folder, vm), nil
	}
	parsed, err := secrets.ParseUUID(id)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind vm: uuid: %w", storeuri.ErrInvalid, err)
	}
	return New(folder, func() string { return parsed.String() }), nil
}
