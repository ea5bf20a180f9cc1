package vmkeys

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// noteName is the name of a note in the directory of a VM. No key has it.
const noteName = "vm.json"

// maxNote bounds the size of a note.
const maxNote = 64 << 10

// Note is what was last noted of a VM of which the host holds keys. A VM without a note has
// not been on this host since its keys were put.
type Note struct {
	// Domain is the name of the domain to which the keys belong. Another domain of the same
	// UUID does not get them.
	Domain string `json:"domain"`
	// Here is true from the start or arrival of the VM to its end.
	Here bool `json:"here"`
	// Defined is true if the domain was defined on this host, and not transient.
	Defined bool `json:"defined,omitempty"`
	// End is how the VM ended, in libvirt's word, "" if it is unknown or has not ended.
	End string `json:"end,omitempty"`
	// Managed is true for a VM that libvirt has saved itself, and starts with its state.
	Managed bool `json:"managed,omitempty"`
	// Time is when this was noted.
	Time time.Time `json:"time"`
}

// Note returns the note of a VM; found is false if there is none.
func (p Places) Note(vm string) (n Note, found bool, err error) {
	id, err := parse(vm)
	if err != nil {
		return n, false, err
	}
	for _, place := range p.directories() {
		one, there, err := readNote(filepath.Join(place, id))
		if err != nil {
			return Note{}, false, err
		}
		// An interrupted change leaves two.
		if there && (!found || one.Time.After(n.Time)) {
			n, found = one, true
		}
	}
	return n, found, nil
}

func readNote(path string) (n Note, found bool, err error) {
	at, err := fsutil.OpenDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err != nil {
		return n, false, err
	}
	defer fsutil.CloseRead(at)
	text, err := fsutil.ReadFile(at, noteName, maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return n, false, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &n)
	}
	if err != nil {
		return n, false, fmt.Errorf("the note %s: %w", filepath.Join(path, noteName), err)
	}
	return n, true, nil
}

// SetNote replaces the note of a VM, in those of its directories that exist.
func (p Places) SetNote(vm string, n Note) error {
	id, err := parse(vm)
	if err != nil {
		return err
	}
	text, err := json.Marshal(n)
	if err != nil {
		return err
	}
	var failed []error
	for _, place := range p.directories() {
		at, err := fsutil.OpenDir(filepath.Join(place, id))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err == nil {
			err = fsutil.Replace(at, noteName, text, fsutil.Options{Mode: 0o600, Durable: true, Temporary: ".note"})
			fsutil.CloseRead(at)
		}
		failed = append(failed, err)
	}
	if err := errors.Join(failed...); err != nil {
		return fmt.Errorf("note the VM of the keys: %w", err)
	}
	return nil
}
