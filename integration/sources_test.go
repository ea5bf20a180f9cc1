package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestSources attaches payloads and headers on block devices and in qcow2 images, with the tuning of <driver>,
// and has the guest write.
func TestSources(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	for _, c := range []struct {
		name            string
		kind            peer.VolumeKind
		payload, header func(*testing.T, string) string // make the XML's <source> and <header>
		driver          string
	}{
		{"header in qcow2", peer.DetachedRaw, inFile, headerInQcow2, "cache='none' io='native' discard='unmap'"},
		{"header on a block device", peer.DetachedRaw, inFile, headerOnBlock, "cache='writethrough' io='threads'"},
		{"payload on a block device", peer.DetachedRaw, onBlock, headerInFile, "cache='directsync' io='native'"},
		{"qcow2 payload and header on block devices", peer.DetachedQcow2, onLargeBlock, headerOnBlock, "discard='unmap' detect_zeroes='unmap'"},
		{"embedded on a block device", peer.EmbeddedLUKS, onBlock, nil, "cache='unsafe' io='io_uring'"},
		{"qcow2 with LUKS on a block device", peer.Qcow2LUKS, onLargeBlock, nil, "cache='writeback' error_policy='enospace' rerror_policy='report'"},
	} {
		t.Run(c.name, func(t *testing.T) {
			v := peer.NewVolume(t, c.kind)
			kind, source := "file", c.payload(t, v.Payload)
			if strings.Contains(source, "dev=") {
				kind = "block"
			}
			header := ""
			if c.header != nil {
				header = c.header(t, v.Header)
			}
			xml := writeFile(t, "disk.xml", fmt.Sprintf(`<disk type='%s' device='disk'>
  <driver name='qemu' type='%s' %s/>
  <source %s><encryption format='luks'><secret type='passphrase' uuid='%s'/>%s</encryption></source>
  <target dev='vdb' bus='virtio'/><serial>source</serial></disk>`, kind, v.Format, c.driver, source, v.SecretUUID, header))
			writeThrough(ctx, t, q, v, xml)
		})
	}
}

// writeThrough attaches the disk twice (the second attach changes nothing), has the guest write, detaches,
// and reads it on the host.
func writeThrough(ctx context.Context, t *testing.T, q *peer.QEMU, v *peer.Volume, xml string) {
	t.Helper()
	before := stateOf(ctx, t, q)
	key := "--passphrase-file=" + v.PassphraseFile
	tool(ctx, t, q.Socket, key, "attach", xml).want(t, 0)
	tool(ctx, t, q.Socket, key, "attach", xml).want(t, 0).wantStdout(t, "already attached")
	dev := guestDisk(ctx, t, q, "source")
	pattern := []byte("written by a guest that knows of no encryption; ")
	must.OK(t, q.Guest().WritePattern(ctx, dev, 3, 1, pattern))
	tool(ctx, t, q.Socket, "detach", "vdb").want(t, 0)
	wantSame(ctx, t, q, before)
	plain := must.Get(v.ReadThrough(ctx, 3*peer.MiB, peer.MiB))(t)
	if !bytes.Equal(plain[:len(pattern)], pattern) {
		t.Errorf("the host reads %q", plain[:len(pattern)])
	}
}

func inFile(_ *testing.T, path string) string { return "file='" + path + "'" }

func onBlock(t *testing.T, path string) string { return "dev='" + loopDevice(t, path) + "'" }

// onLargeBlock puts a qcow2 image on a device with room to grow.
func onLargeBlock(t *testing.T, path string) string {
	t.Helper()
	must.OK(t, os.Truncate(path, 2*peer.VolumeSize))
	return onBlock(t, path)
}

func headerInFile(_ *testing.T, path string) string {
	return "<header type='file'><source file='" + path + "'/></header>"
}

func headerOnBlock(t *testing.T, path string) string {
	return "<header type='block'><format type='raw'/><source dev='" + loopDevice(t, path) + "'/></header>"
}

func headerInQcow2(t *testing.T, path string) string {
	t.Helper()
	qcow2 := filepath.Join(t.TempDir(), "header.qcow2")
	if out, err := exec.Command("qemu-img", "convert", "-f", "raw", "-O", "qcow2", path, qcow2).CombinedOutput(); err != nil {
		t.Fatalf("qemu-img convert: %v: %s", err, out)
	}
	return "<header type='file'><format type='qcow2'/><source file='" + qcow2 + "'/></header>"
}

// loopDevice makes a block device of a file.
func loopDevice(t *testing.T, path string) string {
	t.Helper()
	out, err := exec.Command("losetup", "--find", "--show", path).Output()
	if err != nil {
		t.Skipf("no loop devices here: %v", err)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", device).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach %s: %v: %s", device, err, out)
		}
	})
	return device
}
