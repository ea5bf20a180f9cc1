package volume_test

import (
	"bytes"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
)

const deviceSize = 16 << 20

// loop returns a block device of deviceSize bytes, with sectors of this size.
func loop(t *testing.T, sector string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("loop devices need root")
	}
	must.Have(t, "losetup", "wipefs")
	file := filepath.Join(t.TempDir(), "device")
	must.OK(t, os.WriteFile(file, nil, 0o600))
	must.OK(t, os.Truncate(file, deviceSize))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", "--sector-size", sector, file).CombinedOutput()
	if err != nil {
		t.Skipf("no loop device: %v: %s", err, out)
	}
	path := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", path).Run() })
	return path
}

// TestDevice: a block device gets a header, its data stay, and QEMU and cryptsetup open it.
func TestDevice(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-io", "cryptsetup")
	dev := loop(t, "512")
	store, keys := keysIn(t)
	const payload = 2 << 20
	f := must.Get(os.OpenFile(dev, os.O_RDWR, 0))(t)
	must.Get(f.WriteAt(bytes.Repeat([]byte("data"), 1024), payload))(t)
	must.Get(f.WriteAt(bytes.Repeat([]byte("old"), 100), payload-512))(t)
	must.OK(t, f.Close())
	planned := must.Get(volume.Check(t.Context(), volume.Request{Path: dev}))(t)
	v := must.Get(volume.Create(t.Context(), volume.Request{Path: dev}, keys))(t)
	if v.Size != deviceSize-payload || !v.Block || v.Size != planned.Size || len(v.Warnings) > 0 {
		t.Errorf("%+v", v)
	}
	got := must.Get(os.ReadFile(dev))(t)
	if !bytes.HasPrefix(got[payload:], []byte("datadata")) || bytes.Contains(got[:payload], []byte("old")) {
		t.Error("the payload was changed, or the header's place was not cleared")
	}
	key := value(t, store, v)
	must.Run(t, "", "cryptsetup", "luksDump", "-q", "--dump-volume-key", "--key-file", key, dev)
	must.Run(t, "", "qemu-io", "--object", "secret,id=s,file="+key, "-c", "write -P 7 0 64k", "-c", "read -P 7 0 64k",
		`json:{"driver":"luks","key-secret":"s","file":{"driver":"host_device","filename":"`+dev+`"}}`)
	if xml := string(v.DiskXML("vdb", "")); !strings.Contains(xml, "<disk type='block'") || !strings.Contains(xml, "<source dev='"+dev+"'") {
		t.Error(xml)
	}

	_, err := volume.Create(t.Context(), volume.Request{Path: dev}, keys)
	if !errors.Is(err, volume.ErrSignature) || !strings.Contains(err.Error(), "crypto_LUKS at byte 0, and 16777216 bytes in all") {
		t.Errorf("a second time: %v", err)
	}
	if _, err := volume.Create(t.Context(), volume.Request{Path: dev, Force: deviceSize - 1}, keys); !errors.Is(err, volume.ErrSignature) {
		t.Errorf("forced by another size: %v", err)
	}
	_, others := keysIn(t) // the store above has a secret for the device
	forced := must.Get(volume.Create(t.Context(), volume.Request{Path: dev, Force: deviceSize, Size: size}, others))(t)
	if forced.UUID == v.UUID || len(forced.Warnings) != 1 || !strings.Contains(forced.Warnings[0], "does not limit the size") {
		t.Errorf("%+v", forced)
	}
}

func TestDeviceRefuses(t *testing.T) {
	t.Parallel()
	dev := loop(t, "512")
	must.Have(t, "mkfs.ext4")
	must.Run(t, "", "mkfs.ext4", "-q", dev)
	d := t.TempDir()
	before := must.Get(os.ReadFile(dev))(t)
	link := filepath.Join(d, "link")
	must.OK(t, os.Symlink(dev, link))
	for what, c := range map[string]struct {
		r    volume.Request
		want error
	}{
		"a file system":               {volume.Request{Path: dev}, volume.ErrSignature},
		"by a link":                   {volume.Request{Path: link}, volume.ErrSignature},
		"with a header elsewhere":     {volume.Request{Path: dev, Header: filepath.Join(d, "h"), Force: deviceSize}, volume.ErrExists},
		"too large":                   {volume.Request{Path: dev, Size: deviceSize, Force: deviceSize}, volume.ErrRequest},
		"qcow2":                       {volume.Request{Path: dev, Format: blockgraph.FormatQcow2, Size: size}, volume.ErrRequest},
		"preallocated":                {volume.Request{Path: dev, Preallocation: volume.PreallocationFull}, volume.ErrRequest},
		"neither a file nor a device": {volume.Request{Path: d, Size: size}, volume.ErrExists},
	} {
		if _, err := volume.Check(t.Context(), c.r); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", what, err)
		}
	}
	if !bytes.Equal(before, must.Get(os.ReadFile(dev))(t)) {
		t.Error("the device was changed")
	}
	mounted := filepath.Join(d, "m")
	must.OK(t, os.Mkdir(mounted, 0o700))
	must.OK(t, unix.Mount(dev, mounted, "ext4", 0, ""))
	t.Cleanup(func() { _ = unix.Unmount(mounted, 0) })
	if _, err := volume.Check(t.Context(), volume.Request{Path: dev, Force: deviceSize}); !errors.Is(err, volume.ErrInUse) || !strings.Contains(err.Error(), "mounted at "+mounted) {
		t.Errorf("a mounted device: %v", err)
	}
}

// TestDeviceSectors: a device with other sectors works, and a warning says what it costs.
func TestDeviceSectors(t *testing.T) {
	t.Parallel()
	dev := loop(t, "4096")
	store, keys := keysIn(t)
	d := t.TempDir()
	mode := os.FileMode(0o640)
	v := must.Get(volume.Create(t.Context(), volume.Request{Path: dev, Header: filepath.Join(d, "h"), Mode: mode}, keys))(t)
	if len(v.Warnings) != 2 || !strings.Contains(v.Warnings[0], "sectors of 4096 bytes") || !strings.Contains(v.Warnings[1], "keeps its owner") || v.Size != deviceSize {
		t.Errorf("%+v", v)
	}
	if got := must.Get(os.ReadFile(dev))(t); len(bytes.Trim(got, "\x00")) != 0 {
		t.Error("a device whose header is elsewhere was written to")
	}
	must.Have(t, "qemu-io")
	must.Run(t, "", "qemu-io", "--object", "secret,id=s,file="+value(t, store, v), "-c", "write -P 7 512 512", "-c", "read -P 7 512 512",
		`json:{"driver":"luks","key-secret":"s","file":{"driver":"host_device","filename":"`+dev+`"},"header":{"driver":"file","filename":"`+v.Header+`"}}`)
}
