package main

import (
	"bytes"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets/luks"
)

func TestProgress(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := newProgress(&out)
	if p.w != nil {
		t.Fatal("a progress line without a terminal")
	}
	p.update(luks.Progress{Done: 1, Total: 2})
	p.end()
	if out.Len() != 0 {
		t.Errorf("written without a terminal: %q", &out)
	}

	p.w, p.ended = &out, false
	p.update(luks.Progress{Done: 1, Total: 2})
	if out.Len() != 0 {
		t.Errorf("shown before patience ends: %q", &out)
	}
	p.begin = time.Now().Add(-patience)
	p.update(luks.Progress{Done: 1, Total: 2})
	p.update(luks.Progress{})
	p.end()
	if text := out.String(); strings.Count(text, "50 %") != 1 || !strings.HasSuffix(text, "\r\x1b[K") {
		t.Errorf("shown: %q", text)
	}
	out.Reset()
	p.update(luks.Progress{Done: 2, Total: 2}) // late
	p.end()
	if out.Len() != 0 {
		t.Errorf("shown after the end: %q", &out)
	}
}

func TestUnlockFlag(t *testing.T) {
	t.Parallel()
	var f unlockFlag
	for _, value := range []string{"auto", "qemu", "external"} {
		if err := f.Set(value); err != nil || f.String() != value {
			t.Errorf("%s: %v, %s", value, err, f.String())
		}
	}
	if err := f.Set("ephemeral"); err == nil || !strings.Contains(err.Error(), "auto, qemu, external") {
		t.Errorf("an unknown method: %v", err)
	}
}

func TestUnlockedBy(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		h    hotplug.AttachedDisk
		want string
	}{
		{hotplug.AttachedDisk{}, ""},
		{hotplug.AttachedDisk{Unlock: blockgraph.MethodQEMU}, "by QEMU"},
		{hotplug.AttachedDisk{Unlock: blockgraph.MethodEphemeralHeader}, "by luksplug"},
		{hotplug.AttachedDisk{Unlock: blockgraph.MethodStorageDaemon, Daemon: 4711}, "by qemu-storage-daemon (process 4711)"},
		{hotplug.AttachedDisk{Unlock: blockgraph.MethodStorageDaemon}, "by qemu-storage-daemon (which has ended)"},
	} {
		if got := unlockedBy(&c.h); got != c.want {
			t.Errorf("%+v: %q, want %q", c.h, got, c.want)
		}
	}
}

func TestSize(t *testing.T) {
	t.Parallel()
	for n, want := range map[int64]string{
		0: "0 bytes", 512: "512 bytes", 1024: "1 KiB", 1536: "1.5 KiB", 64 << 20: "64 MiB", 10 << 30: "10 GiB", 5 << 60: "5120 PiB",
	} {
		if got := size(n); got != want {
			t.Errorf("%d: %q, want %q", n, got, want)
		}
	}
}

// The master of a pseudo terminal is a terminal, too.
func TestColoursOnlyOnATerminal(t *testing.T) {
	terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skipf("no pseudo terminals here: %v", err)
	}
	t.Cleanup(func() { _ = terminal.Close() }) // nothing was written
	t.Setenv("NO_COLOR", "")                   // empty is unset, see no-color.org
	if !colourful(terminal) {
		t.Error("no colours on a terminal")
	}
	if colourful(&strings.Builder{}) {
		t.Error("colours in a pipe")
	}
	t.Setenv("NO_COLOR", "1")
	if colourful(terminal) {
		t.Error("colours in spite of NO_COLOR")
	}
}

// TestShowRecords: list and repair show the records, also those of disks that are not
// attached.
func TestShowRecords(t *testing.T) {
	t.Parallel()
	attached := []*hotplug.AttachedDisk{{Target: "sda", Device: "luksplug-sda", Size: 1 << 20}}
	missing := libvirtvm.State{Target: "sdb", Persistent: true}
	states := []libvirtvm.State{{Target: "sda", Attached: true, Live: true, Persistent: true}, missing}
	for output, want := range map[string][]string{
		"text": {"RECORDED", "live, persistent", "sdb     missing", "sdb: " + missing.Difference()},
		"json": {"\"live\",\n        \"persistent\"\n", `"state": "missing"`, `"difference": "belongs to the domain`},
	} {
		out := &bytes.Buffer{}
		a := &app{streams: streams{out: out}, flags: flags{output: output}}
		if err := showDisks(a, &libvirtvm.Listing{Disks: attached, States: states}, nil); err != nil {
			t.Fatal(err)
		}
		for _, w := range want {
			if !strings.Contains(out.String(), w) {
				t.Errorf("%s: no %q in\n%s", output, w, out)
			}
		}
	}
	out := &bytes.Buffer{}
	a := &app{streams: streams{out: out}, flags: flags{output: "text"}}
	fixed := []libvirtvm.State{{Target: "sda", Attached: true}, {Target: "sdb", Live: true}}
	if err := showRepaired(a, &libvirtvm.Repaired{Fixed: fixed}); err != nil {
		t.Fatal(err)
	}
	const want = "sda: written into the domain's metadata\nsdb: removed from the domain's metadata, since it is not attached\n"
	if out.String() != want {
		t.Errorf("got %q, want %q", out, want)
	}
}
