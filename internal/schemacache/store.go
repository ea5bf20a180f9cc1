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
	"time"

	"golang.org/x/sys/unix"

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
// that two versions of luksplug do not overwrite each other's files.
const formatNumber = 2 // 1 had no features of objects

// name is the name of the entry's file.
func (e entry) name() string {
	// %q, so that no two entries give the same text.
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %q %q %q %q", formatNumber, e.Version, e.Target, e.Program, e.Address))
	return hex.EncodeToString(sum[:16]) + suffix
}

// load reads a schema. The error wraps os.ErrNotExist if there is none.
func (c *Cache) load(e entry) (*qmp.Schema, error) {
	dir, err := c.open()
	if err != nil {
		return nil, err
	}
	defer func() { _ = dir.Close() }() // nothing was written
	path := filepath.Join(c.Dir, e.name())
	f, err := fsutil.OpenRegular(dir, e.name())
	if errors.Is(err, fsutil.ErrNotRegular) {
		return nil, fmt.Errorf("%s: %w: %w", path, ErrDamaged, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // as above
	if err := trustedFile(f); err != nil {
		return nil, fmt.Errorf("%s is %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, fileLimit+1))
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
	if len(text) > fileLimit {
		return nil, fmt.Errorf("%w: it has more than %d bytes", ErrDamaged, fileLimit)
	}
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

// store writes an answer of query-qmp-schema, in place of any earlier one.
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
	if err := fsutil.MakeDir(c.Dir, 0o700); err != nil {
		return untrusted(err)
	}
	dir, err := c.open()
	if err != nil {
		return err
	}
	defer func() { _ = dir.Close() }() // nothing is written to it
	// A cache need not survive the loss of power, and its checksum detects it: hence not durable.
	if err := fsutil.Replace(dir, e.name(), text, fsutil.Options{Mode: 0o600, Temporary: tempStart + rand.Text()}); err != nil {
		return err
	}
	c.prune(dir)
	return nil
}

// open opens the directory, if only this user and root can write it.
func (c *Cache) open() (*os.File, error) {
	if c.Dir == "" {
		return nil, os.ErrNotExist
	}
	dir, err := fsutil.OpenDir(c.Dir)
	return dir, untrusted(err)
}

// untrusted has an error of package fsutil wrap ErrNotTrusted where it is one.
func untrusted(err error) error {
	if errors.Is(err, fsutil.ErrUntrusted) {
		return fmt.Errorf("%w: directory %w", ErrNotTrusted, err)
	}
	return err
}

func trustedFile(f *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return fmt.Errorf("%w: its owner is unknown: %w", ErrNotTrusted, err)
	}
	return trusted(stat.Uid, stat.Mode)
}

// prune removes the oldest files beyond filesLimit, and those that killed writers left behind. Failures leave
// files that do no harm.
func (c *Cache) prune(dir *os.File) {
	infos, _ := dir.Readdir(-1)
	slices.SortFunc(infos, func(a, b os.FileInfo) int { return b.ModTime().Compare(a.ModTime()) })
	kept := 0
	for _, info := range infos {
		old := strings.HasPrefix(info.Name(), tempStart) && time.Since(info.ModTime()) > time.Hour
		if strings.HasSuffix(info.Name(), suffix) {
			kept++
			old = kept > filesLimit
		}
		if old {
			_ = unix.Unlinkat(int(dir.Fd()), info.Name(), 0)
		}
	}
}
