package main

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// volumeDirs are luksplug's own directories for volumes, beside that of the default key store, with their modes: QEMU's user
// passes through the one for images. Only these are made if they are missing, as a misspelled path is an error.
func (a *app) volumeDirs() (map[string]fs.FileMode, error) {
	c, _, err := readConfig(a.flags.config)
	if err != nil {
		return nil, err
	}
	state := c.State
	if state == "" {
		if state, err = stateDir(os.Geteuid(), os.Getenv); err != nil {
			return nil, nil //nolint:nilerr // a user without such a place has no directories of luksplug's
		}
	}
	base := filepath.Dir(state)
	return map[string]fs.FileMode{filepath.Join(base, "images"): 0o711, filepath.Join(base, "headers"): 0o700}, nil
}

// makeVolumeDirs makes the missing ones of luksplug's own directories in which the paths are. undo removes those that it has
// made, if they are empty.
func (a *app) makeVolumeDirs(paths ...string) (undo func(), err error) {
	var made []string
	undo = func() {
		for _, dir := range made {
			_ = os.Remove(dir) // fails if there is something in it, which is right
		}
	}
	own, err := a.volumeDirs()
	if err != nil {
		return undo, err
	}
	for _, path := range paths {
		dir := filepath.Dir(path)
		mode, ok := own[dir]
		if !ok || path == "" {
			continue
		}
		if _, err := os.Lstat(dir); !errors.Is(err, fs.ErrNotExist) {
			continue // whatever is wrong with it is the creation's error
		}
		if err := fsutil.MakeDir(dir, mode); err != nil {
			undo()
			return undo, err
		}
		made = append(made, dir)
	}
	return undo, nil
}
