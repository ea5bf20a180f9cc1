package vmkeys_test

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// places returns places with an age identity of the test's, which needs no systemd-creds.
func places(t *testing.T) vmkeys.Places {
	t.Helper()
	identity := filepath.Join(t.TempDir(), "identity.txt")
	key := must.Get(age.GenerateX25519Identity())(t)
	must.OK(t, os.WriteFile(identity, []byte(key.String()+"\n"), 0o600))
	return vmkeys.Places{Memory: must.Dir(t, "/dev/shm"), Disk: filepath.Join(t.TempDir(), "keys"), Identity: identity}
}

// valued is a secret with a value.
type valued struct {
	document secrets.Document
	value    string
}

// wantValue checks the value of a secret.
func wantValue(t *testing.T, store secrets.Store, ref secrets.Reference, want string) {
	t.Helper()
	secret, err := store.Lookup(t.Context(), ref)
	if err != nil {
		t.Errorf("%s: %v", ref, err)
		return
	}
	defer secret.Wipe()
	must.OK(t, secret.Use(func(b []byte) error {
		if string(b) != want {
			t.Errorf("%s: another value of %d bytes", ref, len(b))
		}
		return nil
	}))
}

// wantNowhere checks that no file below a directory has the text.
func wantNowhere(t *testing.T, directory, text string) {
	t.Helper()
	must.OK(t, filepath.WalkDir(directory, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if bytes.Contains(content, []byte(text)) {
			t.Errorf("%s has a key in clear", path)
		}
		return err
	}))
}

// TestKeep: keys move from memory to the disk, encrypted, and are found there as before, also
// after a reboot. A key that is put again is the newer one.
func TestKeep(t *testing.T) {
	t.Parallel()
	p := places(t)
	all := []valued{
		{secrets.Document{UUID: uuid.New(), Private: true, UsageType: secrets.UsageVolume, Usage: "/vm1.img"}, "by a document"},
		{secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageCeph, Usage: "client.vm1"}, "of Ceph"},
	}
	store := p.Store(func() string { return vm1 })
	for _, v := range all {
		must.OK(t, store.Define(t.Context(), v.document), store.Set(t.Context(), v.document.Reference(), secrets.New([]byte(v.value))))
	}
	byUUID := secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}
	byUsage := secrets.Reference{Type: secrets.Passphrase, Usage: "/a file's"}
	put(t, p.Memory, vm1, byUUID, []byte("a file's value"))
	put(t, p.Memory, vm1, byUsage, []byte("named by its usage"))
	noValue := secrets.Document{UUID: uuid.New()}
	brief := valued{secrets.Document{UUID: uuid.New(), Ephemeral: true}, "ephemeral"}
	must.OK(t, store.Define(t.Context(), noValue), store.Define(t.Context(), brief.document), store.Set(t.Context(), brief.document.Reference(), secrets.New([]byte(brief.value))))
	found := func(when string) {
		t.Helper()
		for _, v := range all {
			wantValue(t, store, v.document.Reference(), v.value)
			if d := must.Get(store.Describe(t.Context(), v.document.Reference()))(t); d != v.document {
				t.Errorf("%s: the document is %+v", when, d)
			}
		}
		wantValue(t, store, byUUID, "a file's value")
		wantValue(t, store, byUsage, "named by its usage")
		if _, err := store.Lookup(t.Context(), noValue.Reference()); !errors.Is(err, secrets.ErrNoValue) {
			t.Errorf("%s: %v", when, err)
		}
	}
	found("before")
	before := len(must.Get(store.List(t.Context()))(t))
	if !store.InMemory(t.Context(), byUUID) {
		t.Error("it is not in memory")
	}
	if moved := must.Get(p.Keep(t.Context(), vm1))(t); moved != 5 {
		t.Errorf("%d secrets are moved", moved)
	}
	found("after")
	if after := len(must.Get(store.List(t.Context()))(t)); after != before || store.InMemory(t.Context(), byUUID) {
		t.Errorf("%d secrets are listed, and %d before", after, before)
	}
	for _, v := range append(all, valued{value: "a file's value"}, valued{value: "named by its usage"}) {
		wantNowhere(t, p.Disk, v.value)
		wantNowhere(t, p.Memory, v.value)
	}
	wantValue(t, store, brief.document.Reference(), brief.value)
	if vm := must.Get(p.VMs())(t)[0]; vm.InMemory != 1 || vm.OnDisk != 4 || vm.UUID != vm1 {
		t.Errorf("got %+v", vm)
	}

	must.OK(t, os.RemoveAll(p.Memory), os.Mkdir(p.Memory, 0o700)) // a reboot
	found("after a reboot")
	for _, value := range []string{"new", "newer"} {
		put(t, p.Memory, vm1, byUUID, []byte(value))
		put(t, p.Memory, vm1, byUsage, []byte(value))
		wantValue(t, store, byUUID, value)
		must.Get(p.Keep(t.Context(), vm1))(t)
		wantValue(t, store, byUUID, value)
		wantValue(t, store, byUsage, value)
	}
	must.OK(t, store.Set(t.Context(), byUUID, secrets.New([]byte("set"))), store.Remove(t.Context(), all[0].document.Reference()))
	wantValue(t, store, byUUID, "set")
	storetest.Fails(t, store, all[0].document.Reference(), secrets.ErrNotFound, "")
	clash := secrets.Document{UUID: uuid.New(), UsageType: secrets.UsageCeph, Usage: "client.vm1"}
	if err := store.Define(t.Context(), clash); !errors.Is(err, secrets.ErrConflict) {
		t.Errorf("a second secret of the same usage: %v", err)
	}
	another := p.Store(func() string { return vm2 })
	storetest.Fails(t, another, byUUID, secrets.ErrNotFound, "")

	must.OK(t, p.Wipe(vm1))
	if p.Holds(vm1) {
		t.Error("something is left")
	}
}

// TestKeepBySystemd: each VM has an identity that only this host can decrypt, and not for
// another VM. Wipe overwrites it.
func TestKeepBySystemd(t *testing.T) {
	t.Parallel()
	if _, err := exec.LookPath("systemd-creds"); err != nil || os.Geteuid() != 0 {
		t.Skip("systemd-creds needs root")
	}
	p := places(t)
	p.Identity = ""
	must.OK(t, p.CheckDisk(t.Context()))
	ref := storetest.ByUUID()
	put(t, p.Memory, vm1, ref, []byte("the value"))
	if moved := must.Get(p.Keep(t.Context(), vm1))(t); moved != 1 {
		t.Fatalf("%d secrets are moved", moved)
	}
	store := p.Store(func() string { return vm1 })
	wantValue(t, store, ref, "the value")
	wantNowhere(t, p.Disk, "the value")
	wantNowhere(t, p.Disk, "AGE-SECRET-KEY")
	// The files of one VM do not open as those of another.
	must.OK(t, os.CopyFS(filepath.Join(p.Disk, vm2), os.DirFS(filepath.Join(p.Disk, vm1))))
	must.OK(t, filepath.WalkDir(filepath.Join(p.Disk, vm2), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			err = os.Chmod(path, 0o600)
		}
		return err
	}))
	must.OK(t, os.Chmod(filepath.Join(p.Disk, vm2), 0o700))
	storetest.Fails(t, p.Store(func() string { return vm2 }), ref, secrets.ErrDenied, "")

	identity := must.Get(os.Open(filepath.Join(p.Disk, vm1, "identity.cred")))(t) // stays open, to read what Wipe writes
	defer func() { _ = identity.Close() }()
	must.OK(t, p.Wipe(vm1))
	content := make([]byte, 1<<16)
	if n, _ := identity.Read(content); n == 0 || len(bytes.Trim(content[:n], "\x00")) > 0 {
		t.Errorf("%d bytes of the identity are not overwritten", n)
	}
}

// TestKeepFailsClosed: keys that cannot be encrypted stay in memory, and nothing of them is
// on the disk.
func TestKeepFailsClosed(t *testing.T) {
	for name, arrange := range map[string]func(t *testing.T, p *vmkeys.Places){
		"no systemd-creds": func(t *testing.T, p *vmkeys.Places) { p.Identity = ""; t.Setenv("PATH", t.TempDir()) },
		"it fails": func(t *testing.T, p *vmkeys.Places) {
			p.Identity = ""
			bin := t.TempDir()
			must.OK(t, os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte("#!/bin/sh\nexit 1\n"), 0o755))
			t.Setenv("PATH", bin)
		},
		"it cannot decrypt": func(t *testing.T, p *vmkeys.Places) {
			p.Identity = ""
			bin := t.TempDir()
			must.OK(t, os.WriteFile(filepath.Join(bin, "systemd-creds"), []byte("#!/bin/sh\n[ $1 = encrypt ] && exec /bin/echo c2VhbGVk\nexit 1\n"), 0o755))
			t.Setenv("PATH", bin)
		},
		"another key reads it": func(t *testing.T, p *vmkeys.Places) {
			other := must.Get(age.GenerateX25519Identity())(t)
			path := filepath.Join(p.Disk, vm1)
			must.OK(t, os.MkdirAll(path, 0o700), os.WriteFile(filepath.Join(path, "recipients.txt"), []byte(other.Recipient().String()+"\n"), 0o600))
		},
		"the disk is a file": func(t *testing.T, p *vmkeys.Places) { must.Write(t, p.Disk, "") },
	} {
		t.Run(name, func(t *testing.T) {
			p := places(t)
			arrange(t, &p)
			ref := storetest.ByUUID()
			path := put(t, p.Memory, vm1, ref, []byte("the value"))
			if moved, err := p.Keep(t.Context(), vm1); err == nil || moved != 0 {
				t.Fatalf("%d moved, %v", moved, err)
			}
			if text := must.Get(os.ReadFile(path))(t); string(text) != "the value" {
				t.Errorf("in memory is %q", text)
			}
			wantValue(t, p.Store(func() string { return vm1 }), ref, "the value")
			if _, err := os.Stat(p.Disk); err == nil {
				wantNowhere(t, p.Disk, "the value")
			}
		})
	}
	p := vmkeys.Places{Memory: must.Dir(t, "/dev/shm")}
	put(t, p.Memory, vm1, storetest.ByUUID(), []byte("the value"))
	if moved, err := p.Keep(t.Context(), vm1); moved != 0 || err != nil {
		t.Errorf("without a directory on the disk: %d moved, %v", moved, err)
	}
	if err := p.CheckDisk(t.Context()); err == nil {
		t.Error("they would be encrypted")
	}
}

// TestKeepAtOnce: several processes may move the keys of a VM, and none is lost.
func TestKeepAtOnce(t *testing.T) {
	t.Parallel()
	p := places(t)
	store := p.Store(func() string { return vm1 })
	var all []secrets.Reference
	for range 8 {
		all = append(all, secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()})
		put(t, p.Memory, vm1, all[len(all)-1], []byte("the value"))
	}
	var done sync.WaitGroup
	for range 4 {
		done.Go(func() {
			if _, err := p.Keep(t.Context(), vm1); err != nil {
				t.Error(err)
			}
		})
	}
	done.Wait()
	for _, ref := range all {
		wantValue(t, store, ref, "the value")
		if store.InMemory(t.Context(), ref) {
			t.Errorf("%s is in memory", ref)
		}
	}
}

// TestWipeDuringAMove: a move that runs while the keys are destroyed leaves no copy.
func TestWipeDuringAMove(t *testing.T) {
	t.Parallel()
	for n := range 20 {
		p := places(t)
		for range 4 {
			put(t, p.Memory, vm1, secrets.Reference{Type: secrets.Passphrase, UUID: uuid.New()}, []byte("the value"))
		}
		var done sync.WaitGroup
		done.Go(func() { _, _ = p.Keep(t.Context(), vm1) }) // it may find nothing any longer
		time.Sleep(time.Duration(n) * time.Millisecond)
		if err := p.Wipe(vm1); err != nil {
			t.Error(err)
		}
		done.Wait()
		if p.Holds(vm1) {
			t.Fatalf("after %d ms something is left: %+v", n, must.Get(p.VMs())(t))
		}
	}
}

// TestNote: a note is kept with the keys, in memory and on the disk.
func TestNote(t *testing.T) {
	t.Parallel()
	p := places(t)
	n := vmkeys.Note{Domain: "vm1", Here: true, Time: time.Now().Round(0)}
	same := func(when string, want vmkeys.Note) {
		t.Helper()
		got, found, err := p.Note(vm1)
		if err != nil || !found || !got.Time.Equal(want.Time) || got.Domain != want.Domain || got.Here != want.Here || got.End != want.End {
			t.Errorf("%s: %+v, %t, %v", when, got, found, err)
		}
	}
	must.OK(t, p.SetNote(vm1, n))
	if _, found, err := p.Note(vm1); found || err != nil || p.Holds(vm1) {
		t.Errorf("a note of a VM without keys: %t, %v", found, err)
	}
	put(t, p.Memory, vm1, storetest.ByUUID(), []byte("the value"))
	must.OK(t, p.SetNote(vm1, n))
	same("in memory", n)
	must.Get(p.Keep(t.Context(), vm1))(t)
	must.OK(t, os.RemoveAll(filepath.Join(p.Memory, vm1)))
	same("on the disk", n)
	put(t, p.Memory, vm1, storetest.ByUUID(), []byte("the value"))
	same("with keys that were put again", n)
	n.Here, n.End, n.Time = false, "saved", n.Time.Add(time.Second)
	must.OK(t, p.SetNote(vm1, n))
	must.OK(t, os.Remove(filepath.Join(p.Disk, vm1, "vm.json")))
	same("later", n)
	if documents := must.Get(p.Store(func() string { return vm1 }).List(t.Context()))(t); len(documents) != 2 {
		t.Errorf("listed: %+v", documents)
	}
	if name := dir.FileName(secrets.Reference{Type: secrets.Passphrase, Usage: "vm.json"}); name == "vm.json" {
		t.Error("a key can have the name of the note")
	}
}
