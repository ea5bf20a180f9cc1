package integration

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// hookFault makes the hook fail.
type hookFault struct {
	name string
	make func() (undo func())
	says string // a part of virsh's error
}

// killed is a part of virsh's error for a killed hook: the test's shell adds 128 to the signal.
const killed = "status 137"

// faultsOfStart are the faults before QEMU runs.
func (h *faultyHost) faultsOfStart(ctx context.Context, t *testing.T, disks []plugged) []hookFault {
	key, second := h.keyFile(t, disks[0].volume), h.keyFile(t, disks[1].volume)
	spoilt := func(b []byte) []byte { b[0] ^= 1; return b }
	configured := func(text string) func() func() { return func() func() { return h.configure(t, text) } }
	const hanging = `exec:/bin/sh -c 'sleep 3600 & exec sleep 3600'`
	return []hookFault{
		{"the key store refuses", func() func() {
			h.shell(ctx, t, "chmod 644 "+key)
			return func() { h.shell(ctx, t, "chmod 600 "+key) }
		}, "access denied"},
		{"the key store is gone", configured("keystores: ['dir:/nonexistent']\n"), "cannot be reached"},
		{"the key store hangs", configured("keystores: [\"" + hanging + "\"]\nhook: {timeout: 1s}\n"), "the hook timed out"},
		{"only libvirt's key store", configured("keystores: ['libvirt:']\n"), "out of reach"},
		{"no key", func() func() { return moved(t, key) }, "no such secret"},
		{"no key of a disk that is plugged", func() func() { return moved(t, second) }, "no such secret"},
		{"a wrong passphrase", func() func() { return rewritten(t, key, spoilt) }, "passphrase"},
		{"the image is gone", func() func() { return moved(t, disks[0].volume.Payload) }, "no such file"},
		{"the image of a disk that is plugged is gone", func() func() { return moved(t, disks[1].volume.Payload) }, "no such file"},
		{"the header is gone", func() func() { return moved(t, disks[0].volume.Header) }, "no such file"},
		{"the header is damaged", func() func() {
			return rewritten(t, disks[0].volume.Header, func(b []byte) []byte { clear(b[:64<<10]); return b })
		}, "LUKS"},
		{"no memory for keys", func() func() {
			h.shell(ctx, t, "mkdir -p /run/luksplug/vm /run/luksplug/monitor; mount -o remount,size=64k /run/luksplug; head -c 1M /dev/zero > /run/luksplug/full || true")
			return func() { h.shell(ctx, t, "rm /run/luksplug/full; mount -o remount,size=8m /run/luksplug") }
		}, "no space left"},
		{"the configuration is broken", configured("keystore: none\n"), "configuration"},
		{"the program is missing", func() func() { return h.replace(t, "") }, "the program is not there"},
		{"the program is killed", func() func() { return h.replace(t, "kill -9 $$") }, killed},
		{"a bug", func() func() { return h.replace(t, asBrokenHook(t)) }, "a fault in luksplug, to be reported with its log"},
	}
}

// wantNoStart ends the test unless the domain fails to start, with one line of luksplug's, and leaves nothing.
func (h *faultyHost) wantNoStart(ctx context.Context, t *testing.T, d *peer.Domain, f hookFault) {
	t.Helper()
	undo := f.make()
	begin := time.Now()
	_, err := h.Virsh(ctx, "start", "--paused", d.Name)
	took := time.Since(begin).Round(10 * time.Millisecond)
	undo()
	if err == nil {
		t.Fatalf("%s: the domain has started", f.name)
	}
	t.Logf("%s: %s: %v", f.name, took, err)
	_, said, _ := strings.Cut(err.Error(), "luksplug: ")
	ours := strings.Count(err.Error(), "luksplug: ") == 1 && !strings.Contains(said, "\n")
	if f.says != "" && (!strings.Contains(strings.ToLower(err.Error()), strings.ToLower(f.says)) || !ours && f.says != killed) {
		t.Errorf("%s: virsh says %v, want one line with %q", f.name, err, f.says)
	}
	if took > 40*time.Second {
		t.Errorf("%s: %s", f.name, took)
	}
	if state := virsh(ctx, t, h.Libvirt, "domstate", d.Name); state != "shut off" {
		t.Errorf("%s: the domain is %s", f.name, state)
	}
	h.wantClean(ctx, t)
}

// TestHookFaults makes each operation of the hook fail, for a domain that boots and a saved one: nothing is
// lost.
func TestHookFaults(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newFaultyHost(t)
	h.wantTrapWorks(ctx, t)
	disks := []plugged{
		{volume: peer.NewVolume(t, peer.DetachedRaw), target: "vdb", cold: true},
		{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdc"},
		{volume: peer.NewVolume(t, peer.EmbeddedLUKS), target: "vdd", optional: true},
	}
	d := h.define(ctx, t, disks...)
	faults := h.faultsOfStart(ctx, t, disks)
	definition := virsh(ctx, t, h.Libvirt, "dumpxml", "--inactive", "--security-info", d.Name)
	cold := []hookFault{
		{"the record is a later luksplug's", func() func() { return h.redefined(ctx, t, definition, "user=", "tomorrow='1' user=") }, "tomorrow"},
		{"the record is damaged", func() func() { return h.redefined(ctx, t, definition, "<luksplug:device>", "<luksplug:device>}") }, "metadata"},
		{"QEMU does not answer", func() func() { return h.stall(t) }, "the hook timed out"},
		{"the program is killed at started", func() func() { return h.killedAt(t, "started") }, killed},
		{"the image goes at started", func() func() {
			return h.put(t, "before", "[ $2 != started ] || mv "+disks[1].volume.Payload+" "+disks[1].volume.Payload+".away\n")
		}, "no such file"},
	}
	if peer.IsLong() { // every run has them for the saved domain, whose state they could destroy
		cold = append(slices.Clone(faults), cold...)
	}
	for i, f := range cold {
		h.wantNoStart(ctx, t, d, f)
		if i == len(cold)-1 {
			moved := disks[1].volume.Payload
			must.OK(t, os.Rename(moved+".away", moved))
		}
	}

	// From here on the optional disk's key is missing.
	must.OK(t, os.Remove(h.keyFile(t, disks[2].volume)))
	// A program of a key store leaves a child, and the log cannot be written.
	undo := h.configure(t, h.leaving())
	h.start(ctx, t, d, disks[:2]...)
	undo()
	must.Get(d.Guest().Run(ctx, "echo in memory > /tmp/kept"))(t)
	h.reconnect(ctx, t, d)

	virsh(ctx, t, h.Libvirt, "managedsave", "--paused", d.Name)
	image := filepath.Join(h.Dir, "lib", "qemu", "save", d.Name+".save")
	saved := hashOfFile(t, image)
	intact := func(f hookFault) {
		t.Helper()
		h.wantNoStart(ctx, t, d, f)
		if got := hashOfFile(t, image); got != saved {
			t.Fatalf("%s: the saved state has changed", f.name)
		}
	}
	for _, f := range append(faults,
		hookFault{"the program is killed at restore", func() func() { return h.killedAt(t, "restore") }, ""},
		hookFault{"the program is killed at started", func() func() { return h.killedAt(t, "started") }, killed},
	) {
		intact(f)
	}
	// At started, an error goes to the log.
	undo = h.stall(t)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	undo()
	h.wantGuest(ctx, t, d)
	if !strings.Contains(h.logged(t), "is kept running") {
		t.Error("the failure is not in the log")
	}
	h.tool(ctx, t, d, "repair").want(t, 0)
	wantNoObjects(ctx, t, d)

	// Leftovers of a hook killed at the end of a domain are removed at its next start.
	undo = h.replace(t, "kill -9 $$")
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	undo()
	virsh(ctx, t, h.Libvirt, "start", "--paused", d.Name)
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
}

// leaving returns a configuration with a store whose program leaves a child that keeps standard error open.
func (h *faultyHost) leaving() string {
	return fmt.Sprintf("hook: {log: /dev/full}\nkeystores: [\"exec:/bin/sh -c 'if [ -e %[1]s/$LUKSPLUG_SECRET_UUID ]; then cat %[1]s/$LUKSPLUG_SECRET_UUID; sleep 3600 >/dev/null & else exit 1; fi'\"]\n", h.keys)
}

// redefined changes the domain's definition, until undo.
func (h *faultyHost) redefined(ctx context.Context, t *testing.T, definition, old, replacement string) (undo func()) {
	t.Helper()
	virsh(ctx, t, h.Libvirt, "define", writeFile(t, "domain.xml", edited(t, definition, old, replacement)))
	return func() { virsh(ctx, t, h.Libvirt, "define", writeFile(t, "domain.xml", definition)) }
}

// killedAt has luksplug killed at one operation, until undo.
func (h *faultyHost) killedAt(t *testing.T, operation string) (undo func()) {
	t.Helper()
	return h.replace(t, `[ "$4" != `+operation+` ] || kill -9 $$`+"\nexec "+luksplug+` "$@"`)
}

// stall stops QEMU while the hook is called at started, until undo.
func (h *faultyHost) stall(t *testing.T) (undo func()) {
	t.Helper()
	signal := func(name string) string {
		return `[ "$2" != started ] || kill -` + name + ` "$(cat /run/libvirt/qemu/"$1".pid)"` + "\n"
	}
	all := []func(){h.put(t, "before", signal("STOP")), h.put(t, "after", signal("CONT")), h.configure(t, h.usual+"hook: {timeout: 2s}\n")}
	return func() {
		for _, undo := range all {
			undo()
		}
	}
}

// reconnect restarts libvirtd with a failing hook, and ends the test unless the domain continues.
func (h *faultyHost) reconnect(ctx context.Context, t *testing.T, d *peer.Domain) {
	t.Helper()
	for name, make := range map[string]func() func(){
		"missing":                 func() func() { return h.replace(t, "") },
		"killed":                  func() func() { return h.replace(t, "kill -9 $$") },
		"failing":                 func() func() { return h.replace(t, "exit 7") },
		"without a configuration": func() func() { return h.configure(t, "nothing: right\n") },
	} {
		undo := make()
		must.OK(t, h.Restart(ctx))
		state := virsh(ctx, t, h.Libvirt, "domstate", d.Name)
		undo()
		if state != "running" {
			t.Fatalf("luksplug is %s when libvirtd starts: the domain is %s", name, state)
		}
	}
	if _, err := d.Guest().Run(ctx, "true"); err != nil {
		t.Error(err)
	}
}

// wantGuest ends the test unless the domain runs with the guest that was saved.
func (h *faultyHost) wantGuest(ctx context.Context, t *testing.T, d *peer.Domain) {
	t.Helper()
	must.OK(t, d.Reconnect(ctx))
	if state := virsh(ctx, t, h.Libvirt, "domstate", d.Name); state != "running" {
		virsh(ctx, t, h.Libvirt, "resume", d.Name)
	}
	if out, err := d.Guest().Run(ctx, "cat /tmp/kept"); err != nil || !strings.Contains(out, "in memory") {
		t.Fatalf("the guest has been restarted: %q %v", out, err)
	}
}

func hashOfFile(t *testing.T, path string) string {
	t.Helper()
	f := must.Get(os.Open(path))(t)
	defer func() { _ = f.Close() }() // only read
	sum := sha256.New()
	must.Get(io.Copy(sum, f))(t)
	return fmt.Sprintf("%x", sum.Sum(nil))
}
