package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
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
