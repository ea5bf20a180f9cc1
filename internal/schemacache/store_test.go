package schemacache

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

// smallSchema knows one command.
func smallSchema(command string) []byte {
	return fmt.Appendf(nil, `[{"name":%q,"meta-type":"command","arg-type":"0"},{"name":"0","meta-type":"object"}]`, command)
}

var testID = qmp.SchemaID{Version: "1.2.3 (test)", Address: "tcp:localhost:1"}

// A file that is damaged, or that others could have planted, is not read, and is replaced by a good one.
func TestBadFiles(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	for name, test := range map[string]struct {
		spoil func(t *testing.T, dir, file string)
		want  error
	}{
		"empty":     {func(t *testing.T, _, file string) { must.OK(t, os.Truncate(file, 0)) }, ErrDamaged},
		"truncated": {func(t *testing.T, _, file string) { must.OK(t, os.Truncate(file, 150)) }, ErrDamaged},
		"flipped": {func(t *testing.T, _, file string) {
			rewrite(t, file, func(text string) string { return strings.Replace(text, "planted", "plantex", 1) })
		}, ErrDamaged},
		"no schema": {func(t *testing.T, _, file string) {
			e, _ := entryOf(testID, nil)
			line, err := json.Marshal(header{formatNumber, e, checksum([]byte("{}"))})
			must.OK(t, err)
			must.OK(t, os.WriteFile(file, append(line, "\n{}"...), 0o600))
		}, ErrDamaged},
		"another's": {func(t *testing.T, _, file string) {
			rewrite(t, file, func(text string) string { return strings.Replace(text, "1.2.3", "1.2.4", 1) })
		}, ErrDamaged},
		"huge":         {func(t *testing.T, _, file string) { must.OK(t, os.Truncate(file, fileLimit+1)) }, ErrDamaged},
		"group writes": {func(t *testing.T, _, file string) { must.OK(t, os.Chmod(file, 0o620)) }, ErrNotTrusted},
		"others write": {func(t *testing.T, _, file string) { must.OK(t, os.Chmod(file, 0o602)) }, ErrNotTrusted},
		"foreign":      {func(t *testing.T, _, file string) { chown(t, file, nobody) }, ErrNotTrusted},
		"link": {func(t *testing.T, dir, file string) {
			replace(t, file, func() error { return os.Symlink(file+"-old", file) })
		}, nil}, // os.Root refuses it: it leads out of the directory
		"pipe":              {func(t *testing.T, _, file string) { replace(t, file, func() error { return unix.Mkfifo(file, 0o600) }) }, ErrDamaged},
		"foreign directory": {func(t *testing.T, dir, _ string) { chown(t, dir, nobody) }, ErrNotTrusted},
		"open directory":    {func(t *testing.T, dir, _ string) { must.OK(t, os.Chmod(dir, 0o777)) }, ErrNotTrusted},
		"linked directory": {func(t *testing.T, dir, _ string) {
			replace(t, dir, func() error { return os.Symlink(dir+"-old", dir) })
		}, ErrNotTrusted},
		"sticky directory": {func(t *testing.T, dir, _ string) { must.OK(t, os.Chmod(dir, 0o777|os.ModeSticky)) }, ErrNotTrusted},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			var told reports
			cache := &Cache{Dir: filepath.Join(t.TempDir(), "cache"), Report: told.add}
			cache.Keep(qmptest.Context(t), testID, smallSchema("planted"))
			if s := cache.Schema(qmptest.Context(t), testID); s == nil || !s.Supports("planted", "") {
				t.Fatal("a good file is not read")
			}
			e, _ := entryOf(testID, nil)
			file := filepath.Join(cache.Dir, e.name())
			test.spoil(t, cache.Dir, file)
			if s := cache.Schema(qmptest.Context(t), testID); s != nil {
				t.Fatal("the file was read")
			}
			if errs := told.all(); len(errs) != 1 || test.want != nil && !errors.Is(errs[0], test.want) {
				t.Fatalf("reported: %v", errs)
			}
			cache.Keep(qmptest.Context(t), testID, smallSchema("good"))
			s := cache.Schema(qmptest.Context(t), testID)
			if strings.Contains(name, "directory") {
				if s != nil || len(told.all()) != 3 {
					t.Errorf("the directory is used; reported: %v", told.all())
				}
				return
			}
			if s == nil || !s.Supports("good", "") || s.Supports("planted", "") {
				t.Error("the file was not written anew")
			}
			if info, err := os.Lstat(file); err != nil || info.Mode() != 0o600 {
				t.Errorf("%v, %v", info.Mode(), err)
			}
		})
	}
}

func rewrite(t *testing.T, file string, change func(string) string) {
	t.Helper()
	before := mustRead(t, file)
	after := change(before)
	if before == after {
		t.Fatal("nothing was changed")
	}
	must.OK(t, os.WriteFile(file, []byte(after), 0o600))
}

func replace(t *testing.T, file string, create func() error) {
	t.Helper()
	must.OK(t, os.Rename(file, file+"-old"))
	must.OK(t, create())
}

func chown(t *testing.T, path string, uid int) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give a file away")
	}
	must.OK(t, os.Chown(path, uid, uid))
}

// A failed write is reported, and has no other effect.
func TestUnwritable(t *testing.T) {
	t.Parallel()
	file := filepath.Join(t.TempDir(), "file")
	must.OK(t, os.WriteFile(file, nil, 0o600))
	for name, test := range map[string]struct {
		dir  string
		raw  []byte
		want error
	}{
		"directory is a file": {file, smallSchema("x"), ErrNotTrusted},
		"not a schema":        {t.TempDir(), []byte("["), qmp.ErrProtocol},
	} {
		var told reports
		(&Cache{Dir: test.dir, Report: told.add}).Keep(qmptest.Context(t), testID, test.raw)
		if errs := told.all(); len(errs) != 1 || !errors.Is(errs[0], test.want) {
			t.Errorf("%s: reported %v", name, errs)
		}
		(&Cache{Dir: test.dir}).Keep(qmptest.Context(t), testID, test.raw) // without Report
	}
}

// The oldest files, and those of killed writers, are removed in time.
func TestPrune(t *testing.T) {
	t.Parallel()
	cache := &Cache{Dir: t.TempDir(), Report: func(err error) { t.Error(err) }}
	old := func(name string, age time.Duration) {
		path := filepath.Join(cache.Dir, name)
		must.OK(t, os.WriteFile(path, nil, 0o600))
		at := time.Now().Add(-age)
		must.OK(t, os.Chtimes(path, at, at))
	}
	for i := range filesLimit + 3 {
		old(fmt.Sprint(i, suffix), time.Duration(i+1)*time.Hour)
	}
	old(tempStart+"crashed", 2*time.Hour)
	old(tempStart+"at-work", time.Minute)
	old("README", 1000*time.Hour)
	cache.Keep(qmptest.Context(t), testID, smallSchema("x"))
	files, err := os.ReadDir(cache.Dir)
	must.OK(t, err)
	left := make(map[string]bool)
	for _, f := range files {
		left[f.Name()] = true
	}
	last := fmt.Sprint(filesLimit-2, suffix)
	next := fmt.Sprint(filesLimit-1, suffix)
	if len(left) != filesLimit+2 || !left[last] || left[next] || left[tempStart+"crashed"] || !left[tempStart+"at-work"] || !left["README"] {
		t.Errorf("left are %v", files)
	}
	if s := cache.Schema(qmptest.Context(t), testID); s == nil {
		t.Error("the new file is gone")
	}
}
