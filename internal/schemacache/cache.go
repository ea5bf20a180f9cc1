package schemacache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
)

// Cache provides the schemas of QEMUs, from a directory of earlier answers or from the same program
// started aside. Its methods may be called from any number of goroutines, and its directory may be used
// by any number of processes.
type Cache struct {
	// Dir is the directory, see DefaultDir. It is created with access for its owner only, when there is
	// something to keep. Empty: nothing is kept.
	Dir string
	// Emulator is the path of the program, libvirt's <emulator>, for a QEMU whose process is unknown or
	// whose program cannot be run. Empty: unknown.
	Emulator string
	// Report is called with the failures of the cache, in the goroutine that requests a schema. Nil: they
	// are dropped.
	Report func(error)
}

// DefaultDir is the directory that a user's programs share: /var/cache/luksplug/schema
// for root, and luksplug/schema in os.UserCacheDir otherwise.
func DefaultDir() (string, error) {
	if os.Geteuid() == 0 {
		return "/var/cache/luksplug/schema", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find a directory to keep QEMU's schemas in: %w", err)
	}
	return filepath.Join(dir, "luksplug", "schema"), nil
}

// Schema implements qmp.SchemaSource. It returns after 10 s at the latest.
func (c *Cache) Schema(ctx context.Context, id qmp.SchemaID) *qmp.Schema {
	programs := c.programs(id)
	defer closePrograms(programs)
	entry, keep := entryOf(id, programs)
	if schema := c.loaded(entry, keep); schema != nil {
		return schema
	}
	if own, keep := ofMonitor(entry, id); own != entry {
		if schema := c.loaded(own, keep); schema != nil {
			return schema
		}
	}
	if id.Target == "" {
		return nil // a qemu-storage-daemon has no guest to stall
	}
	ctx, cancel := ending.After(ctx, asideLimit)
	defer cancel()
	for i, p := range programs {
		if i > 0 && !packaged(id.Version) {
			break // programs of one version that were built by hand may differ
		}
		found, err := p.aside(ctx)
		if err == nil && (found.id.Version != id.Version || found.id.Target != id.Target) {
			err = &MismatchError{Program: p.path, VM: id, Found: found.id}
		}
		if err != nil {
			c.report("query the schema of another QEMU", err)
			continue
		}
		if keep {
			c.report("keep QEMU's schema", c.store(entry, found.raw))
		}
		return found.schema
	}
	return nil
}

// loaded returns the schema of an entry, nil if there is none that can be read.
func (c *Cache) loaded(entry entry, keep bool) *qmp.Schema {
	if !keep {
		return nil
	}
	schema, err := c.load(entry)
	if err == nil {
		return schema
	}
	if !errors.Is(err, os.ErrNotExist) {
		c.report("read QEMU's schema from the cache", err)
	}
	return nil
}

// Keep implements qmp.SchemaSource. The VM's own answer is used for its monitor alone: a VM must not determine what
// others of the same program are taken to support.
func (c *Cache) Keep(_ context.Context, id qmp.SchemaID, raw []byte) {
	programs := c.programs(id)
	defer closePrograms(programs)
	entry, _ := entryOf(id, programs)
	if entry, keep := ofMonitor(entry, id); keep {
		c.report("keep QEMU's schema", c.store(entry, raw))
	}
}

// ofMonitor returns the key of an answer that a VM gave itself, and reports whether it distinguishes the answer from any
// other.
func ofMonitor(e entry, id qmp.SchemaID) (entry, bool) {
	e.Address = id.Address
	return e, e.Address != "" && (e.Program != "" || packaged(id.Version))
}

// report passes err to Report unless it is nil.
func (c *Cache) report(doing string, err error) {
	if err != nil && c.Report != nil {
		c.Report(fmt.Errorf("%s: %w", doing, err))
	}
}

// programs opens the files that the QEMU may have been started from, the likeliest first.
func (c *Cache) programs(id qmp.SchemaID) []*program {
	var found []*program
	if id.PID != 0 {
		// It may be another user's process, whose program is not readable, or the manager that made the
		// socket.
		if p, err := openProcess(id.PID); err == nil {
			found = append(found, p)
		}
	}
	if c.Emulator != "" {
		p, err := openProgram(c.Emulator)
		if err != nil {
			c.report("examine the emulator", err)
		} else {
			found = append(found, p)
		}
	}
	return found
}

func closePrograms(programs []*program) {
	for _, p := range programs {
		p.close()
	}
}

// entry is the key of an answer.
type entry struct {
	Version string `json:"version"`
	Target  string `json:"target"`
	Program string `json:"program"` // identity of its file; empty: unknown
	Address string `json:"address"` // of the monitor whose VM gave the answer; empty for an answer of the program started aside
}

// entryOf returns the key of the QEMU's answer, and reports whether it distinguishes the answer from any
// other.
func entryOf(id qmp.SchemaID, programs []*program) (entry, bool) {
	e := entry{Version: id.Version, Target: id.Target}
	if len(programs) > 0 {
		e.Program = programs[0].identity()
		return e, true
	}
	// A peer at that address can claim to be any QEMU: its answer is used for that address alone.
	e.Address = id.Address
	return e, packaged(id.Version) && e.Address != ""
}

// packaged reports whether a version names a distributor's package, which distinguishes builds.
func packaged(version string) bool { return strings.Contains(version, "(") }

// MismatchError reports that the program on disk is not the one that the VM was started from: an update
// has replaced it since.
type MismatchError struct {
	Program   string
	VM, Found qmp.SchemaID
}

// Error names the program and both versions.
func (e *MismatchError) Error() string {
	return fmt.Sprintf("%s is QEMU %s for %s, the VM runs %s for %s", e.Program, e.Found.Version, e.Found.Target, e.VM.Version, e.VM.Target)
}
