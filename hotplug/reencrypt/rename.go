package reencrypt

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// switched records that the disk uses the new volume, renames the old one, and in place the new one. See the package comment for the
// order. It may be repeated from any point.
func (s Setting) switched(ctx context.Context, e Entry) (Entry, error) {
	e, err := s.Journal.Update(e.ID, PhaseSwitched)
	if err != nil {
		return e, err
	}
	if e, err = s.rename(e); err != nil {
		return e, err
	}
	after, err := e.renamed()
	if err != nil {
		return e, err
	}
	if after.Source.Payload != e.Source.Payload { // its new name keeps it from being attached by mistake, and it can be read
		if err := after.Source.complete(ctx); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return e, err
		}
	}
	if after.Target != e.Target {
		if err := s.moved(ctx, e, after); err != nil {
			return e, err
		}
	}
	if after.Target.plain() {
		if err := volume.ReleasePlain(after.Target.Payload); err != nil {
			return e, err
		}
	}
	after.Phase, after.Names = PhaseSourceKept, Names{}
	return after, s.Journal.Write(after)
}

// moved makes what refers to the new volume by its first names refer to it by its last ones: first the note on the host, by which the
// VM's disk is found under them.
func (s Setting) moved(ctx context.Context, e, after Entry) error {
	move := after
	move.Source = e.Target
	refs, err := s.refer(ctx, move)
	if err != nil {
		return err
	}
	disk, err := diskxml.ParseDisk([]byte(after.Target.XML))
	if err != nil {
		return err
	}
	if s.Engine != nil {
		r := hotplug.Renaming{Disk: disk, Kept: refs.Kept()}
		for _, f := range e.renames() {
			if !f.old {
				r.Files = append(r.Files, hotplug.RenamedFile{Opened: f.from, Path: f.to})
			}
		}
		missing := (*hotplug.NotHeldError)(nil)
		if err := s.Engine.Renamed(ctx, r); err != nil && !errors.As(err, &missing) {
			return err
		}
	}
	return refs.Move(ctx)
}

// oldSuffix ends the names of the files of an old volume.
const oldSuffix = ".old"

// choose chooses the names that the files get: the old ones so that a disk document with their names does not attach the old volume
// again, which lacks what the guest has written since, and in place the new ones those of the old ones.
func (e Entry) choose() (Names, error) {
	var out Names
	var err1, err2 error
	out.OldPayload, err1 = e.oldName(e.Source.Payload)
	out.OldHeader, err2 = e.oldName(e.Source.Header)
	if e.InPlace {
		out.NewPayload = e.Source.Payload
		if e.Source.Header != "" && e.Target.Header != "" {
			out.NewHeader = e.Source.Header
		}
	}
	return out, errors.Join(err1, err2)
}

// oldName returns the name that an old file gets, "" for what keeps its name: a block device, a link, and what was removed, unless the
// new volume gets that name.
func (e Entry) oldName(path string) (string, error) {
	if path == "" {
		return "", nil
	}
	info, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		if !e.InPlace {
			return "", nil
		}
	case err != nil:
		return "", err
	case !info.Mode().IsRegular():
		return "", nil
	}
	return freeOldName(path), nil
}

// freeOldName returns a free name for an old file.
func freeOldName(path string) string {
	name := path + oldSuffix
	for n := 2; ; n++ {
		if _, err := os.Lstat(name); errors.Is(err, fs.ErrNotExist) {
			return name
		}
		name = fmt.Sprintf("%s%s-%d", path, oldSuffix, n)
	}
}

// renaming is a file that is renamed.
type renaming struct {
	from, to string
	old      bool // it is the old volume's
}

// done reports whether the file has its new name. It is false for one that is gone.
func (r renaming) done() bool {
	_, from := os.Lstat(r.from)
	_, to := os.Lstat(r.to)
	return errors.Is(from, fs.ErrNotExist) && to == nil
}

// do renames the file, and replaces none.
func (r renaming) do() error {
	err := unix.Renameat2(unix.AT_FDCWD, r.from, unix.AT_FDCWD, r.to, unix.RENAME_NOREPLACE)
	if r.old && errors.Is(err, unix.ENOENT) {
		return nil // removed meanwhile
	}
	if err == nil {
		err = fsutil.SyncDir(nil, filepath.Dir(r.to))
	}
	if err != nil {
		return fmt.Errorf("rename %s to %s: %w", r.from, r.to, err)
	}
	return nil
}

// renames returns the renames of an entry in their order. At no time a name of the old volume leads to a part of it and another to
// a part of the new one.
func (e Entry) renames() []renaming {
	return slices.DeleteFunc([]renaming{
		{e.Source.Header, e.Names.OldHeader, true}, {e.Source.Payload, e.Names.OldPayload, true},
		{e.Target.Header, e.Names.NewHeader, false}, {e.Target.Payload, e.Names.NewPayload, false},
	}, func(r renaming) bool { return r.to == "" })
}

// rename renames the files of an entry, whose new names are in the journal first.
func (s Setting) rename(e Entry) (Entry, error) {
	if e.Names == (Names{}) {
		var err error
		if e.Names, err = e.choose(); err != nil || e.Names == (Names{}) {
			return e, err
		}
		if err := s.Journal.Write(e); err != nil {
			return e, err
		}
	}
	all := e.renames()
	// A name of the old volume may lead to the new one already, so the last rename that was done tells.
	for last := len(all) - 1; last >= 0; last-- {
		if all[last].done() {
			all = all[last+1:]
			break
		}
	}
	for _, r := range all {
		err := r.do()
		if r.old && errors.Is(err, unix.EEXIST) { // the name was taken after it was chosen
			name := &e.Names.OldPayload
			if r.from == e.Source.Header {
				name = &e.Names.OldHeader
			}
			*name = freeOldName(r.from)
			if err := s.Journal.Write(e); err != nil {
				return e, err
			}
			return s.rename(e)
		}
		if err != nil {
			return e, err
		}
	}
	return e, nil
}

// renamed returns the entry with the names that its files have after rename.
func (e Entry) renamed() (Entry, error) {
	out := e
	for _, f := range []struct {
		name *string
		to   string
	}{{&out.Source.Payload, e.Names.OldPayload}, {&out.Source.Header, e.Names.OldHeader}, {&out.Target.Payload, e.Names.NewPayload}, {&out.Target.Header, e.Names.NewHeader}} {
		if f.to != "" {
			*f.name = f.to
		}
	}
	if !e.InPlace {
		return out, nil
	}
	var err1, err2 error
	out.Source.XML, err1 = out.Source.disk(e.Source.XML, false)
	out.Target.XML, err2 = out.Target.disk(e.Target.XML, false)
	return out, errors.Join(err1, err2)
}
