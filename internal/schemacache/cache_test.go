package schemacache

import (
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/qmptest"
	"github.com/luksplug/luksplug/qmp"
)

// With an empty cache the VM's own program is started aside, and the VM is not
// queried; after that the cache alone answers.
func TestColdAndWarm(t *testing.T) {
	t.Parallel()
	v := startVM(t, qmptest.QEMUPath(t))
	var told reports
	cache := &Cache{Dir: filepath.Join(t.TempDir(), "new", "directory"), Report: told.add}
	cold, asked := schemaOf(t, v.unix, cache)
	if asked {
		t.Error("cold: the VM was queried")
	}
	info, err := os.Stat(cache.Dir)
	must.OK(t, err)
	if info.Mode().Perm() != 0o700 {
		t.Errorf("the directory has mode %v", info.Mode())
	}
	files, err := os.ReadDir(cache.Dir)
	must.OK(t, err)
	if len(files) != 1 {
		t.Fatalf("the directory has %v", files)
	}
	info, err = files[0].Info()
	must.OK(t, err)
	if info.Mode() != 0o600 {
		t.Errorf("the file has mode %v", info.Mode())
	}

	warm, asked := schemaOf(t, v.unix, cache)
	if asked {
		t.Error("warm: the VM was queried")
	}
	own, asked := schemaOf(t, v.unix, &answer{})
	if !asked {
		t.Error("without a cache the VM was not queried")
	}
	if !reflect.DeepEqual(cold, own) || !reflect.DeepEqual(warm, own) {
		t.Error("the VM's own schema differs")
	}
	told.none(t)
}

// Nothing is started if the cache has the answer, and it has it for every VM of the
// emulator's path, over TCP as well.
func TestWarmStartsNothing(t *testing.T) {
	t.Parallel()
	v := startVM(t, qmptest.QEMUPath(t))
	emulator, starts := countingEmulator(t)
	var told reports
	cache := &Cache{Dir: t.TempDir(), Emulator: emulator, Report: told.add}
	for i := range 3 {
		if _, asked := schemaOf(t, v.tcp, cache); asked || starts() != 1 {
			t.Errorf("attempt %d: asked %v, %d starts", i, asked, starts())
		}
	}
	told.none(t)

	// Another file at the same path is another emulator.
	must.OK(t, os.Rename(emulator, emulator+"-old"))
	qmptest.WriteProgram(t, emulator, strings.TrimPrefix(mustRead(t, emulator+"-old"), "#!/bin/sh\n"))
	if _, asked := schemaOf(t, v.tcp, cache); asked || starts() != 2 {
		t.Errorf("after an update: asked %v, %d starts", asked, starts())
	}
	told.none(t)
}

func mustRead(t testing.TB, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	must.OK(t, err)
	return string(text)
}

// An answer of a QEMU aside is byte for byte the VM's.
func TestAsideEqualsVM(t *testing.T) {
	t.Parallel()
	v := startVM(t, qmptest.QEMUPath(t))
	var direct answer
	if _, asked := schemaOf(t, v.unix, &direct); !asked {
		t.Error("the VM was not queried")
	}
	own, err := aside(qmptest.Context(t), qmptest.QEMUPath(t))
	must.OK(t, err)
	if own.id.Version != direct.id.Version || own.id.Target != direct.id.Target || string(own.raw) != string(direct.raw) {
		t.Errorf("aside %s %s and %d bytes, VM %s %s and %d bytes", own.id.Version, own.id.Target, len(own.raw),
			direct.id.Version, direct.id.Target, len(direct.raw))
	}
}

// If no program may be started, the VM is queried, once.
func TestVMIsAskedOnce(t *testing.T) {
	t.Parallel()
	v := startVM(t, qmptest.QEMUPath(t))
	marker := filepath.Join(t.TempDir(), "ran")
	writable := qmptest.WriteProgram(t, filepath.Join(programDir(t), "qemu-writable"), "touch "+marker)
	must.OK(t, os.Chmod(writable, 0o777))
	for name, test := range map[string]struct {
		emulator string
		want     func(error) bool
	}{
		"untrusted":     {writable, func(err error) bool { return errors.Is(err, ErrNotTrusted) }},
		"other version": {fakeEmulator(t, "9", ""), isMismatch},
		"ends at once":  {qmptest.WriteProgram(t, filepath.Join(programDir(t), "qemu-broken"), "exit 1"), func(err error) bool { return errors.Is(err, qmp.ErrNoGreeting) }},
		"missing":       {"/nonexistent/qemu", func(err error) bool { return errors.Is(err, os.ErrNotExist) }},
		"unknown":       {"", nil},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			// A VM of its own: its monitor serves one client.
			v := startVM(t, qmptest.QEMUPath(t))
			var told reports
			cache := &Cache{Dir: t.TempDir(), Emulator: test.emulator, Report: told.add}
			if _, asked := schemaOf(t, v.tcp, cache); !asked {
				t.Error("the VM was not queried")
			}
			if errs := told.all(); test.want == nil && len(errs) > 0 || test.want != nil && (len(errs) == 0 || !test.want(errs[0])) {
				t.Errorf("reported: %v", errs)
			}
			if _, asked := schemaOf(t, v.tcp, cache); asked {
				t.Error("the VM was queried again")
			}
			if _, err := os.Stat(marker); err == nil {
				t.Error("an untrusted program was run")
			}
		})
	}

	// The answer of a monitor only holds for that monitor.
	cache := &Cache{Dir: t.TempDir()}
	for range 2 {
		if _, asked := schemaOf(t, startVM(t, qmptest.QEMUPath(t)).tcp, cache); !asked {
			t.Error("one monitor's answer was taken for another's")
		}
	}
	// Without a directory the cache still works.
	if _, asked := schemaOf(t, v.unix, &Cache{}); asked {
		t.Error("without a directory the VM was queried")
	}
}

func isMismatch(err error) bool {
	var mismatch *MismatchError
	return errors.As(err, &mismatch) && strings.HasPrefix(mismatch.Found.Version, "9.") && strings.Contains(err.Error(), "the VM runs")
}

// A storage daemon has no guest to stall, and its program takes other arguments.
func TestNoTargetStartsNothing(t *testing.T) {
	t.Parallel()
	emulator, starts := countingEmulator(t)
	cache := &Cache{Dir: t.TempDir(), Emulator: emulator, Report: func(err error) { t.Error(err) }}
	if s := cache.Schema(qmptest.Context(t), qmp.SchemaID{Version: "10.0.2 (x)"}); s != nil || starts() != 0 {
		t.Errorf("%v, %d starts", s, starts())
	}
}

// Many clients that come at once all get the schema, and the file is whole at every moment.
func TestConcurrency(t *testing.T) {
	t.Parallel()
	own, err := aside(qmptest.Context(t), qmptest.QEMUPath(t))
	must.OK(t, err)
	id := qmp.SchemaID{Version: own.id.Version, Target: own.id.Target}
	dir := t.TempDir()
	var wg sync.WaitGroup
	for range 2 { // as two processes would, and in each several goroutines
		cache := &Cache{Dir: dir, Emulator: qmptest.QEMUPath(t), Report: func(err error) { t.Error(err) }}
		for range 3 {
			wg.Go(func() {
				for range 4 {
					if s := cache.Schema(qmptest.Context(t), id); !reflect.DeepEqual(s, own.schema) {
						t.Errorf("%v", s)
					}
					cache.Keep(qmptest.Context(t), id, own.raw)
				}
			})
		}
	}
	wg.Wait()
	files, err := os.ReadDir(dir)
	must.OK(t, err)
	if len(files) != 1 || !strings.HasSuffix(files[0].Name(), suffix) {
		t.Errorf("the directory has %v", files)
	}
}

// A VM that had to be queried may lie: its answer is used for its own monitor, and not for other VMs of the same
// program.
func TestAnswerOfOneVM(t *testing.T) {
	t.Parallel()
	liar, other := startVM(t, qmptest.QEMUPath(t)), startVM(t, qmptest.QEMUPath(t))
	own, err := aside(qmptest.Context(t), qmptest.QEMUPath(t))
	must.OK(t, err)
	const header = "luks.header"
	lie := []byte(strings.ReplaceAll(string(own.raw), `"name": "header"`, `"name": "hidden"`))
	if s, err := qmp.ParseSchema(lie); err != nil || s.Supports("blockdev-add", header) {
		t.Fatalf("the lie: %v, %v", s, err)
	}
	id := func(v vm) qmp.SchemaID {
		return qmp.SchemaID{Version: own.id.Version, Target: own.id.Target, PID: v.pid, Address: "unix:" + v.unix}
	}
	cache := &Cache{Dir: t.TempDir(), Report: func(err error) { t.Error(err) }}
	cache.Keep(qmptest.Context(t), id(liar), lie)
	if s := cache.Schema(qmptest.Context(t), id(liar)); s == nil || s.Supports("blockdev-add", header) {
		t.Error("the VM's own answer is not used for it")
	}
	if s := cache.Schema(qmptest.Context(t), id(other)); s == nil || !s.Supports("blockdev-add", header) {
		t.Error("one VM's answer is used for another")
	}
}

func TestEntryOf(t *testing.T) {
	t.Parallel()
	p, err := openProgram(qmptest.QEMUPath(t))
	must.OK(t, err)
	defer p.close()
	for name, test := range map[string]struct {
		id       qmp.SchemaID
		programs []*program
		want     entry
		keep     bool
	}{
		"program":            {qmp.SchemaID{Version: "1.2.3", Target: "arm", Address: "tcp:x"}, []*program{p}, entry{Version: "1.2.3", Target: "arm", Program: p.identity()}, true},
		"address":            {qmp.SchemaID{Version: "1.2.3 (d)", Target: "arm", Address: "tcp:x"}, nil, entry{Version: "1.2.3 (d)", Target: "arm", Address: "tcp:x"}, true},
		"nothing":            {qmp.SchemaID{Version: "1.2.3 (d)", Target: "arm"}, nil, entry{Version: "1.2.3 (d)", Target: "arm"}, false},
		"address, home-made": {qmp.SchemaID{Version: "1.2.3", Target: "arm", Address: "tcp:x"}, nil, entry{Version: "1.2.3", Target: "arm", Address: "tcp:x"}, false},
	} {
		if e, keep := entryOf(test.id, test.programs); e != test.want || keep != test.keep {
			t.Errorf("%s: %+v, %v", name, e, keep)
		}
	}
}

func TestDefaultDir(t *testing.T) {
	t.Parallel()
	dir, err := DefaultDir()
	must.OK(t, err)
	if !filepath.IsAbs(dir) || filepath.Base(filepath.Dir(dir)) != "luksplug" || (os.Geteuid() == 0) != strings.HasPrefix(dir, "/var/cache/") {
		t.Error(dir)
	}
}
