package image_test

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/luks"
)

// scribble writes a pattern into an image through QEMU: whole and partial clusters,
// holes, and zeroes over data.
func scribble(t *testing.T, path string) {
	t.Helper()
	need(t, "qemu-io")
	args := []string{"-f", "qcow2"}
	for _, command := range []string{
		"write -P 0x11 0 1k", "write -P 0x22 4k 3k", "write -P 0x33 100k 64k", "write -P 0x44 1m 130k", "write -z 1088k 20k",
		"write -z 2m 64k", "write -P 0x55 2100k 512", "write -P 0x66 3071k 1k", "discard 128k 64k",
	} {
		args = append(args, "-c", command)
	}
	run(t, "qemu-io", append(args, path)...)
}

// content returns what QEMU reads from the image.
func content(t *testing.T, path string) []byte {
	t.Helper()
	raw := filepath.Join(t.TempDir(), "raw")
	run(t, "qemu-img", "convert", "-f", "qcow2", "-O", "raw", path, raw)
	b, err := os.ReadFile(raw)
	must.OK(t, err)
	return b
}

func sameAsQEMU(t *testing.T, path string) {
	t.Helper()
	want := content(t, path)
	g, err := image.OpenGuest(path, image.Qcow2, dataFile(path))
	must.OK(t, err)
	defer func() { _ = g.Close() }()
	if g.Size() != int64(len(want)) {
		t.Fatalf("%d bytes, QEMU says %d", g.Size(), len(want))
	}
	got, err := io.ReadAll(io.NewSectionReader(g, 0, g.Size()))
	must.OK(t, err)
	if !bytes.Equal(got, want) {
		for i := range got {
			if got[i] != want[i] {
				t.Fatalf("the first different byte is %d: %#x instead of %#x", i, got[i], want[i])
			}
		}
	}
	// Off the cluster borders.
	for _, off := range []int64{1, 511, 4095, 1<<20 - 1, 1<<20 + 65537} {
		p := make([]byte, 70_001)
		if _, err := g.ReadAt(p, off); err != nil || !bytes.Equal(p, want[off:off+int64(len(p))]) {
			t.Errorf("at %d: %v", off, err)
		}
	}
	// Over the end.
	p := make([]byte, 100)
	if n, err := g.ReadAt(p, g.Size()-40); n != 40 || !errors.Is(err, io.EOF) || !bytes.Equal(p[:n], want[len(want)-40:]) {
		t.Errorf("over the end: %d, %v", n, err)
	}
	if n, err := g.ReadAt(p, g.Size()); n != 0 || !errors.Is(err, io.EOF) {
		t.Errorf("after the end: %d, %v", n, err)
	}
	if _, err := g.ReadAt(p, -1); err == nil {
		t.Error("before the beginning")
	}
}

func TestGuestReadsWhatQEMUReads(t *testing.T) {
	t.Parallel()
	for name, options := range map[string][]string{
		"version 2": {"compat=0.10"}, "version 3": nil, "small clusters": {"cluster_size=512"}, "big clusters": {"cluster_size=2M"},
		"extended L2": {"extended_l2=on"}, "extended L2, big": {"extended_l2=on", "cluster_size=1M"},
		"data file":     {"data_file=" + filepath.Join(t.TempDir(), "data")},
		"raw data file": {"data_file=" + filepath.Join(t.TempDir(), "data"), "data_file_raw=on"},
		"preallocated":  {"preallocation=metadata"},
		"lazy":          {"lazy_refcounts=on"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			path := create(t, "qcow2", "3M", options...)
			scribble(t, path)
			sameAsQEMU(t, path)
		})
	}
}

func TestCompressedClusters(t *testing.T) {
	t.Parallel()
	plain := create(t, "qcow2", "3M")
	scribble(t, plain)
	for name, options := range map[string]string{"zlib": "compression_type=zlib", "small": "cluster_size=4k", "big": "cluster_size=2M", "extended L2": "extended_l2=on"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			packed := filepath.Join(t.TempDir(), "packed")
			run(t, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", options, plain, packed)
			sameAsQEMU(t, packed)
		})
	}
	zstd := filepath.Join(t.TempDir(), "zstd")
	run(t, "qemu-img", "convert", "-c", "-O", "qcow2", "-o", "compression_type=zstd", plain, zstd)
	if _, err := prefix(zstd, image.Qcow2, 512); !errors.Is(err, image.ErrUnsupported) {
		t.Errorf("zstd: %v", err)
	}
}

func TestRelativeDataFile(t *testing.T) {
	t.Parallel()
	need(t, "qemu-img", "qemu-io")
	path := filepath.Join(t.TempDir(), "image")
	run(t, "qemu-img", "create", "-q", "-f", "qcow2", "-o", "data_file="+path+".data", path, "3M")
	scribble(t, path)
	want := content(t, path)[:4096]
	run(t, "qemu-img", "amend", "-f", "qcow2", "-o", "data_file=image.data", path)
	if got, err := prefix(path, image.Qcow2, 4096); err != nil || !bytes.Equal(got, want) {
		t.Errorf("%v", err)
	}
	must.OK(t, os.Remove(path+".data"))
	if _, err := prefix(path, image.Qcow2, 1); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), "image.data") {
		t.Error(err)
	}
}

func TestBackingIsNotFollowed(t *testing.T) {
	t.Parallel()
	base := create(t, "qcow2", "3M")
	scribble(t, base)
	path := create(t, "qcow2", "3M", "backing_file="+base, "backing_fmt=qcow2")
	if _, err := prefix(path, image.Qcow2, 512); !errors.Is(err, image.ErrUnsupported) || !strings.Contains(err.Error(), base) {
		t.Error(err)
	}
	// Data in the image itself is read.
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 0x77 0 64k", path)
	if got, err := prefix(path, image.Qcow2, 512); err != nil || !bytes.Equal(got, bytes.Repeat([]byte{0x77}, 512)) {
		t.Error(err)
	}
}

// The question of the preflight: is the image in the qcow2 image a payload or a LUKS header?
func TestLUKSInsideOfQcow2(t *testing.T) {
	t.Parallel()
	inner := luksFormat(t, "luks1", 4<<20)
	path := filepath.Join(t.TempDir(), "qcow2")
	need(t, "qemu-img")
	run(t, "qemu-img", "convert", "-f", "raw", "-O", "qcow2", inner, path)
	start, err := prefix(path, image.Qcow2, 16)
	if err != nil || !luks.HasMagic(start) {
		t.Errorf("%q %v", start, err)
	}
	g, err := image.OpenGuest(path, image.Qcow2, dataFile(path))
	must.OK(t, err)
	defer func() { _ = g.Close() }()
	got, err := luks.ReadHeader(g)
	must.OK(t, err)
	if want, err := image.Probe(inner); err != nil || got.UUID != want.LUKS.UUID {
		t.Errorf("%v %v", got, err)
	}
}

func TestGuestPrefix(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "raw")
	must.OK(t, os.WriteFile(path, []byte("QFI\xfb is raw if we say so"), 0o600))
	for n, want := range map[int]string{0: "", 3: "QFI", 100: "QFI\xfb is raw if we say so"} {
		if got, err := prefix(path, image.Raw, n); err != nil || string(got) != want {
			t.Errorf("%d: %q %v", n, got, err)
		}
	}
	if _, err := prefix(path, image.Qcow2, 1); !errors.Is(err, image.ErrDamaged) {
		t.Error(err)
	}
	if _, err := prefix(path, "vmdk", 1); !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := prefix(path+"x", image.Raw, 1); !errors.Is(err, os.ErrNotExist) {
		t.Error(err)
	}
	encrypted := create(t, "qcow2", "1M", "encrypt.format=aes")
	if _, err := prefix(encrypted, image.Qcow2, 1); !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
}
