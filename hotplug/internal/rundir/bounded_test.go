package rundir

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
)

// TestForeignFilesDoNotBlock: a pipe, a device or an endless file in place of a note or a
// lock file is neither waited for nor read to its end.
func TestForeignFilesDoNotBlock(t *testing.T) {
	t.Parallel()
	v := VM{Base: Base(t.TempDir()), ID: "vm"}
	must.OK(t, v.Make())
	at := func(name string) string { return filepath.Join(v.Path(), name) }
	must.OK(t, unix.Mkfifo(at("vda.json"), 0o600), os.Symlink("/dev/zero", at("vdb.json")), unix.Mkfifo(at(arrivalFile), 0o600), unix.Mkfifo(at("pipe"), 0o600),
		os.WriteFile(at("vdc.json"), nil, 0o600), os.Truncate(at("vdc.json"), 1<<40))
	if notes := v.Notes(); len(notes) > 0 {
		t.Errorf("notes: %v", notes)
	}
	if from, err := v.Arrival(); err == nil {
		t.Errorf("arrived from %q", from)
	}
	if pid := holder(at("pipe")); pid != 0 {
		t.Errorf("the lock's holder is %d", pid)
	}
}
