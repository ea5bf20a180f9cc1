package hotplug

import (
	"context"
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
	if uses, err := Uses(filepath.Join(base, "nothing")); len(uses) != 0 || err != nil {
		t.Errorf("no folder: %+v, %v", uses, err)
	}
	write := func(id string, pid int, n note) {
		t.Helper()
		vm := &VM{id: id, opts: Options{RunDir: base, Name: "vm-" + id, Files: FilesLocal, Process: func(context.Context) (*Process, error) {
			return &Process{PID: pid, User: &hostproc.Credential{}}, nil
		}}}
		if err := vm.writeNote(t.Context(), n); err != nil {
			t.Fatal(err)
		}
	}
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "a \"b\""}
	write("1", os.Getpid(), note{Target: "vdc", Payload: "/c", Secrets: []secrets.Reference{byUsage}})
	write("1", os.Getpid(), note{Target: "vdb", Payload: "/b", Header: "/h", Secrets: []secrets.Reference{byUUID}})
	write("2", 0, note{Target: "vdb", Payload: "/nobody/has/it/open"})
	// What an older luksplug has written.
	if err := os.WriteFile(filepath.Join(base, "1", "vdd.json"), []byte(`{"target":"vdd","vm":"old","payload":"/d","process":{"pid":1,"start":1}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	want := []Use{
		{VM: "vm-1", Target: "vdb", Payload: "/b", Header: "/h", Secrets: []secrets.Reference{byUUID}},
		{VM: "vm-1", Target: "vdc", Payload: "/c", Secrets: []secrets.Reference{byUsage}},
	}
	if uses, err := Uses(base); err != nil || !reflect.DeepEqual(uses, want) {
		t.Errorf("%+v, %v", uses, err)
	}
}
