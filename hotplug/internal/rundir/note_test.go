package rundir

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// TestNotes: a note is valid for as long as its disk is attached.
func TestNotes(t *testing.T) {
	t.Parallel()
	base := t.TempDir()
	header := filepath.Join(base, "header")
	if err := os.WriteFile(header, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	us, err := hostproc.ProcessOf(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	vm := VM{Base: Base(base), ID: "this", Process: us}
	write := func(id string, p hostproc.Process) {
		t.Helper()
		other := VM{Base: Base(base), ID: id}
		if err := other.WriteNote(Note{Target: "vdb", VM: id, Payload: "/" + id, Header: header, UUID: "u-" + id, Process: p}); err != nil {
			t.Fatal(err)
		}
	}
	write("this", us)
	if n, err := vm.HeaderUser(header, "u-this", ""); n != nil || err != nil {
		t.Errorf("its own note: %+v, %v", n, err)
	}
	write("that", us)
	for _, c := range []struct{ header, uuid string }{{header, ""}, {header, "another"}, {"/nowhere", "u-that"}} {
		if n, err := vm.HeaderUser(c.header, c.uuid, ""); err != nil || n == nil || n.VM != "that" || n.Target != "vdb" {
			t.Errorf("%+v: %+v, %v", c, n, err)
		}
	}
	if n, err := vm.HeaderUser(header, "u-that", "/this"); err != nil || n == nil || n.VM != "that" {
		t.Errorf("another payload: %+v, %v", n, err)
	}
	if n, err := vm.HeaderUser(header, "u-that", "/that"); n != nil || err != nil {
		t.Errorf("the same payload: %+v, %v", n, err)
	}
	if n, err := vm.HeaderUser("/nowhere", "", ""); n != nil || err != nil {
		t.Errorf("another header: %+v, %v", n, err)
	}
	// The same number, another process: the VM has ended.
	path := filepath.Join(base, "that", "vdb.json")
	text := []byte(`{"target":"vdb","header":"` + header + `","process":{"pid":` + strconv.Itoa(us.PID) + `,"start":1}}`)
	if err := os.WriteFile(path, text, 0o600); err != nil {
		t.Fatal(err)
	}
	if n, err := vm.HeaderUser(header, "", ""); n != nil || err != nil {
		t.Errorf("of a VM that is gone: %+v, %v", n, err)
	}
	if _, err := os.Stat(filepath.Dir(path)); err == nil {
		t.Error("the note of a VM that is gone is still there")
	}
	if err := vm.Disk("vdb").Forget(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(base); err != nil || len(left) != 1 {
		t.Errorf("left but for the header: %v, %v", left, err)
	}
}
