package rundir

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// arrivalFile holds where a VM comes from that is about to start.
const arrivalFile = "arrival"

// Arrive stores where the VM comes from, for the runs that prepare its start.
func (v VM) Arrive(from string) error {
	if err := v.Make(); err != nil {
		return err
	}
	if err := fsutil.Replace(nil, filepath.Join(v.Path(), arrivalFile), []byte(from), fsutil.Options{Mode: 0o600}); err != nil {
		return fmt.Errorf("store where the VM comes from: %w", err)
	}
	return nil
}

// Arrival returns what [VM.Arrive] has stored since [VM.Gone]; "" for nothing.
func (v VM) Arrival() (string, error) {
	text, err := fsutil.ReadFile(nil, filepath.Join(v.Path(), arrivalFile), maxNote)
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("read where the VM comes from: %w", err)
	}
	return string(text), nil
}

// Arrived removes what [VM.Arrive] has stored.
func (v VM) Arrived() error {
	if err := os.Remove(filepath.Join(v.Path(), arrivalFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove where the VM comes from: %w", err)
	}
	_ = os.Remove(v.Path()) // refused while it has other files
	return nil
}
