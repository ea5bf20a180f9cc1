package rundir

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/secrets"
)

func TestUses(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	if uses, err := Base(filepath.Join(base, "nothing")).Uses(); len(uses) != 0 || err != nil {
		t.Errorf("no directory: %+v, %v", uses, err)
	}
	self, err := hostproc.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	write := func(id string, process hostproc.Process, n Note) {
		t.Helper()
		n.VM, n.Process = "vm-"+id, process
		if err := (VM{Base: Base(base), ID: id}).WriteNote(n); err != nil {
			t.Fatal(err)
		}
	}
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "a \"b\""}
	write("1", self, Note{Target: "vdc", Payload: "/c", Secrets: []secrets.Reference{byUsage}})
	write("1", self, Note{Target: "vdb", Payload: "/b", Header: "/h", Secrets: []secrets.Reference{byUUID}})
	write("2", hostproc.Process{}, Note{Target: "vdb", Payload: "/nobody/has/it/open"})
	// A note of an older luksplug.
	if err := os.WriteFile(filepath.Join(base, "1", "vdd.json"), []byte(`{"target":"vdd","vm":"old","payload":"/d","process":{"pid":1,"start":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []Use{
		{VM: "vm-1", Target: "vdb", Payload: "/b", Header: "/h", Secrets: []secrets.Reference{byUUID}},
		{VM: "vm-1", Target: "vdc", Payload: "/c", Secrets: []secrets.Reference{byUsage}},
	}
	if uses, err := Base(base).Uses(); err != nil || !reflect.DeepEqual(uses, want) {
		t.Errorf("%+v, %v", uses, err)
	}
}
