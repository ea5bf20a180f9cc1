package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestPassphraseChangeWhileAttached: a guest writes to a disk while its passphrase is changed. Its data are intact, the disk is
// attached again with the new passphrase, and refused with the old one.
func TestPassphraseChangeWhileAttached(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	for name, c := range map[string]struct {
		unlock   string
		detached bool
	}{
		"raw, opened by QEMU": {unlock: "qemu"},
		"raw, detached":       {unlock: "auto", detached: true},
	} {
		t.Run(name, func(t *testing.T) {
			if c.detached {
				peer.Long(t, "QEMU does not have the header open; every run has the other layout")
			}
			dir := shortDir(t, "")
			_, store := volumeStore(t)
			args := []string{"--keystore", store, "--output", "json", "volume", "create", "vm1-vdb", "--size", "8M", "--path", filepath.Join(dir, "image")}
			if c.detached {
				args = append(args, "--header", filepath.Join(dir, "header"))
			}
			var made struct {
				Secret  string
				DiskXML string `json:"disk_xml"`
			}
			run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0).decode(t, &made)
			disk := writeFile(t, "disk.xml", made.DiskXML)
			old := writeFile(t, "old.key", run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "secret", "get-value", made.Secret)).want(t, 0).stdout)
			must.OK(t, os.Chmod(old, 0o600))
			attach := func() string {
				tool(ctx, t, q.Socket, "--keystore", store, "attach", "--unlock", c.unlock, disk).want(t, 0)
				return guestDisk(ctx, t, q, "vm1-vdb")
			}
			dev := attach()
			w := startWriter(ctx, t, q, dev)
			var changed struct {
				Volumes []struct {
					Slot  int
					Added bool
					Wiped []int
				}
				Replaced bool `json:"value_replaced"`
			}
			run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "--output", "json", "volume", "passphrase", "change", disk)).want(t, 0).decode(t, &changed)
			if len(changed.Volumes) != 1 || changed.Volumes[0].Slot != 1 || len(changed.Volumes[0].Wiped) != 1 || !changed.Replaced {
				t.Errorf("%+v", changed)
			}
			written := w.end(t)
			w.check(ctx, t, q, dev)
			tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
			tool(ctx, t, q.Socket, "--passphrase-file", old, "attach", disk).want(t, 4)
			w.check(ctx, t, q, attach())
			tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
			wantSame(ctx, t, q, before)
			t.Logf("the guest wrote %d MiB meanwhile", written)
		})
	}
}

// writer is a guest that writes pattern after pattern to the first MiBs of a disk.
type writer struct {
	stop, begun chan struct{}
	done        chan error
	patterns    [writerMiBs][]byte
	written     int
}

const writerMiBs = 4

// startWriter returns once the guest has written.
func startWriter(ctx context.Context, t *testing.T, q *peer.QEMU, dev string) *writer {
	t.Helper()
	w := &writer{stop: make(chan struct{}), begun: make(chan struct{}), done: make(chan error, 1)}
	go func() {
		for {
			select {
			case <-w.stop:
				w.done <- nil
				return
			default:
			}
			pattern := fmt.Appendf(nil, "what the guest writes, number %d; ", w.written)
			if err := q.Guest().WritePattern(ctx, dev, w.written%writerMiBs, 1, pattern); err != nil {
				w.done <- err
				return
			}
			w.patterns[w.written%writerMiBs] = pattern
			if w.written++; w.written == writerMiBs {
				close(w.begun)
			}
		}
	}()
	select {
	case <-w.begun:
	case err := <-w.done:
		t.Fatal(err)
	}
	return w
}

// end stops the guest, and returns how many MiB it has written.
func (w *writer) end(t *testing.T) int {
	t.Helper()
	close(w.stop)
	must.OK(t, <-w.done)
	return w.written
}

// check ends the test unless the guest reads what it wrote last.
func (w *writer) check(ctx context.Context, t *testing.T, q *peer.QEMU, dev string) {
	t.Helper()
	for mib, pattern := range w.patterns {
		wantHash(ctx, t, q, dev, mib, pattern)
	}
}
