package hook_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/hotplug/internal/recordtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// host has libvirt's directories of a host.
type host struct {
	vms hook.VMs
	id  string
}

func newHost(t *testing.T) host {
	t.Helper()
	h := host{hook.VMs{Definitions: t.TempDir(), Running: t.TempDir(), State: t.TempDir()}, uuid.NewString()}
	// libvirt has more in both.
	must.OK(t, os.Mkdir(filepath.Join(h.vms.Definitions, "networks.xml"), 0o700), os.Mkdir(filepath.Join(h.vms.Running, "channel"), 0o700))
	must.Write(t, filepath.Join(h.vms.Running, "vm1.pid"), "1")
	h.define(t, "unrelated", uuid.NewString())
	return h
}

func (h host) define(t *testing.T, name, id string) {
	t.Helper()
	must.Write(t, filepath.Join(h.vms.Definitions, name+".xml"), fmt.Sprintf("<!--\nWARNING: THIS IS AN AUTO-GENERATED FILE.\n-->\n\n<domain type='kvm'>\n  <name>%s</name>\n  <uuid>%s</uuid>\n</domain>\n", name, id))
}

func (h host) runs(t *testing.T, name, id string, pid int) {
	t.Helper()
	must.Write(t, filepath.Join(h.vms.Running, name+".xml"), fmt.Sprintf("<domstatus state='running' reason='booted' pid='%d'>\n<monitor path='/x' type='unix'/>\n<domain type='kvm' id='1'><name>%s</name><uuid>%s</uuid></domain>\n</domstatus>\n", pid, name, id))
}

// qemu starts a QEMU with a UUID.
func qemu(t *testing.T, name, id string) int {
	t.Helper()
	must.Have(t, "qemu-system-x86_64")
	cmd := exec.Command("qemu-system-x86_64", "-name", "guest="+name+",debug-threads=on", "-machine", "none", "-display", "none", "-uuid", id)
	must.OK(t, cmd.Start())
	t.Cleanup(func() { _, _ = cmd.Process.Kill(), cmd.Wait() }) // it was killed
	for range 500 {                                             // until it has replaced this program
		args, err := os.ReadFile("/proc/" + strconv.Itoa(cmd.Process.Pid) + "/cmdline")
		if err == nil && bytes.Contains(args, []byte("-uuid")) {
			return cmd.Process.Pid
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("QEMU has not started")
	return 0
}

// TestBorrowedUUID: the keys of a VM are neither given to nor destroyed for a domain with its
// UUID, as long as another domain with it is defined or another process of it runs.
func TestBorrowedUUID(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("processes of root and of QEMU's user count")
	}
	for name, c := range map[string]struct {
		arrange  func(t *testing.T, h host)
		op       hook.Operation
		borrowed string
	}{
		"alone":                           {func(*testing.T, host) {}, hook.Prepare, ""},
		"itself":                          {func(t *testing.T, h host) { h.define(t, "vm1", h.id); h.runs(t, "vm1", h.id, 0) }, hook.Prepare, ""},
		"another is defined":              {func(t *testing.T, h host) { h.define(t, "victim", h.id) }, hook.Prepare, "domain victim, in "},
		"in capital letters":              {func(t *testing.T, h host) { h.define(t, "victim", strings.ToUpper(h.id)) }, hook.Prepare, "domain victim, in "},
		"another is released":             {func(t *testing.T, h host) { h.define(t, "victim", h.id) }, hook.Release, "domain victim, in "},
		"another runs":                    {func(t *testing.T, h host) { h.runs(t, "victim", h.id, 1) }, hook.Prepare, "domain victim, in "},
		"another process":                 {func(t *testing.T, h host) { qemu(t, "victim", h.id) }, hook.Prepare, "process "},
		"of the same name":                {func(t *testing.T, h host) { qemu(t, "vm1", h.id) }, hook.Prepare, "process "},
		"at its end":                      {func(t *testing.T, h host) { qemu(t, "victim", h.id) }, hook.Release, "process "},
		"its own process":                 {func(t *testing.T, h host) { qemu(t, "vm1", h.id) }, hook.Started, ""},
		"its own, in its state":           {func(t *testing.T, h host) { h.runs(t, "vm1", h.id, qemu(t, "vm1", h.id)) }, hook.Started, ""},
		"another process at the start":    {func(t *testing.T, h host) { qemu(t, "vm1", h.id); qemu(t, "victim", h.id) }, hook.Started, "process "},
		"a QEMU that lies about its UUID": {func(t *testing.T, h host) { h.runs(t, "liar", uuid.NewString(), qemu(t, "liar", h.id)) }, hook.Prepare, ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := newHost(t)
			c.arrange(t, h)
			hooked, _ := place(t)
			e := event(t, hooked, c.op, hook.ReasonDestroyed, recordtest.Disk(t, 1))
			e.XML = bytes.ReplaceAll(e.XML, []byte(recordtest.DomainUUID), []byte(h.id))
			check := func() error { return h.vms.CheckUUID(e) }
			if err := check(); (err != nil) != (c.borrowed != "") || err != nil && (!errors.Is(err, vmkeys.ErrOtherVM) || !strings.Contains(err.Error(), c.borrowed)) {
				t.Errorf("got %v, want %q", err, c.borrowed)
			}
			keys := must.Dir(t, "/dev/shm")
			store, ref := vmkeys.New(keys, e.UUID), secrets.Document{UUID: uuid.New()}
			must.OK(t, store.Define(t.Context(), ref), store.Set(t.Context(), ref.Reference(), secrets.New([]byte("letmein"))))
			found, err := store.Owned(check).Lookup(t.Context(), ref.Reference())
			found.Wipe()
			if (err != nil) != (c.borrowed != "") || err != nil && (!errors.Is(err, vmkeys.ErrOtherVM) || !errors.Is(err, secrets.ErrDenied)) {
				t.Errorf("looked up: %v", err)
			}
		})
	}
}

// TestUnreadableDomains: whether a UUID is borrowed is not guessed.
func TestUnreadableDomains(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	must.Write(t, filepath.Join(h.vms.Definitions, "damaged.xml"), "<domain>")
	hooked, _ := place(t)
	if err := h.vms.CheckUUID(event(t, hooked, hook.Prepare, "-", recordtest.Disk(t, 1))); err == nil || errors.Is(err, vmkeys.ErrOtherVM) || !strings.Contains(err.Error(), "damaged.xml") {
		t.Errorf("got %v", err)
	}
}

// TestEnabled: domains count that have the monitor or a record, defined or running.
func TestEnabled(t *testing.T) {
	t.Parallel()
	h := newHost(t)
	add := func(dir, name, inside string) {
		must.Write(t, filepath.Join(dir, name+".xml"), "<domain><name>"+name+"</name><uuid>"+uuid.NewString()+"</uuid>"+inside+"</domain>")
	}
	add(h.vms.Definitions, "monitor", "<commandline><arg value='chardev=luksplug-monitor,mode=control'/></commandline>")
	add(h.vms.Running, "record", "<metadata><l:disks xmlns:l='"+record.Namespace+"'/></metadata>")
	add(h.vms.Definitions, "images", "<devices><disk><source file='/var/lib/luksplug/images/a'/></disk></devices>")
	if names := must.Get(h.vms.Enabled())(t); strings.Join(names, " ") != "monitor record" {
		t.Errorf("got %q", names)
	}
}
