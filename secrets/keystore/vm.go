package keystore

import (
	"fmt"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// openVM opens the keys of one VM: of the one that the parameter uuid names, or of
// the one that is at work.
func openVM(l *Location, o Options) (secrets.Store, error) {
	folder := vmkeys.Folder
	if l.Rest != "" {
		var err error
		if folder, err = l.Path("a folder"); err != nil {
			return nil, err
		}
		if !filepath.IsAbs(folder) {
			return nil, fmt.Errorf("%w: of kind vm: %q is not an absolute path", ErrInvalidURI, folder)
		}
	}
	id := l.Take("uuid")
	if id == "" {
		vm := o.VM
		if vm == nil {
			vm = func() string { return "" }
		}
		return vmkeys.New(folder, vm), nil
	}
	parsed, err := secrets.ParseUUID(id)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind vm: uuid: %w", ErrInvalidURI, err)
	}
	return vmkeys.New(folder, func() string { return parsed.String() }), nil
}
