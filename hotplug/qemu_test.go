package hotplug_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// vmOptions starts the VM of the tests, which never runs guest code. SCSI disks can be
// unplugged without a guest; devices that need one are tested in package integration.
var vmOptions = []string{"-machine", "q35,accel=tcg", "-m", "64", "-display", "none", "-nodefaults", "-S",
	"-device", "pcie-root-port,id=rp1,chassis=1", "-device", "virtio-scsi-pci,id=scsi0,bus=rp1",
	"-device", "pcie-root-port,id=rp2,chassis=2", "-device", "pcie-root-port,id=rp10,chassis=10"}

// startQEMU starts a VM with two monitors and further arguments, and returns their
// sockets.
func startQEMU(dir string, extra ...string) (sockets [2]string, stop func(), err error) {
	sockets = [2]string{filepath.Join(dir, "a.qmp"), filepath.Join(dir, "b.qmp")}
	args := append(slices.Clone(vmOptions), extra...)
	for _, s := range sockets {
		args = append(args, "-qmp", "unix:"+s+",server=on,wait=off")
	}
	cmd := exec.Command("qemu-system-x86_64", args...)
	var log bytes.Buffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		return sockets, nil, err
	}
	stop = func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	}
	ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
	defer cancel()
	for _, s := range sockets {
		for {
			if _, err = os.Stat(s); err == nil {
				break
			}
			if ctx.Err() != nil {
				stop()
				return sockets, nil, fmt.Errorf("QEMU did not start: %s", log.String())
			}
			time.Sleep(5 * time.Millisecond) // QEMU does not signal when it listens
		}
	}
	return sockets, stop, nil
}

// vm starts a VM and connects to it; dial opens its second monitor.
func vm(t *testing.T, options hotplug.Options) (*hotplug.VM, hotplug.Dialer) {
	t.Helper()
	if _, err := exec.LookPath("qemu-system-x86_64"); err != nil {
		t.Skip("qemu-system-x86_64 is not installed: make setup")
	}
	sockets, stop, err := startQEMU(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	if options.LockDir == "" {
		options.LockDir = t.TempDir()
	}
	if options.RunDir == "" {
		options.RunDir = t.TempDir()
	}
	v, err := hotplug.Connect(context.Background(), dialer(sockets[0]), options)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = v.Close() })
	return v, dialer(sockets[1])
}

func dialer(address string) hotplug.Dialer {
	return func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, address) }
}

const key = "an unguessable passphrase"

// luksDisk makes an encrypted raw image and returns the disk for it.
func luksDisk(t *testing.T, target string) *blockgraph.Disk {
	t.Helper()
	path := must.LUKS(t, key, 2<<20+8<<20)
	return parse(t, target, "raw", path, `<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>`)
}

// plainDisk makes an image that needs no key, which is quicker.
func plainDisk(t *testing.T, target string) *blockgraph.Disk {
	t.Helper()
	path := filepath.Join(t.TempDir(), "plain.img")
	if err := os.WriteFile(path, make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	return parse(t, target, "raw", path, "")
}

func keyFile(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "key")
	if err := os.WriteFile(path, []byte(key), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func parse(t *testing.T, target, format, path, inSource string) *blockgraph.Disk {
	t.Helper()
	disk, err := diskxml.ParseDisk([]byte(fmt.Sprintf(`<disk type='file' device='disk'>
  <driver name='qemu' type='%s'/><source file='%s'>%s</source><target dev='%s' bus='scsi'/></disk>`, format, path, inSource, target)))
	if err != nil {
		t.Fatal(err)
	}
	return disk
}

// store returns one passphrase for every reference.
type store string

func (s store) String() string { return "test store" }

func (s store) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	return secrets.New([]byte(s)), nil
}
