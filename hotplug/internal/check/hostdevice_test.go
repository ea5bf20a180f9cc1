package check

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
)

func TestCheckNVMe(t *testing.T) {
	t.Parallel()
	bus := t.TempDir()
	for address, driver := range map[string]string{"0000:01:00.0": "nvme", "0000:02:00.0": "", "0000:03:00.0": "vfio-pci"} {
		device := filepath.Join(bus, "devices", address)
		if err := os.MkdirAll(device, 0o700); err != nil {
			t.Fatal(err)
		}
		if driver == "" {
			continue
		}
		if err := os.Symlink("../../drivers/"+driver, filepath.Join(device, "driver")); err != nil {
			t.Fatal(err)
		}
	}
	for address, want := range map[string]string{
		"0000:01:00.0": "its driver is nvme",
		"0000:02:00.0": "its driver is none",
		"0000:03:00.0": "",
		"0000:04:00.0": "has no PCI device 0000:04:00.0",
	} {
		err := checkNVMe(&blockgraph.NVMe{Device: address, Namespace: 1}, bus)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", address, err, want)
		}
	}
}

func TestCheckVDPA(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for path, want := range map[string]string{
		"/dev/null":                         "", // a character device, as they are
		filepath.Join(dir, "vhost-vdpa-0"):  "make the vhost-vdpa device first",
		dir:                                 "is not a vhost-vdpa device",
		filepath.Join("/dev/null", "below"): "cannot be used",
	} {
		err := checkVDPA(path)
		if (err == nil) != (want == "") || err != nil && !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", path, err, want)
		}
	}
}
