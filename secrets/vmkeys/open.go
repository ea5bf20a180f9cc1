package vmkeys

import (
	"fmt"
	"path/filepath"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// PlacesOf returns the places that a URI names, and removes their parameters from it.
// Package keystore documents them. The usual directory in memory has the usual one on the
// disk; another one has none unless the URI names it.
func PlacesOf(l *storeuri.Location, o storeuri.Options) (Places, error) {
	p := Default()
	if l.Rest != "" {
		path, err := l.Path("a directory")
		if err != nil {
			return p, err
		}
		if !filepath.IsAbs(path) {
			return p, notAbsolute("", path)
		}
		p.Memory = filepath.Clean(path)
		if p.Memory != Dir {
			p.Disk = ""
		}
	}
	switch path := l.Take("disk"); {
	case path == noDisk:
		p.Disk = ""
	case path != "" && !filepath.IsAbs(path):
		return p, notAbsolute("disk: ", path)
	case path != "":
		p.Disk = filepath.Clean(path)
	}
	p.Identity, p.Stderr = l.Take("identity"), o.Stderr
	if p.Identity != "" && !filepath.IsAbs(p.Identity) {
		return p, notAbsolute("identity: ", p.Identity)
	}
	return p, nil
}

// noDisk is the value of the parameter disk for no directory.
const noDisk = "none"

func notAbsolute(what, path string) error {
	return fmt.Errorf("%w: of kind vm: %s%q is not an absolute path", storeuri.ErrInvalid, what, path)
}

// Open returns the store of a URI, which package keystore documents: the keys of
// the VM that the parameter uuid names, or else of the VM that o.VM returns.
func Open(l *storeuri.Location, o storeuri.Options) (secrets.Store, error) {
	places, err := PlacesOf(l, o)
	if err != nil {
		return nil, err
	}
	id := l.Take("uuid")
	if id == "" {
		vm := o.VM
		if vm == nil {
			vm = func() string { return "" }
		}
		return places.Store(vm).Owned(o.Owner), nil
	}
	parsed, err := secrets.ParseUUID(id)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind vm: uuid: %w", storeuri.ErrInvalid, err)
	}
	return places.Store(func() string { return parsed.String() }), nil
}
