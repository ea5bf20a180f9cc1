package reencrypt_test

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// entry returns an entry with a value in every field.
func entry() reencrypt.Entry {
	id := uuid.NewString()
	return reencrypt.Entry{
		ID: id, Begin: time.Date(2026, 6, 10, 1, 2, 3, 0, time.UTC), Phase: reencrypt.PhasePreparing,
		VM: reencrypt.VM{Name: "vm1", UUID: uuid.NewString(), Connect: "qemu:///system", Monitor: "/run/vm1.sock"}, Disk: "vdb",
		Source: reencrypt.Volume{
			Payload: "/img/ä b.img", Format: blockgraph.FormatRaw, UUID: uuid.NewString(), Secret: secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()},
			KeyStore: "age:/var/lib/luksplug/secrets", XML: "<disk type='file'>\n  <source file='/img/&amp;'/>\n</disk>",
		},
		Target: reencrypt.Volume{
			Payload: "/img/new.qcow2", Header: "/hdr/new", Format: blockgraph.FormatQcow2, UUID: id,
			Secret: secrets.Reference{Type: secrets.Passphrase, Usage: "/img/new.qcow2"}, KeyStore: "dir:/k", XML: "<disk/>",
		},
		InPlace: true, Speed: 10 << 20,
	}
}

func journal(t testing.TB) reencrypt.Journal {
	t.Helper()
	return reencrypt.Journal{Dir: filepath.Join(t.TempDir(), "state", "reencrypt")}
}

// TestJournal: an entry is read as it was written, by another process of the user as well, and only by that user.
func TestJournal(t *testing.T) {
	t.Parallel()
	j := journal(t)
	if all, err := j.List(); err != nil || len(all) != 0 {
		t.Fatalf("without a directory: %v, %v", all, err)
	}
	e := entry()
	if _, err := j.Read(e.ID); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
	must.OK(t, j.Remove(e.ID), j.Write(e))
	if got, err := j.Read(e.ID); err != nil || !reflect.DeepEqual(got, e) {
		t.Errorf("got %+v, %v\nwant %+v", got, err, e)
	}
	path := filepath.Join(j.Dir, e.ID+".json")
	for path, mode := range map[string]fs.FileMode{path: 0o600, j.Dir: fs.ModeDir | 0o700} {
		if info := must.Get(os.Lstat(path))(t); info.Mode() != mode {
			t.Errorf("%s has mode %s", path, info.Mode())
		}
	}
	idle := entry() // of a plain volume that no VM uses, to a plain one
	idle.VM, idle.Disk, idle.Begin = reencrypt.VM{}, "", e.Begin.Add(-time.Hour)
	idle.Source = reencrypt.Volume{Payload: "/a", Format: blockgraph.FormatRaw}
	idle.Target = reencrypt.Volume{XML: "<disk type='network'/>", Format: blockgraph.FormatRaw}
	must.OK(t, j.Write(idle))
	if all, err := j.List(); err != nil || !reflect.DeepEqual(all, []reencrypt.Entry{idle, e}) {
		t.Errorf("listed: %+v, %v", all, err)
	}
	must.OK(t, j.Remove(idle.ID), j.Remove(idle.ID))
	if all, err := j.List(); err != nil || len(all) != 1 {
		t.Errorf("after one was removed: %+v, %v", all, err)
	}
}

// TestJournalPhase: a phase is stored, and never goes back from a source that is out of date.
func TestJournalPhase(t *testing.T) {
	t.Parallel()
	j, e := journal(t), entry()
	must.OK(t, j.Write(e))
	for _, p := range []reencrypt.Phase{reencrypt.PhaseCopying, reencrypt.PhaseSwitching, reencrypt.PhaseCopying, reencrypt.PhaseSwitching, reencrypt.PhaseSwitched, reencrypt.PhaseSwitched} {
		got, err := j.Update(e.ID, p)
		e.Phase = p
		if read := must.Get(j.Read(e.ID))(t); err != nil || !reflect.DeepEqual(got, e) || !reflect.DeepEqual(read, e) {
			t.Fatalf("%s: %v: %+v, %+v", p, err, got, read)
		}
	}
	for _, p := range []reencrypt.Phase{reencrypt.PhasePreparing, reencrypt.PhaseCopying, reencrypt.PhaseSwitching} {
		if _, err := j.Update(e.ID, p); !errors.Is(err, reencrypt.ErrPhase) {
			t.Errorf("%s after the switch: %v", p, err)
		}
	}
	must.Get(j.Update(e.ID, reencrypt.PhaseSourceKept))(t)
	if _, err := j.Update(e.ID, reencrypt.PhaseSwitched); !errors.Is(err, reencrypt.ErrPhase) {
		t.Errorf("back from the end: %v", err)
	}
	if got := must.Get(j.Read(e.ID))(t); got.Phase != reencrypt.PhaseSourceKept {
		t.Errorf("%s", got.Phase)
	}
	if _, err := j.Update(uuid.NewString(), reencrypt.PhaseCopying); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("of no entry: %v", err)
	}
}

// TestJournalTrust: what another user can have written does not count.
func TestJournalTrust(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(t *testing.T, j reencrypt.Journal, path string){
		"a directory that others can write to": func(t *testing.T, j reencrypt.Journal, _ string) { must.OK(t, os.Chmod(j.Dir, 0o770)) },
		"a file that the group can write to":   func(t *testing.T, _ reencrypt.Journal, path string) { must.OK(t, os.Chmod(path, 0o660)) },
		"a file that all can write to":         func(t *testing.T, _ reencrypt.Journal, path string) { must.OK(t, os.Chmod(path, 0o606)) },
		"a file of another user":               func(t *testing.T, _ reencrypt.Journal, path string) { chown(t, path) },
		"a directory of another user":          func(t *testing.T, j reencrypt.Journal, _ string) { chown(t, j.Dir) },
		"a directory behind a link": func(t *testing.T, j reencrypt.Journal, _ string) {
			must.OK(t, os.Rename(j.Dir, j.Dir+".real"), os.Symlink(j.Dir+".real", j.Dir))
		},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			j, e := journal(t), entry()
			must.OK(t, j.Write(e))
			change(t, j, filepath.Join(j.Dir, e.ID+".json"))
			if _, err := j.Read(e.ID); !errors.Is(err, fsutil.ErrUntrusted) {
				t.Errorf("read: %v", err)
			}
			if all, err := j.List(); !errors.Is(err, fsutil.ErrUntrusted) || len(all) != 0 {
				t.Errorf("list: %v, %v", all, err)
			}
			if _, err := j.Update(e.ID, reencrypt.PhaseCopying); !errors.Is(err, fsutil.ErrUntrusted) {
				t.Errorf("update: %v", err)
			}
			if strings.Contains(what, "directory") {
				if err := j.Write(e); !errors.Is(err, fsutil.ErrUntrusted) {
					t.Errorf("write: %v", err)
				}
				if err := j.Remove(e.ID); !errors.Is(err, fsutil.ErrUntrusted) {
					t.Errorf("remove: %v", err)
				}
				if _, err := j.Lock(t.Context(), e.ID, nil); !errors.Is(err, fsutil.ErrUntrusted) {
					t.Errorf("lock: %v", err)
				}
			}
		})
	}
}

// chown gives a file to another user, and skips the test of a user who cannot.
func chown(t *testing.T, path string) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("only root can give files to other users")
	}
	must.OK(t, os.Lchown(path, 4711, 4711))
}

// TestJournalDamaged: an entry that cannot be read does not hide the others, and is not taken for another one.
func TestJournalDamaged(t *testing.T) {
	t.Parallel()
	j, good := journal(t), entry()
	must.OK(t, j.Write(good))
	text := string(must.Get(reencrypt.EncodeEntry(good))(t))
	for what, c := range map[string]struct {
		content string
		want    error
	}{
		"empty":               {"", reencrypt.ErrEntry},
		"cut off":             {text[:len(text)/2], reencrypt.ErrEntry},
		"another's":           {text, reencrypt.ErrEntry},
		"of a later version":  {`{"version": 2, "id": {}, "source": 7}`, reencrypt.ErrVersion},
		"without a version":   {strings.Replace(text, `"version": 1`, `"version": 0`, 1), reencrypt.ErrEntry},
		"of an unknown phase": {strings.Replace(text, `"preparing"`, `"prepared"`, 1), reencrypt.ErrEntry},
		"no object":           {"[]", reencrypt.ErrEntry},
		"too large":           {strings.Repeat(" ", 5<<20) + text, reencrypt.ErrEntry},
	} {
		id := uuid.NewString()
		path := filepath.Join(j.Dir, id+".json")
		must.Write(t, path, c.content)
		if _, err := j.Read(id); !errors.Is(err, c.want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v", what, err)
		}
		if all, err := j.List(); !errors.Is(err, c.want) || !reflect.DeepEqual(all, []reencrypt.Entry{good}) {
			t.Errorf("%s: %+v, %v", what, all, err)
		}
		must.OK(t, j.Remove(id))
	}
	link := uuid.NewString()
	must.OK(t, os.Symlink(filepath.Join(j.Dir, good.ID+".json"), filepath.Join(j.Dir, link+".json")))
	if _, err := j.Read(link); !errors.Is(err, fsutil.ErrNotRegular) {
		t.Errorf("a link: %v", err)
	}
	must.OK(t, j.Remove(link))
	for _, name := range []string{"../" + good.ID, "", "x", strings.ToUpper(good.ID), "{" + good.ID + "}", uuid.Nil.String()} {
		_, err1 := j.Read(name)
		_, err2 := j.Lock(t.Context(), name, nil)
		for _, err := range []error{err1, err2, j.Remove(name)} {
			if !errors.Is(err, reencrypt.ErrEntry) {
				t.Errorf("%q: %v", name, err)
			}
		}
	}
}

// TestJournalRefuses: what Read would refuse is not written.
func TestJournalRefuses(t *testing.T) {
	t.Parallel()
	j := journal(t)
	for what, change := range map[string]func(e *reencrypt.Entry){
		"an id that is none":             func(e *reencrypt.Entry) { e.ID, e.Target.UUID = "../x", "" },
		"the id of another target":       func(e *reencrypt.Entry) { e.ID = uuid.NewString() },
		"no begin":                       func(e *reencrypt.Entry) { e.Begin = time.Time{} },
		"no phase":                       func(e *reencrypt.Entry) { e.Phase = "" },
		"a VM without a disk":            func(e *reencrypt.Entry) { e.Disk = "" },
		"a disk without a VM":            func(e *reencrypt.Entry) { e.VM = reencrypt.VM{} },
		"a negative speed":               func(e *reencrypt.Entry) { e.Speed = -1 },
		"a relative path":                func(e *reencrypt.Entry) { e.Source.Payload = "img" },
		"a path with detours":            func(e *reencrypt.Entry) { e.Target.Header = "/a/../b" },
		"a path that is not UTF-8":       func(e *reencrypt.Entry) { e.Source.Payload = "/a\xff" },
		"a NUL":                          func(e *reencrypt.Entry) { e.Source.KeyStore = "dir:/a\x00b" },
		"neither a path nor a <disk>":    func(e *reencrypt.Entry) { e.Target.Payload, e.Target.XML = "", "" },
		"no format":                      func(e *reencrypt.Entry) { e.Source.Format = "" },
		"a LUKS UUID that is none":       func(e *reencrypt.Entry) { e.Source.UUID = "1234" },
		"a reference to two secrets":     func(e *reencrypt.Entry) { e.Source.Secret.Usage = "also" },
		"a key store with a password":    func(e *reencrypt.Entry) { e.Source.KeyStore = "barbican://user:password@host/" },
		"a <disk> that is too large":     func(e *reencrypt.Entry) { e.Source.XML = strings.Repeat("<", 5<<20) },
		"a time that JSON does not have": func(e *reencrypt.Entry) { e.Begin = time.Date(10000, 1, 1, 0, 0, 0, 0, time.UTC) },
	} {
		e := entry()
		change(&e)
		err := j.Write(e)
		if !errors.Is(err, reencrypt.ErrEntry) {
			t.Errorf("%s: %v", what, err)
		} else if strings.Contains(err.Error(), "password@") {
			t.Errorf("%s: the password is in the error", what)
		}
	}
	if all, err := j.List(); err != nil || len(all) != 0 {
		t.Errorf("%v, %v", all, err)
	}
}

func TestJournalDirectory(t *testing.T) {
	t.Parallel()
	env := func(values map[string]string) func(string) string {
		return func(name string) string { return values[name] }
	}
	for _, c := range []struct {
		uid    int
		values map[string]string
		want   string
	}{
		{0, map[string]string{"HOME": "/root", "XDG_STATE_HOME": "/s"}, "/var/lib/luksplug/reencrypt"},
		{7, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "/s"}, "/s/luksplug/reencrypt"},
		{7, map[string]string{"HOME": "/home/u", "XDG_STATE_HOME": "s"}, "/home/u/.local/state/luksplug/reencrypt"},
		{7, map[string]string{"HOME": "."}, ""},
	} {
		if got, err := reencrypt.DefaultDirOf(c.uid, env(c.values)); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("user %d, %v: %q, %v", c.uid, c.values, got, err)
		}
	}
	if j, err := reencrypt.DefaultJournal(); os.Geteuid() == 0 && (err != nil || j.Dir != "/var/lib/luksplug/reencrypt") {
		t.Errorf("%+v, %v", j, err)
	}
}

// TestJournalHelper is no test: it is the other process of the tests below.
func TestJournalHelper(t *testing.T) {
	dir, id := os.Getenv("LUKSPLUG_TEST_JOURNAL"), os.Getenv("LUKSPLUG_TEST_ENTRY")
	if dir == "" {
		return // it runs in the process that other tests start
	}
	j := reencrypt.Journal{Dir: dir}
	lock, err := j.Lock(t.Context(), id, nil)
	must.OK(t, err)
	defer lock.Release()
	fmt.Println("ready")
	for n := 0; os.Getenv("LUKSPLUG_TEST_WRITES") != ""; n++ {
		e := entry()
		e.ID, e.Target.UUID, e.Speed = id, id, int64(n)
		e.Source.XML = strings.Repeat("x", n%7*10_000+1)
		must.OK(t, j.Write(e))
		if n%5 == 4 {
			must.OK(t, j.Remove(id))
		}
	}
	time.Sleep(time.Minute) // the parent kills it
}

// helper starts another process that locks an entry, and writes it all the time if writes is not "". It returns when the lock
// is held.
func helper(t *testing.T, j reencrypt.Journal, id, writes string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestJournalHelper$")
	cmd.Env = append(os.Environ(), "LUKSPLUG_TEST_JOURNAL="+j.Dir, "LUKSPLUG_TEST_ENTRY="+id, "LUKSPLUG_TEST_WRITES="+writes)
	cmd.Stderr = os.Stderr
	out := must.Get(cmd.StdoutPipe())(t)
	must.OK(t, cmd.Start())
	t.Cleanup(func() { kill(cmd) })
	if line, err := bufio.NewReader(out).ReadString('\n'); line != "ready\n" {
		t.Fatalf("the other process: %q, %v", line, err)
	}
	return cmd
}

func kill(cmd *exec.Cmd) {
	_ = cmd.Process.Kill() // it may have ended
	_ = cmd.Wait()
}

// TestJournalCrash: whenever a process is killed that writes an entry, the entry is complete, or there is none, and the next
// process goes on.
func TestJournalCrash(t *testing.T) {
	t.Parallel()
	j, id := journal(t), uuid.NewString()
	other := entry()
	must.OK(t, j.Write(other))
	rounds := 15
	if os.Getenv("LUKSPLUG_LONG") != "" {
		rounds = 200
	}
	left := 0
	for n := range rounds {
		cmd := helper(t, j, id, "yes")
		time.Sleep(time.Duration(n*700) * time.Microsecond)
		kill(cmd)
		if _, err := os.Lstat(filepath.Join(j.Dir, id+reencrypt.EntrySuffixNew)); err == nil {
			left++
		}
		all, err := j.List()
		if err != nil || len(all) < 1 || len(all) > 2 {
			t.Fatalf("after %d kills: %+v, %v", n+1, all, err)
		}
		for _, e := range all {
			if e.ID != other.ID && (e.ID != id || len(e.Source.XML) != int(e.Speed%7*10_000+1)) {
				t.Fatalf("after %d kills: entry %s with %d bytes, speed %d", n+1, e.ID, len(e.Source.XML), e.Speed)
			}
		}
	}
	t.Logf("%d of %d kills left a file that was not complete", left, rounds)
	// What a kill can leave, whether one did or not.
	must.Write(t, filepath.Join(j.Dir, id+reencrypt.EntrySuffixNew), `{"version": 1, "id`)
	if _, err := j.List(); err != nil {
		t.Error(err)
	}
	must.OK(t, j.Remove(id))
	entries := must.Get(os.ReadDir(j.Dir))(t)
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), id+".json") {
			t.Errorf("%s is left", e.Name())
		}
	}
}

// TestJournalLock: one process drives a re-encryption at a time. The lock of a killed process is free.
func TestJournalLock(t *testing.T) {
	t.Parallel()
	j, id := journal(t), uuid.NewString()
	other := helper(t, j, id, "")
	ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer cancel()
	waits := []int{}
	_, err := j.Lock(ctx, id, func(holder int) { waits = append(waits, holder) })
	var driven *reencrypt.DrivenError
	if !errors.As(err, &driven) || driven.Holder != other.Process.Pid || driven.ID != id || !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if want := fmt.Sprintf("process %d", other.Process.Pid); !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), id) {
		t.Errorf("%q names neither %s nor the re-encryption", err, want)
	}
	if !reflect.DeepEqual(waits, []int{other.Process.Pid}) {
		t.Errorf("told to wait for %v", waits)
	}
	another, err := j.Lock(t.Context(), uuid.NewString(), nil)
	must.OK(t, err)
	another.Release()

	got := make(chan error, 1)
	go func() {
		lock, err := j.Lock(t.Context(), id, nil)
		if err == nil {
			lock.Release()
		}
		got <- err
	}()
	select {
	case err := <-got:
		t.Fatalf("locked, or failed, while another process has the lock: %v", err)
	case <-time.After(200 * time.Millisecond):
	}
	kill(other)
	select {
	case err := <-got:
		must.OK(t, err)
	case <-time.After(20 * time.Second):
		t.Fatal("the lock of a killed process is not free")
	}
	if all, err := j.List(); err != nil || len(all) != 0 {
		t.Errorf("locks are listed: %v, %v", all, err)
	}
}

// FuzzEntry: an entry that is read is written the same.
func FuzzEntry(f *testing.F) {
	id := "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"
	f.Add([]byte(`{"version":1,"id":"` + id + `","begin":"2026-06-10T01:02:03Z","phase":"copying","source":{"payload":"/a","format":"raw"},` +
		`"target":{"payload":"/b","format":"qcow2","uuid":"` + id + `","secrets":[{"type":"passphrase","usage":"u"}],"keystore":"dir:/k"}}`))
	f.Add([]byte(`{"version":1,"id":"` + id + `","begin":"2026-06-10T01:02:03Z","phase":"switched","vm":{"name":"v"},"disk":"vdb","source":{"xml":"<disk/>","format":"raw"},"target":{"xml":"","payload":"/","format":"x"}}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		e, err := reencrypt.DecodeEntry(text)
		if err != nil {
			if !errors.Is(err, reencrypt.ErrEntry) && !errors.Is(err, reencrypt.ErrVersion) {
				t.Fatalf("%v", err)
			}
			return
		}
		out, err := reencrypt.EncodeEntry(e)
		must.OK(t, err)
		again, err := reencrypt.DecodeEntry(out)
		if err != nil || !again.Begin.Equal(e.Begin) {
			t.Fatalf("%s: %v", out, err)
		}
		again.Begin = e.Begin // the name of its time zone is not kept
		if !reflect.DeepEqual(again, e) {
			t.Fatalf("got %+v\nwant %+v", again, e)
		}
	})
}
