package image_test

import (
	"os"
	"os/exec"
	"reflect"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/must"
)

// TestPartitions compares the partitions with those that sfdisk was told to make, and finds
// the ones that cryptsetup has formatted.
func TestPartitions(t *testing.T) {
	t.Parallel()
	must.Have(t, "sfdisk", "cryptsetup")
	const mib = 1 << 20
	volume := must.Get(os.ReadFile(must.LUKS(t, "key", 4*mib)))(t)
	for name, c := range map[string]struct {
		table string
		want  []image.Partition
	}{
		"GPT":              {"label: gpt\nstart=2048, size=4096\nstart=8192, size=8192\n", []image.Partition{{1, mib, 2 * mib}, {2, 4 * mib, 4 * mib}}},
		"GPT with a gap":   {"label: gpt\n3: start=8192, size=8192\n", []image.Partition{{3, 4 * mib, 4 * mib}}},
		"MBR":              {"label: dos\nstart=2048, size=4096\nstart=8192, size=8192\n", []image.Partition{{1, mib, 2 * mib}, {2, 4 * mib, 4 * mib}}},
		"MBR, without any": {"label: dos\n", nil},
	} {
		content := make([]byte, 10*mib)
		copy(content[4*mib:], volume)
		path := must.File(t, content)
		cmd := exec.Command("sfdisk", "--quiet", path)
		cmd.Stdin = strings.NewReader(c.table)
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		g := must.Get(image.OpenGuest(path, image.Raw, ""))(t)
		got, err := image.Partitions(g)
		if err != nil || len(got)+len(c.want) > 0 && !reflect.DeepEqual(got, c.want) {
			t.Errorf("%s: got %+v, %v", name, got, err)
		}
		volumes, err := image.Volumes(g, got)
		if err != nil || len(c.want) > 0 && !reflect.DeepEqual(volumes, c.want[len(c.want)-1:]) {
			t.Errorf("%s: got the volumes %+v, %v", name, volumes, err)
		}
		must.OK(t, g.Close())
	}
}

// FuzzPartitions: a table is read within the bounds of its image.
func FuzzPartitions(f *testing.F) {
	gpt := make([]byte, 4096)
	copy(gpt[512:], "EFI PART")
	gpt[512+72], gpt[512+80], gpt[512+84] = 2, 4, 128
	f.Add(gpt)
	mbr := make([]byte, 512)
	mbr[450], mbr[454], mbr[458], mbr[510], mbr[511] = 0x83, 1, 1, 0x55, 0xaa
	f.Add(mbr)
	f.Fuzz(func(t *testing.T, b []byte) {
		path := must.File(t, b)
		g := must.Get(image.OpenGuest(path, image.Raw, ""))(t)
		defer func() { _ = g.Close() }()
		all, err := image.Partitions(g)
		if err != nil || len(all) > 128 {
			t.Fatalf("%d partitions, %v", len(all), err)
		}
		for _, p := range all {
			if p.Offset <= 0 || p.Size <= 0 || p.Offset+p.Size > int64(len(b)) {
				t.Errorf("%+v in %d bytes", p, len(b))
			}
		}
	})
}
