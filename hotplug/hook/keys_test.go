package hook_test

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"filippo.io/age"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// keyHost is a host that holds keys for VMs.
type keyHost struct {
	host
	hook.Keys
	places vmkeys.Places
	warned []error
}

func newKeyHost(t *testing.T) *keyHost {
	t.Helper()
	identity := filepath.Join(t.TempDir(), "identity.txt")
	key := must.Get(age.GenerateX25519Identity())(t)
	must.OK(t, os.WriteFile(identity, []byte(key.String()+"\n"), 0o600))
	h := &keyHost{host: newHost(t), places: vmkeys.Places{Memory: must.Dir(t, "/dev/shm"), Disk: filepath.Join(t.TempDir(), "keys"), Identity: identity}}
	h.Keys = hook.Keys{Places: []vmkeys.Places{h.places}, VMs: h.vms, Warn: func(err error) { h.warned = append(h.warned, err) }}
	return h
}

// put puts a key for the VM, as a management server does.
func (h *keyHost) put(t *testing.T) {
	t.Helper()
	d := secrets.Document{UUID: uuid.New()}
	store := h.places.Store(func() string { return h.id })
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("letmein"))))
}

// undefine removes a definition, as libvirt does.
func (h *keyHost) undefine(t *testing.T, name string) {
	t.Helper()
	must.OK(t, os.Remove(filepath.Join(h.vms.Definitions, name+".xml")))
}

// event returns an event of the domain of that name with the VM's UUID, with a disk.
func (h *keyHost) event(t *testing.T, name string, op hook.Operation, extra string) hook.Event {
	t.Helper()
	hooked, _ := place(t)
	e := event(t, hooked, op, extra, recordtest.Disk(t, 1))
	e.Domain, e.XML = name, bytes.ReplaceAll(e.XML, []byte(recordtest.DomainUUID), []byte(h.id))
	return e
}

// happens has an event of the hook.
func (h *keyHost) happens(t *testing.T, op hook.Operation, extra string) {
	t.Helper()
	must.OK(t, h.Event(t.Context(), h.event(t, "vm1", op, extra)))
}

// want checks the state of the VM's keys, "" for none.
func (h *keyHost) want(t *testing.T, when string, state hook.KeysState) {
	t.Helper()
	got := hook.KeysState("")
	for _, vm := range must.Get(h.List())(t) {
		if vm.UUID == h.id {
			got = vm.State
		}
	}
	if got != state || h.places.Holds(h.id) != (state != "") {
		t.Errorf("%s: the state of the keys is %q, want %q", when, got, state)
	}
}

// noted puts the times of the VM's note and of its keys into the past.
func (h *keyHost) noted(t *testing.T, ago time.Duration) {
	t.Helper()
	n, found, err := h.places.Note(h.id)
	if err != nil || !found {
		t.Fatalf("no note: %v", err)
	}
	n.Time = time.Now().Add(-ago)
	must.OK(t, h.places.SetNote(h.id, n))
	earlier := n.Time.Add(-time.Second)
	for _, path := range must.Get(filepath.Glob(filepath.Join(h.places.Memory, h.id, "*")))(t) {
		must.OK(t, os.Chtimes(path, earlier, earlier))
	}
}

// TestKeysOfADefinedDomain: the keys of a domain live as long as its definition, however it
// ends, and are moved to the disk.
func TestKeysOfADefinedDomain(t *testing.T) {
	t.Parallel()
	for _, reason := range hook.Reasons() {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			h := newKeyHost(t)
			h.put(t)
			h.want(t, "before the domain is defined", hook.KeysExpected)
			h.define(t, "vm1", h.id)
			h.want(t, "once it is defined", hook.KeysDefined)
			h.happens(t, hook.Prepare, "-")
			h.happens(t, hook.Release, reason)
			h.want(t, "after its end", hook.KeysDefined)
			if s, err := h.Settle(t.Context(), h.id); err != nil || s.State != hook.KeysDefined || !s.Defined {
				t.Errorf("settled: %+v, %v", s, err)
			}
			if vm := must.Get(h.places.VMs())(t)[0]; vm.InMemory != 0 || vm.OnDisk != 1 {
				t.Errorf("not moved: %+v", vm)
			}
			// The host is rebooted.
			must.OK(t, os.RemoveAll(h.places.Memory), os.Mkdir(h.places.Memory, 0o700))
			h.happens(t, hook.Prepare, "-")
			h.happens(t, hook.Release, "destroyed")
			h.want(t, "after a reboot", hook.KeysDefined)
			h.undefine(t, "vm1")
			h.want(t, "once it is undefined", hook.KeysGone)
			if gone := must.Get(h.Prune(""))(t); len(gone) != 1 || gone[0].Domain != "vm1" {
				t.Errorf("pruned: %+v", gone)
			}
			h.want(t, "after that", "")
		})
	}
}

// TestKeysOfATransientDomain: a domain that is not defined, from the start or since it was
// undefined, loses its keys as it ends, unless it can come back.
func TestKeysOfATransientDomain(t *testing.T) {
	t.Parallel()
	after := map[string]hook.KeysState{"saved": hook.KeysSaved, "failed": hook.KeysExpected}
	for _, reason := range hook.Reasons() {
		t.Run(reason, func(t *testing.T) {
			t.Parallel()
			h := newKeyHost(t)
			h.put(t)
			h.happens(t, hook.Prepare, "-")
			h.want(t, "while QEMU's process does not exist yet", hook.KeysRunning)
			h.runs(t, "vm1", h.id, 1)
			h.want(t, "while it runs", hook.KeysRunning)
			must.OK(t, os.Remove(filepath.Join(h.vms.Running, "vm1.xml")))
			h.happens(t, hook.Release, reason)
			h.want(t, "after its end", after[reason])
			for range 2 {
				must.Get(h.Prune(""))(t)
			}
			h.want(t, "later", after[reason])
		})
	}
}

// TestKeysAreNotLostOnDoubt: what is not known is not gone.
func TestKeysAreNotLostOnDoubt(t *testing.T) {
	t.Parallel()
	left := func(t *testing.T, h *keyHost) { // the domain was here, and is off
		h.define(t, "vm1", h.id)
		h.happens(t, hook.Prepare, "-")
		h.happens(t, hook.Release, "shutdown")
		h.undefine(t, "vm1")
	}
	for name, c := range map[string]struct {
		arrange func(t *testing.T, h *keyHost)
		state   hook.KeysState
	}{
		"never here":       {func(*testing.T, *keyHost) {}, hook.KeysExpected},
		"new keys":         {func(t *testing.T, h *keyHost) { left(t, h); h.noted(t, time.Minute); h.put(t) }, hook.KeysExpected},
		"another driver's": {func(t *testing.T, h *keyHost) { left(t, h); h.defineElsewhere(t) }, hook.KeysDefined},
		"a QEMU":           {func(t *testing.T, h *keyHost) { left(t, h); qemu(t, "vm1", h.id) }, hook.KeysRunning},
		"it runs":          {func(t *testing.T, h *keyHost) { left(t, h); h.runs(t, "vm1", h.id, 1) }, hook.KeysRunning},
		"renamed":          {func(t *testing.T, h *keyHost) { left(t, h); h.define(t, "web1", h.id) }, hook.KeysDefined},
		"gone":             {left, hook.KeysGone},
		"no definitions": {func(t *testing.T, h *keyHost) { // it had one
			left(t, h)
			must.OK(t, os.RemoveAll(h.vms.Definitions))
		}, hook.KeysDefined},
		"never a definition": {func(t *testing.T, h *keyHost) {
			h.happens(t, hook.Prepare, "-")
			h.noted(t, time.Hour)
			must.OK(t, os.RemoveAll(h.vms.Definitions))
		}, hook.KeysGone},
		"saved by libvirt":   {func(t *testing.T, h *keyHost) { h.saved(t, true) }, hook.KeysGone},
		"saved to a file":    {func(t *testing.T, h *keyHost) { h.saved(t, false) }, hook.KeysSaved},
		"its end was missed": {func(t *testing.T, h *keyHost) { h.happens(t, hook.Prepare, "-"); h.noted(t, time.Hour) }, hook.KeysGone},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newKeyHost(t)
			if name != "new keys" {
				h.put(t)
			} else {
				must.OK(t, os.Mkdir(filepath.Join(h.places.Memory, h.id), 0o700))
			}
			c.arrange(t, h)
			h.want(t, name, c.state)
			must.Get(h.Prune(""))(t)
			if h.places.Holds(h.id) != (c.state != hook.KeysGone) {
				t.Errorf("kept: %t", h.places.Holds(h.id))
			}
		})
	}
	for name, arrange := range map[string]func(t *testing.T, h *keyHost){
		"no libvirt": func(t *testing.T, h *keyHost) {
			h.VMs.Definitions = filepath.Join(t.TempDir(), "missing", "missing")
		},
		"an unreadable definition": func(t *testing.T, h *keyHost) {
			must.Write(t, filepath.Join(h.vms.Definitions, "damaged.xml"), "<domain>")
		},
		"an unreadable state": func(t *testing.T, h *keyHost) {
			must.Write(t, filepath.Join(h.vms.Running, "damaged.xml"), "<domstatus>")
		},
		"an unreadable note": func(t *testing.T, h *keyHost) {
			must.Write(t, filepath.Join(h.places.Memory, h.id, "vm.json"), "{")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newKeyHost(t)
			h.put(t)
			left(t, h)
			arrange(t, h)
			if gone, err := h.Prune(""); err == nil || len(gone) > 0 {
				t.Errorf("pruned %+v, %v", gone, err)
			}
			if s, err := h.Settle(t.Context(), h.id); err == nil || s.State != "" {
				t.Errorf("settled %+v, %v", s, err)
			}
			if err := h.Event(t.Context(), h.event(t, "vm1", hook.Release, "destroyed")); err == nil || !h.places.Holds(h.id) {
				t.Errorf("at its end: %v, kept %t", err, h.places.Holds(h.id))
			}
		})
	}
}

// defineElsewhere defines a domain of another driver with the VM's UUID.
func (h *keyHost) defineElsewhere(t *testing.T) {
	t.Helper()
	other := h.host
	other.vms.Definitions = t.TempDir()
	other.define(t, "container", h.id)
	h.VMs.OtherDefinitions = []string{filepath.Join(t.TempDir(), "missing"), other.vms.Definitions}
}

// saved has the domain saved and undefined.
func (h *keyHost) saved(t *testing.T, managed bool) {
	t.Helper()
	h.define(t, "vm1", h.id)
	h.happens(t, hook.Prepare, "-")
	if managed {
		must.OK(t, os.Mkdir(filepath.Join(h.vms.State, "save"), 0o700))
		must.Write(t, filepath.Join(h.vms.State, "save", "vm1.save"), "state")
	}
	h.happens(t, hook.Release, "saved")
	h.undefine(t, "vm1")
}

// TestKeysOfAnotherDomain: a domain that is defined with the UUID of one that is gone does not
// get its keys, and its end does not destroy them; nor does a renamed one, until it is adopted.
func TestKeysOfAnotherDomain(t *testing.T) {
	t.Parallel()
	h := newKeyHost(t)
	h.put(t)
	h.define(t, "vm1", h.id)
	h.happens(t, hook.Prepare, "-")
	h.happens(t, hook.Release, "shutdown")
	h.undefine(t, "vm1")
	h.define(t, "web1", h.id)
	e := h.event(t, "web1", hook.Prepare, "-")
	wantOther := func(err error) {
		t.Helper()
		if !errors.Is(err, vmkeys.ErrOtherVM) || !errors.Is(err, hook.ErrRenamed) {
			t.Errorf("got %v", err)
		}
	}
	must.OK(t, h.Event(t.Context(), e))
	if len(h.warned) != 1 {
		t.Fatalf("warned %v", h.warned)
	}
	wantOther(h.warned[0])
	wantOther(h.CheckOwner(e))
	_, err := h.Settle(t.Context(), h.id)
	wantOther(err)
	must.Get(h.Prune(""))(t)
	wantOther(h.Event(t.Context(), h.event(t, "web1", hook.Release, "destroyed")))
	h.want(t, "while the other is defined", hook.KeysDefined)

	name, id, err := h.vms.Defined("web1")
	if err != nil || name != "web1" || id != h.id {
		t.Errorf("defined: %s %s %v", name, id, err)
	}
	if _, _, err := h.vms.Defined("vm1"); err == nil {
		t.Error("a domain that is gone is found")
	}
	if n := must.Get(h.Adopt(h.id, "web1"))(t); n != 1 {
		t.Errorf("adopted %d", n)
	}
	must.OK(t, h.CheckOwner(e), h.Event(t.Context(), h.event(t, "web1", hook.Release, "destroyed")))
	must.Get(h.Settle(t.Context(), h.id))(t)
	h.undefine(t, "web1")
	must.Get(h.Prune(""))(t)
	h.want(t, "after it was undefined", "")
}

// TestForget: the configured ends destroy the keys of a domain that is still defined.
func TestForget(t *testing.T) {
	t.Parallel()
	for _, reason := range hook.Reasons() {
		h := newKeyHost(t)
		h.Forget = []string{"shutdown", "migrated"}
		h.put(t)
		h.define(t, "vm1", h.id)
		h.happens(t, hook.Prepare, "-")
		h.happens(t, hook.Release, reason)
		if h.places.Holds(h.id) == slices.Contains(h.Forget, reason) {
			t.Errorf("after %s: kept %t", reason, h.places.Holds(h.id))
		}
	}
}

// TestPruneSpares: the domain whose event is handled is not pruned.
func TestPruneSpares(t *testing.T) {
	t.Parallel()
	h := newKeyHost(t)
	h.put(t)
	h.happens(t, hook.Prepare, "-")
	h.noted(t, time.Hour)
	must.Get(h.Prune(h.id))(t)
	h.want(t, "as it starts again", hook.KeysGone)
	h.happens(t, hook.Prepare, "-")
	h.want(t, "once it is here", hook.KeysRunning)
}
