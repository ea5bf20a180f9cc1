package hotplug_test

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/must"
)

// TestExtentThatIsAVolume: the extents of a trusted vmdk image are what its guest sees and
// writes. One that is a volume is refused, unless the caller says that it is the guest's.
func TestExtentThatIsAVolume(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v, _ := vm(t, hotplug.Options{})
	before := state(ctx, t, v)
	_, create := chainImages(t)
	volume := must.Get(os.ReadFile(must.LUKS(t, key, 4<<20)))(t)[:1<<20]
	for _, c := range []struct{ subformat, extent string }{{"monolithicFlat", "-flat.vmdk"}, {"twoGbMaxExtentFlat", "-f001.vmdk"}} {
		path := create(c.subformat+".vmdk", "-f", "vmdk", "-o", "subformat="+c.subformat)
		disk, extent := diskOf(t, "vmdk", path, "", ""), strings.TrimSuffix(path, ".vmdk")+c.extent
		if err := attachWith(ctx, v, disk, hotplug.Spec{TrustImageChain: true}); err != nil {
			t.Errorf("%s: %v", c.subformat, err)
		} else {
			_ = must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
		}
		must.OK(t, os.WriteFile(extent, volume, 0o600))
		if err := attachWith(ctx, v, disk, hotplug.Spec{}); !errors.Is(err, hotplug.ErrImageChain) {
			t.Errorf("%s, not trusted: %v", c.subformat, err)
		}
		err := attachWith(ctx, v, disk, hotplug.Spec{TrustImageChain: true})
		if !errors.Is(err, hotplug.ErrGuestHeader) || !strings.Contains(err.Error(), "the extent "+extent) || !strings.Contains(err.Error(), "is encrypted with LUKS") {
			t.Errorf("%s, trusted: %v", c.subformat, err)
		}
		if err := attachWith(ctx, v, disk, hotplug.Spec{TrustImageChain: true, AllowGuestHeader: true}); err != nil {
			t.Errorf("%s, allowed: %v", c.subformat, err)
			continue
		}
		_ = must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
	}
	if after := state(ctx, t, v); !reflect.DeepEqual(before, after) {
		t.Errorf("before %+v\nafter  %+v", before, after)
	}
}

// TestVolumeInsideOfFormats: what the guest sees through a format is the guest's own, also a
// volume.
func TestVolumeInsideOfFormats(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "qemu-img", "qemu-storage-daemon")
	v, _ := vm(t, hotplug.Options{})
	volume := must.LUKS(t, key, 4<<20)
	for format, driver := range map[string]string{"qcow2": "qcow2", "vmdk": "vmdk", "vdi": "vdi", "vpc": "vpc", "vhd": "vhdx"} {
		path := filepath.Join(t.TempDir(), "image")
		must.Run(t, "", "qemu-img", "convert", "-f", "raw", "-O", driver, volume, path)
		if err := attachWith(ctx, v, diskOf(t, format, path, "", ""), hotplug.Spec{}); err != nil {
			t.Errorf("%s: %v", format, err)
			continue
		}
		_ = must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
		if err := attachWith(ctx, v, diskOf(t, "raw", path, "", ""), hotplug.Spec{}); format != "vpc" && !errors.Is(err, hotplug.ErrGuestHeader) {
			t.Errorf("%s as raw: %v", format, err)
		} else if err == nil {
			_ = must.Get(v.Detach(ctx, "sdb", hotplug.DetachOptions{Wait: 10 * time.Second}))(t)
		}
	}
}

// TestOverwrittenHeader: a LUKS2 volume whose beginning was overwritten is found by the second
// copy of its header, on a server and in a slice as in a file, with and without <encryption>.
func TestOverwrittenHeader(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "cryptsetup", "qemu-storage-daemon")
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	path := must.LUKS(t, key, 20<<20, "--type", "luks2", "--pbkdf", "pbkdf2", "--luks2-metadata-size", "1m")
	content := must.Get(os.ReadFile(path))(t)
	clear(content[:4096])
	whole := must.File(t, content)
	sliced := must.File(t, append(make([]byte, 1<<20), content...))
	slice := fmt.Sprintf("<slices><slice type='storage' offset='%d' size='%d'/></slices>", 1<<20, len(content))
	socket := serve(t, must.File(t, content)) // which is locked
	for _, c := range []struct{ name, disk, source, inner string }{
		{"file", "file", "file='" + whole + "'", ""},
		{"slice", "file", "file='" + sliced + "'", slice},
		{"server", "network", "protocol='nbd' name='disk'", "<host transport='unix' socket='" + socket + "'/>"},
	} {
		for encryption, want := range map[string]error{"": hotplug.ErrGuestHeader, "<encryption format='luks'><secret type='passphrase' usage='test'/></encryption>": hotplug.ErrHeaderUnusable} {
			disk, err := diskxml.ParseDisk([]byte("<disk type='" + c.disk + "'><driver name='qemu' type='raw'/><source " + c.source + ">" + c.inner + encryption + "</source><target dev='sdb' bus='scsi'/></disk>"))
			must.OK(t, err)
			if err := attachWith(ctx, v, disk, hotplug.Spec{}); !errors.Is(err, want) || !strings.Contains(err.Error(), "second copy") || !strings.Contains(err.Error(), "`cryptsetup repair` can restore the header, after a copy") {
				t.Errorf("%s, %q: %v", c.name, encryption, err)
			}
		}
	}
	wantNothingLeft(ctx, t, v, before, run)
}

// TestEncryptedPayload: a qcow2 image with LUKS inside is no payload of a detached header, and
// not plain on a server or in a slice: the refusal says what it is.
func TestEncryptedPayload(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	must.Have(t, "qemu-storage-daemon")
	run := t.TempDir()
	v, _ := vm(t, hotplug.Options{RunDir: run})
	before := state(ctx, t, v)
	inside, _ := transientDisk(t, "qcow2", true, "")
	path := inside.Image.Source.Path
	content := must.Get(os.ReadFile(path))(t)
	sliced := must.File(t, append(make([]byte, 1<<20), content...))
	slice := fmt.Sprintf("<slices><slice type='storage' offset='%d' size='%d'/></slices>", 1<<20, len(content))
	header := "<encryption format='luks'><secret type='passphrase' usage='test'/><header type='file'><source file='" + must.LUKS(t, key, 4<<20) + "'/></header></encryption>"
	for _, c := range []struct{ name, path, inSource, says string }{
		{"plain", path, "", "add <encryption format='luks'>"},
		{"plain in a slice", sliced, slice, "add <encryption format='luks'>"},
		{"under a header", path, header, "is encrypted itself (luks)"},
		{"under a header, in a slice", sliced, slice + header, "is encrypted itself (luks)"},
	} {
		err := attachWith(ctx, v, diskOf(t, "qcow2", c.path, c.inSource, ""), hotplug.Spec{})
		if !errors.Is(err, hotplug.ErrUnexpectedEncryption) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
	wantNothingLeft(ctx, t, v, before, run)
}
