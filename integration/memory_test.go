package integration

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// inMemory reports whether a process has one of the texts in its writable memory: see proc(5) on
// /proc/PID/maps, mem and pagemap.
func inMemory(t *testing.T, pid int, texts ...[]byte) bool {
	t.Helper()
	dir := filepath.Join("/proc", strconv.Itoa(pid))
	maps := must.Get(os.ReadFile(filepath.Join(dir, "maps")))(t)
	memory, err1 := os.Open(filepath.Join(dir, "mem"))
	pages, err2 := os.Open(filepath.Join(dir, "pagemap"))
	if err1 != nil || err2 != nil {
		t.Skipf("the memory of another process cannot be read here: %v, %v", err1, err2)
	}
	defer func() { _, _ = memory.Close(), pages.Close() }() // only read
	searched := 0
	for line := range strings.Lines(string(maps)) {
		fields := strings.Fields(line)
		if len(fields) < 2 || !strings.HasPrefix(fields[1], "rw") {
			continue
		}
		var begin, end int64
		if _, err := fmt.Sscanf(fields[0], "%x-%x", &begin, &end); err != nil {
			t.Fatalf("/proc/PID/maps has a line %q", line)
		}
		for _, run := range present(t, pages, begin, end) {
			content := make([]byte, run[1]-run[0])
			n, _ := memory.ReadAt(content, run[0]) // fails for memory that was unmapped meanwhile
			searched += n
			for _, text := range texts {
				if bytes.Contains(content[:n], text) {
					return true
				}
			}
		}
	}
	if searched < peer.MiB {
		t.Fatalf("only %d bytes of process %d were searched", searched, pid)
	}
	return false
}

// present returns the parts of a mapping that are in use: QEMU maps gigabytes.
func present(t *testing.T, pages *os.File, begin, end int64) [][2]int64 {
	t.Helper()
	const size = 8 // of an entry; its two top bits are for swapped and present
	page := int64(os.Getpagesize())
	entries := make([]byte, (end-begin)/page*size)
	if n, err := pages.ReadAt(entries, begin/page*size); n < len(entries) {
		t.Fatalf("read pagemap: %v", err)
	}
	var runs [][2]int64
	for at := begin; at < end; at += page {
		entry := binary.NativeEndian.Uint64(entries[(at-begin)/page*size:])
		if entry>>62 == 0 {
			continue
		}
		if last := len(runs) - 1; last >= 0 && runs[last][1] == at {
			runs[last][1] += page
		} else {
			runs = append(runs, [2]int64{at, at + page})
		}
	}
	return runs
}

// TestMemory: if luksplug unlocks the volume, the passphrase is never in QEMU's memory, and luksplug keeps the
// ephemeral header only until QEMU has it. If QEMU unlocks it, the search finds the passphrase.
func TestMemory(t *testing.T) {
	t.Parallel()
	for _, unlock := range []string{"auto", "qemu", "external"} {
		t.Run(unlock, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			q := peer.Start(t, peer.Options{Paused: true, RootPorts: 1, SCSI: true})
			p := newPlug(t, q, peer.NewVolume(t, peer.DetachedRaw), "sdb", "scsi", "")
			p.unlock = unlock
			found := p.lookDuringAttach(ctx, t)
			if want := map[string]bool{"auto": false, "qemu": true, "external": false}[unlock]; found != want {
				t.Errorf("the passphrase was in QEMU's memory: %v, want %v", found, want)
			}
			if unlock == "external" {
				p.wantDiscreetDaemon(ctx, t)
			}
			p.detach(ctx, t)
			if unlock != "qemu" && p.passphraseIn(t, q.PID) {
				t.Error("the passphrase is in QEMU's memory")
			}
		})
	}
}

// passphraseIn reports whether a process has the volume's passphrase in memory.
func (p *plug) passphraseIn(t *testing.T, pid int) bool {
	t.Helper()
	return inMemory(t, pid, p.Passphrase, []byte(base64.StdEncoding.EncodeToString(p.Passphrase)))
}

// lookDuringAttach attaches the disk, and reports whether QEMU had the passphrase in memory before one of
// the steps. luksplug may keep no file in memory beyond the step that passes it.
func (p *plug) lookDuringAttach(ctx context.Context, t *testing.T) bool {
	t.Helper()
	var mu sync.Mutex
	found := false
	b := newBackground()
	proxy := peer.NewProxy(t, p.q.Socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		if c.Step == 0 {
			return peer.Verdict{}
		}
		mu.Lock()
		defer mu.Unlock()
		found = found || p.passphraseIn(t, p.q.PID)
		<-b.started
		if held := memfds(t, b.cmd.Process.Pid); c.Name != "add-fd" && len(held) > 0 {
			t.Errorf("at %s, luksplug has open %v", c.Name, held)
		}
		return peer.Verdict{}
	}})
	b.start(t, program(ctx, proxy.Address, p.attachArgs()...))
	b.result(t).want(t, 0)
	return found
}

// memfds returns the open memfds of a process.
func memfds(t *testing.T, pid int) []string {
	t.Helper()
	dir := fmt.Sprintf("/proc/%d/fd", pid)
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Errorf("list the open files of process %d: %v", pid, err)
	}
	var found []string
	for _, e := range entries {
		if link, err := os.Readlink(filepath.Join(dir, e.Name())); err == nil && strings.HasPrefix(link, "/memfd:") {
			found = append(found, link)
		}
	}
	return found
}

// wantDiscreetDaemon checks that the storage daemon does not expose the passphrase.
func (p *plug) wantDiscreetDaemon(ctx context.Context, t *testing.T) {
	t.Helper()
	daemons := peer.StorageDaemons(p.q.UUID)
	if d := listed(ctx, t, p.q)[p.target]; len(daemons) != 1 || d.Daemon != daemons[0] {
		t.Fatalf("storage daemons %v, and the disk is listed as %+v", daemons, d)
	}
	e := evidence{}
	e.process(t, "the storage daemon", daemons[0])
	files := len(e)
	for _, dir := range peer.RunDirs(p.q.UUID) {
		e.dir(t, dir)
	}
	if len(e) == files {
		t.Error("the storage daemon has no files")
	}
	e.hides(t, string(p.Passphrase))
}
