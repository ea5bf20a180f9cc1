package image_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

// TestAllocation: for random writes, zeros and discards, an image stores what "qemu-img map" says.
func TestAllocation(t *testing.T) {
	t.Parallel()
	const size = 8 << 20
	for _, c := range []struct {
		name, format string
		options      []string
		encrypted    bool
	}{
		{name: "raw", format: "raw"},
		{name: "qcow2", format: "qcow2"},
		{name: "small clusters", format: "qcow2", options: []string{"cluster_size=512"}},
		{name: "version 2", format: "qcow2", options: []string{"compat=0.10", "cluster_size=4k"}},
		{name: "subclusters", format: "qcow2", options: []string{"extended_l2=on", "cluster_size=16k"}},
		{name: "encrypted", format: "qcow2", options: []string{"encrypt.format=luks", "encrypt.iter-time=10", "cluster_size=8k"}, encrypted: true},
		{name: "external data", format: "qcow2", options: []string{"cluster_size=4k", "data_file=" + filepath.Join(t.TempDir(), "data")}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			need(t, "qemu-io", "qemu-img")
			path := create(t, c.format, fmt.Sprint(size), c.options...)
			name := []string{"-f", c.format, path}
			if c.encrypted {
				name = []string{"--object", "secret,id=s,file=" + secretFile(t), "--image-opts", "driver=qcow2,encrypt.key-secret=s,file.filename=" + path}
			}
			random := rand.New(rand.NewPCG(1, uint64(len(c.name))))
			args := []string{"-d", "unmap"}
			for range 60 {
				verb := []string{"write -P 7", "write -z", "write -z -u", "discard"}[random.IntN(4)]
				at := random.Int64N(size/512) * 512
				args = append(args, "-c", fmt.Sprintf("%s %d %d", verb, at, min(size-at, 512*(1+random.Int64N(100)))))
			}
			run(t, "qemu-io", append(args, name...)...)
			compareMap(t, path, image.Format(c.format), append([]string{"map", "--output=json"}, name...))
		})
	}
}

// compareMap compares each 512 bytes with what qemu-img says.
func compareMap(t *testing.T, path string, format image.Format, qemuImg []string) {
	t.Helper()
	var parts []struct {
		Start, Length       int64
		Present, Zero, Data bool
	}
	must.OK(t, json.Unmarshal([]byte(run(t, "qemu-img", qemuImg...)), &parts))
	a := must.Get(image.OpenAllocation(path, format))(t)
	defer a.Close()
	different := 0
	for _, p := range parts {
		want := image.StoredData
		switch {
		case !p.Present:
			want = image.StoredNothing
		case p.Zero:
			want = image.StoredZeros
		}
		for at := p.Start; at < p.Start+p.Length; {
			got, length, err := a.At(at)
			must.OK(t, err)
			if length <= 0 {
				t.Fatalf("at %d: %d bytes", at, length)
			}
			if got != want {
				if different++; different < 5 {
					t.Errorf("at %d: got %d for %d bytes, and qemu-img says %d: %+v", at, got, length, want, p)
				}
			}
			at += length
		}
	}
	if len(parts) < 10 {
		t.Errorf("qemu-img has %d parts: nothing is tested", len(parts))
	}
	if got, length, err := a.At(8 << 20); got != image.StoredZeros || length <= 0 || err != nil {
		t.Errorf("beyond the end: %d, %d, %v", got, length, err)
	}
}

// TestAllocationCompressed: a compressed cluster is data.
func TestAllocationCompressed(t *testing.T) {
	t.Parallel()
	need(t, "qemu-io")
	plain := create(t, "qcow2", "1M")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 64k 64k", plain)
	packed := filepath.Join(t.TempDir(), "packed")
	run(t, "qemu-img", "convert", "-c", "-O", "qcow2", plain, packed)
	a := must.Get(image.OpenAllocation(packed, image.Qcow2))(t)
	defer a.Close()
	for at, want := range map[int64]image.Stored{0: image.StoredNothing, 64 << 10: image.StoredData, 128 << 10: image.StoredNothing} {
		if got, _, err := a.At(at); got != want || err != nil {
			t.Errorf("at %d: %d, %v", at, got, err)
		}
	}
}

// TestAllocationDamaged: tables that are cut off or misplaced are errors.
func TestAllocationDamaged(t *testing.T) {
	t.Parallel()
	need(t, "qemu-io")
	path := create(t, "qcow2", "16M", "cluster_size=4k")
	run(t, "qemu-io", "-f", "qcow2", "-c", "write -P 7 0 4k", path)
	content := must.Get(os.ReadFile(path))(t)
	l1 := int64(content[46])<<8 | int64(content[47])
	for what, change := range map[string]func(t *testing.T, path string){
		"cut off": func(t *testing.T, path string) { must.OK(t, os.Truncate(path, l1+8)) },
		"misplaced": func(t *testing.T, path string) {
			b := must.Get(os.ReadFile(path))(t)
			b[l1+6] |= 2
			must.Write(t, path, b)
		},
	} {
		copied := must.File(t, content)
		change(t, copied)
		a := must.Get(image.OpenAllocation(copied, image.Qcow2))(t)
		if _, _, err := a.At(0); !errors.Is(err, image.ErrDamaged) {
			t.Errorf("%s: %v", what, err)
		}
		a.Close()
	}
	if _, err := image.OpenAllocation(path, "vmdk"); !errors.Is(err, image.ErrUnsupported) {
		t.Error(err)
	}
	if _, err := image.OpenAllocation(must.File(t, strings.Repeat("x", 512)), image.Qcow2); !errors.Is(err, image.ErrDamaged) {
		t.Error(err)
	}
}
