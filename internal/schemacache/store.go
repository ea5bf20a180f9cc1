package schemacache

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/qmp"
)

// A file of the cache is one line of JSON, its header, and then the schema in
// the form that qmp.CompactSchema gives it.
const (
	suffix    = ".schema"
	tempStart = ".new-"
	// fileLimit bounds what is read and written. QEMU 10 takes 120 kB.
	fileLimit = 4 << 20
	// filesLimit is how many schemas are kept: one for each QEMU update.
	filesLimit = 32
)

// ErrDamaged: a file of the cache is not what was written.
var ErrDamaged = errors.New("damaged cache file")

// header is a file's first line.
type header struct {
	Format int `json:"format"`
	entry
	SHA256 string `json:"sha256"` // of the rest of the file
}

// formatNumber changes when the meaning of the files does; part of the name, so
// that two versions of luksplug do not overwrite each other's files in turns.
const formatNumber = 2 // 1 had no features of objects

// name is the name of the entry's file.
func (e entry) name() string {
	// %q, so that no two entries give the same text.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %q %q %q %q", formatNumber, e.Version, e.Target, e.Program, e.Address))
	return hex.EncodeToString(sum[:16]) + suffix
}

// load reads a schema. The error wraps os.ErrNotExist if there is none.
func (c *Cache) load(e entry) (*qmp.Schema, error) {
	root, err := c.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = root.Close() }() // nothing was written
	path := filepath.Join(c.Dir, e.name())
	// O_NONBLOCK, so that a pipe in place of the file does not stop us.
	f, err := root.OpenFile(e.name(), os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // as above
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if err := trustedInfo(info); err != nil {
		return nil, fmt.Errorf("%s is %w", path, err)
	}
	if !info.Mode().IsRegular() || info.Size() > fileLimit {
		return nil, fmt.Errorf("%s: %w: it is no regular file of a schema's size", path, ErrDamaged)
	}
	text, err := io.ReadAll(io.LimitReader(f, fileLimit))
	if err != nil {
		return nil, err
	}
	schema, err := decode(e, text)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	return schema, nil
}

// decode reads a file's text.
func decode(e entry, text []byte) (*qmp.Schema, error) {
	line, body, found := bytes.Cut(text, []byte("\n"))
	var h header
	if err := json.Unmarshal(line, &h); err != nil || !found {
		return nil, fmt.Errorf("%w: no header", ErrDamaged)
	}
	if want := (header{formatNumber, e, checksum(body)}); h != want {
		return nil, fmt.Errorf("%w: its header or checksum is another's", ErrDamaged)
	}
	schema, err := qmp.ParseSchema(body)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	return schema, nil
}

func checksum(body []byte) string {
	sum := sha256.Sum256(body)
	return hex.EncodeToString(sum[:])
}

// store files an answer of query-qmp-schema, in place of any that is there.
func (c *Cache) store(e entry, raw []byte) error {
	body, err := qmp.CompactSchema(raw)
	if err != nil {
		return err
	}
	line, err := json.Marshal(header{formatNumber, e, checksum(body)})
	if err != nil {
		return err
	}
	text := append(append(line, '\n'), body...)
	if len(text) > fileLimit {
		return fmt.Errorf("the schema has %d bytes, more than %d are not kept", len(text), fileLimit)
	}
	if c.Dir == "" {
		return nil
	}
	if err := os.MkdirAll(c.Dir, 0o700); err != nil {
		return err
	}
	root, err := c.open()
	if err != nil {
		return err
	}
	defer func() { _ = root.Close() }() // each file has been closed with its own error
	if err := write(root, e.name(), text); err != nil {
		return err
	}
	prune(root)
	return nil
}

// write puts text under name, whole or not at all. A cache need not survive the
// loss of power, and its checksum detects it: hence no sync.
func write(root *os.Root, name string, text []byte) error {
	dir, err := root.Open(".")
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // nothing is written to it
	return fsutil.Replace(dir, name, text, fsutil.Options{Mode: 0o600, Temporary: tempStart + rand.Text()})
}

// open opens the directory, if it is one that only we and root can write.
func (c *Cache) open() (*os.Root, error) {
	if c.Dir == "" {
		return nil, os.ErrNotExist
	}
	root, err := os.OpenRoot(c.Dir)
	if err != nil {
		return nil, err
	}
	info, err := root.Stat(".")
	if err == nil {
		if err = trustedInfo(info); err != nil {
			err = fmt.Errorf("the directory %s is %w", c.Dir, err)
		}
	}
	if err != nil {
		_ = root.Close() // the first error counts
		return nil, err
	}
	return root, nil
}

func trustedInfo(info os.FileInfo) error {
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fmt.Errorf("%w: its owner is unknown", ErrNotTrusted)
	}
	return trusted(stat.Uid, stat.Mode)
}

// prune removes the oldest files beyond filesLimit, and what writers that were
// killed left behind. Failures leave files that do no harm.
func prune(root *os.Root) {
	dir, err := root.Open(".")
	if err != nil {
		return
	}
	defer func() { _ = dir.Close() }() // nothing was written
	infos, err := dir.Readdir(-1)
	if err != nil {
		return
	}
	var kept []os.FileInfo
	for _, info := range infos {
		switch {
		case strings.HasSuffix(info.Name(), suffix):
			kept = append(kept, info)
		case strings.HasPrefix(info.Name(), tempStart) && time.Since(info.ModTime()) > time.Hour:
			_ = root.Remove(info.Name())
		}
	}
	if len(kept) <= filesLimit {
		return
	}
	slices.SortFunc(kept, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	for _, info := range kept[filesLimit:] {
		_ = root.Remove(info.Name())
	}
}
