package unlock

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets/luks"
)

// sealed returns what use yields as a file that exists only in memory and is sealed
// against changes (memfd_create(2), F_ADD_SEALS in fcntl(2)). It is open for reading and
// writing, because QEMU needs a descriptor with the mode of the node.
func sealed(name, what string, use func(func([]byte) error) error) (*os.File, error) {
	f, err := fsutil.MemoryFile(name, func(f *os.File) error {
		if err := use(func(content []byte) error {
			_, err := f.Write(content)
			return err
		}); err != nil {
			return err
		}
		return fsutil.Seal(f)
	})
	if err != nil {
		return nil, fmt.Errorf("hand over %s: %w", what, err)
	}
	return f, nil
}

// writeHeader writes an ephemeral header to a file for a QEMU that cannot get a descriptor.
// It must be in memory: a volume key may not be written to a disk, not even in this form.
func writeHeader(path string, user hostproc.Credential, h *luks.EphemeralHeader) error {
	return handOverFile(path, user, "the ephemeral header", h.Use)
}

// handOverFile writes a secret to a new file that only user can read. The directory must
// be in memory (tmpfs). After a failure the file does not exist.
func handOverFile(path string, user hostproc.Credential, what string, use func(func([]byte) error) error) error {
	if err := rundir.InMemory(filepath.Dir(path)); err != nil {
		return err
	}
	_ = os.Remove(path) // a leftover of an interrupted run; the next line reports a failure
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return fmt.Errorf("hand over %s: %w", what, err)
	}
	err = use(func(value []byte) error {
		_, err := f.Write(value)
		return err
	})
	if uid := int(user.UID); err == nil && uid != os.Geteuid() {
		err = f.Chown(uid, int(user.GID))
	}
	if err = errors.Join(err, f.Close()); err != nil {
		_ = os.Remove(path) // report the first error
		return fmt.Errorf("hand over %s: %w", what, err)
	}
	return nil
}

// HandOver writes the ephemeral headers and the guard's image of a plan that are handed over as files. remove
// removes the files, and may be called more than once.
func (v *Values) HandOver(graph *blockgraph.Graph, user hostproc.Credential) (remove func(), err error) {
	var paths []string
	remove = func() {
		for _, path := range paths {
			if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
				continue // the clean-up of the directory tries again
			}
		}
	}
	if g := graph.Guard; g != nil && g.File != "" {
		paths = append(paths, g.File)
		image := func(write func([]byte) error) error { return write(g.Image) }
		if err := handOverFile(g.File, user, "the image of node "+g.Node, image); err != nil {
			remove()
			return remove, err
		}
	}
	for _, h := range graph.Headers {
		if h.File == "" {
			continue
		}
		header, ok := v.headers[h.Node]
		if !ok {
			remove()
			return remove, fmt.Errorf("the plan needs an ephemeral header for node %s, which was not resolved", h.Node)
		}
		paths = append(paths, h.File)
		if err := writeHeader(h.File, user, header); err != nil {
			remove()
			return remove, err
		}
	}
	return remove, nil
}
