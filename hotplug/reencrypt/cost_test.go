package reencrypt_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/internal/must"
)

// copying returns a copy of a raw disk of size bytes, whose layout is from, with 1 MiB written, to dir.
func copying(t *testing.T, size int64, from, to reencrypt.Layout, dir string) reencrypt.Copying {
	t.Helper()
	path := must.File(t, strings.Repeat("x", 1<<20))
	must.OK(t, os.Truncate(path, size))
	return reencrypt.Copying{
		Source: reencrypt.Source{Layout: from, Size: size, Layers: []reencrypt.Layer{{Path: path, Format: blockgraph.FormatRaw}}},
		Target: reencrypt.Target{Layout: to, Path: filepath.Join(dir, "new"), HeaderSize: 2 << 20},
	}
}

func cost(t *testing.T, c reencrypt.Copying) reencrypt.Cost {
	t.Helper()
	return must.Get(reencrypt.EstimateCost(t.Context(), c))(t)
}

// TestCostWithoutRoom: a target that does not fit is refused, with what is needed, what there is, where, and what helps.
func TestCostWithoutRoom(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	c := copying(t, 1<<40, reencrypt.LayoutRaw, reencrypt.LayoutLUKSInQcow2, dir)
	thin := cost(t, c)
	must.OK(t, thin.Fits())
	if !thin.Thin || !thin.Trim || thin.Copied != 1<<20 {
		t.Errorf("%+v", thin)
	}
	c.Target.Preallocation = volume.PreallocationFalloc
	if full := cost(t, c); full.Allocation != 1<<40 || full.Thin || full.Trim || full.Copied != 1<<20 {
		t.Errorf("all of it allocated: %+v", full)
	}
	c.Target.Preallocation = volume.PreallocationOff
	// More than any file system here has.
	c.Source.Size = 1 << 58
	c.Target.Layout = reencrypt.LayoutLUKS
	fat := cost(t, c)
	err := fat.Fits()
	var room *reencrypt.RoomError
	if !errors.Is(err, volume.ErrNoRoom) || !errors.As(err, &room) {
		t.Fatalf("got %v", err)
	}
	var st unix.Statfs_t
	must.OK(t, unix.Statfs(dir, &st))
	if room.Trim || room.Limit.Kind != reencrypt.LimitFileSystem || room.Place.Path != dir || room.Place.Need <= 1<<58 || room.Limit.Free <= 0 || room.Limit.Free > int64(st.Blocks)*st.Bsize {
		t.Errorf("%+v", room)
	}
	for _, want := range []string{dir, fmt.Sprint(room.Place.Need), fmt.Sprint(room.Limit.Free), "another file system"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %s", err, want)
		}
	}
	if strings.Contains(err.Error(), "fstrim") {
		t.Errorf("%q: it would not help", err)
	}
	thin.Places[0].Limits[0].Free = 4096
	if err := thin.Fits(); !errors.Is(err, volume.ErrNoRoom) || !strings.Contains(err.Error(), "fstrim") {
		t.Errorf("thin: %v", err)
	}
}

// TestCostReserved: the part of a file system that is reserved for root is free for root only.
func TestCostReserved(t *testing.T) {
	t.Parallel()
	c := copying(t, 4<<20, reencrypt.LayoutLUKS, reencrypt.LayoutLUKS, t.TempDir())
	free := func(w *reencrypt.Writer) (int64, int64) {
		c.Writer = w
		p := cost(t, c).Places[0]
		return p.Limits[0].Free, p.Reserved
	}
	root, reserved := free(&reencrypt.Writer{})
	user, same := free(&reencrypt.Writer{UID: 4711, GID: 4711})
	// Other tests write meanwhile.
	if reserved < 0 || same-reserved > 1<<30 || reserved-same > 1<<30 || root-user-reserved > 4<<30 || user+reserved-root > 4<<30 {
		t.Errorf("root has %d bytes, another user %d, and %d are reserved", root, user, reserved)
	}
}

// TestCostTime: the time follows from the limit or the measured rate, the slower one.
func TestCostTime(t *testing.T) {
	t.Parallel()
	c := copying(t, 64<<20, reencrypt.LayoutLUKS, reencrypt.LayoutDetachedRaw, t.TempDir())
	c.Target.Header = filepath.Join(t.TempDir(), "header")
	for _, test := range []struct {
		speed, rate int64
		want        time.Duration
		bySpeed     bool
	}{
		{0, 0, 0, false}, {8 << 20, 0, 8 * time.Second, true}, {0, 16 << 20, 4 * time.Second, false}, {8 << 20, 16 << 20, 8 * time.Second, true},
		{16 << 20, 8 << 20, 8 * time.Second, false}, {1 << 50, 0, time.Second, true}, {1, 0, 64 << 20 * time.Second, true},
	} {
		c.Speed, c.Rate = test.speed, test.rate
		if got := cost(t, c); got.Time != test.want || got.BySpeed != test.bySpeed {
			t.Errorf("speed %d, rate %d: %s, %v", test.speed, test.rate, got.Time, got.BySpeed)
		}
	}
	c.Source.Size, c.Speed, c.Rate = 1<<60, 1, 0
	if got := cost(t, c); got.Time <= 0 {
		t.Errorf("the longest: %s", got.Time)
	}
}

// TestCostInPlace: what the source takes is free in the end, and not before.
func TestCostInPlace(t *testing.T) {
	t.Parallel()
	c := copying(t, 64<<20, reencrypt.LayoutRaw, reencrypt.LayoutLUKS, t.TempDir())
	c.Source.Header = must.File(t, strings.Repeat("h", 64<<10))
	elsewhere := cost(t, c)
	c.InPlace = true
	inPlace := cost(t, c)
	if want := allocated(t, c.Source.Layers[0].Path) + allocated(t, c.Source.Header); inPlace.Freed != want || elsewhere.Freed != 0 || want < 1<<20 {
		t.Errorf("freed: %d, want %d; otherwise %d", inPlace.Freed, want, elsewhere.Freed)
	}
	if inPlace.Places[0].Need != elsewhere.Places[0].Need {
		t.Errorf("needed at %d, otherwise %d", inPlace.Places[0].Need, elsewhere.Places[0].Need)
	}
}

// TestCostPlaces: a header on another file system needs room there; one beside its payload adds to it.
func TestCostPlaces(t *testing.T) {
	t.Parallel()
	c := copying(t, 64<<20, reencrypt.LayoutLUKS, reencrypt.LayoutDetachedQcow2, t.TempDir())
	c.Target.Header = filepath.Join(filepath.Dir(c.Target.Path), "header")
	together := cost(t, c)
	if len(together.Places) != 1 || together.Places[0].Need != together.Allocation+together.Metadata || together.Places[0].Most != together.Most {
		t.Errorf("together: %+v", together)
	}
	memory := must.Dir(t, "/dev/shm")
	c.Target.Header = filepath.Join(memory, "header")
	apart := cost(t, c)
	if len(apart.Places) != 2 || apart.Places[1].Path != memory || apart.Places[1].Need < 2<<20 || !apart.Places[1].InMemory || apart.Places[0].InMemory ||
		apart.Places[0].Need+apart.Places[1].Need != together.Places[0].Need {
		t.Errorf("apart: %+v", apart)
	}
	c.Target.Header = filepath.Join(t.TempDir(), "none", "header")
	if _, err := reencrypt.EstimateCost(t.Context(), c); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("without a directory: %v", err)
	}
}

// TestCostUnknownSource: an image that cannot be read counts as all data.
func TestCostUnknownSource(t *testing.T) {
	t.Parallel()
	const size = 64 << 20
	c := copying(t, size, reencrypt.LayoutQcow2, reencrypt.LayoutLUKSInQcow2, t.TempDir())
	raw := c.Source.Layers[0]
	damaged := must.File(t, "QFI\xfb\x00\x00\x00\x03")
	for what, layers := range map[string][]reencrypt.Layer{
		"none":               nil,
		"of a server":        {{Opaque: true}},
		"gone":               {{Path: "/none", Format: blockgraph.FormatRaw}},
		"damaged":            {{Path: damaged, Format: blockgraph.FormatQcow2}},
		"of another format":  {{Path: raw.Path, Format: blockgraph.FormatVMDK}},
		"an encrypted layer": {{Path: raw.Path, Format: raw.Format, Opaque: true}},
	} {
		c.Source.Layers = layers
		if got := cost(t, c); got.Data != size || got.Exact {
			t.Errorf("%s: %+v", what, got)
		}
	}
	c.Source.Layers = []reencrypt.Layer{raw}
	if got := cost(t, c); got.Data != 1<<20 || !got.Exact {
		t.Errorf("known: %+v", got)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := reencrypt.EstimateCost(ctx, c); !errors.Is(err, context.Canceled) {
		t.Errorf("an interrupt: %v", err)
	}
}

// TestCostRefuses: what is no copy at all.
func TestCostRefuses(t *testing.T) {
	t.Parallel()
	for what, change := range map[string]func(c *reencrypt.Copying){
		"no layout of the source":     func(c *reencrypt.Copying) { c.Source.Layout = "" },
		"no layout of the target":     func(c *reencrypt.Copying) { c.Target.Layout = "vmdk" },
		"no size":                     func(c *reencrypt.Copying) { c.Source.Size = 0 },
		"a size that overflows":       func(c *reencrypt.Copying) { c.Source.Size = 1<<63 - 1 },
		"a header that is not needed": func(c *reencrypt.Copying) { c.Target.Header = "/h" },
		"no header":                   func(c *reencrypt.Copying) { c.Target.Layout = reencrypt.LayoutDetachedRaw },
		"a relative path":             func(c *reencrypt.Copying) { c.Target.Path = "new" },
		"a header of a negative size": func(c *reencrypt.Copying) { c.Target.HeaderSize = -1 },
		"clusters of no power of two": func(c *reencrypt.Copying) { c.Target.Qcow2.ClusterSize = 65537 },
		"clusters that are too large": func(c *reencrypt.Copying) { c.Target.Qcow2.ClusterSize = 4 << 20 },
		"a negative speed":            func(c *reencrypt.Copying) { c.Speed = -1 },
		"a negative rate":             func(c *reencrypt.Copying) { c.Rate = -1 },
	} {
		c := copying(t, 1<<20, reencrypt.LayoutRaw, reencrypt.LayoutLUKS, t.TempDir())
		change(&c)
		if _, err := reencrypt.EstimateCost(t.Context(), c); !errors.Is(err, reencrypt.ErrCopying) {
			t.Errorf("%s: %v", what, err)
		}
	}
}

// TestCostOfDevice: of a block device the size counts, and whether its storage has room is not known. One that is the source
// is all data.
func TestCostOfDevice(t *testing.T) {
	t.Parallel()
	must.Have(t, "losetup")
	if os.Geteuid() != 0 {
		t.Skip("only root can make a loop device")
	}
	const size = 32 << 20
	file := must.File(t, "")
	must.OK(t, os.Truncate(file, size+2<<20))
	out, err := exec.CommandContext(t.Context(), "losetup", "--find", "--show", file).CombinedOutput()
	if err != nil {
		t.Skipf("losetup: %v: %s", err, out)
	}
	device := strings.TrimSpace(string(out))
	t.Cleanup(func() { _ = exec.Command("losetup", "--detach", device).Run() }) // the test is over
	c := copying(t, size, reencrypt.LayoutLUKS, reencrypt.LayoutLUKS, "")
	c.Target.Path = device
	exact := cost(t, c)
	must.OK(t, exact.Fits())
	if p := exact.Places[0]; len(p.Unknown) != 1 || p.Path != device || p.Need != size+2<<20 || p.Limits[0] != (reencrypt.Limit{Kind: reencrypt.LimitDevice, Free: size + 2<<20}) {
		t.Errorf("%+v", exact.Places)
	}
	c.Source.Size += 512
	if err := cost(t, c).Fits(); !errors.Is(err, volume.ErrNoRoom) || !strings.Contains(err.Error(), "larger device") {
		t.Errorf("512 bytes more: %v", err)
	}
	c = copying(t, size, reencrypt.LayoutRaw, reencrypt.LayoutLUKSInQcow2, t.TempDir())
	c.Source.Layers[0].Path = device
	if got := cost(t, c); got.Data != size || !got.Exact || !got.Thin || got.Trim {
		t.Errorf("as source: %+v", got)
	}
}

// TestCostHelper is no test: it prints costs in the process that TestCostOnFullFileSystem starts.
func TestCostHelper(t *testing.T) {
	dir := os.Getenv("LUKSPLUG_TEST_SMALL")
	if dir == "" {
		return // it runs in the process that another test starts
	}
	for _, to := range []reencrypt.Layout{reencrypt.LayoutLUKSInQcow2, reencrypt.LayoutLUKS} {
		c := cost(t, copying(t, 64<<20, reencrypt.LayoutRaw, to, dir))
		text := must.Get(json.Marshal(c))(t)
		fmt.Printf("cost %v %d %s\n", errors.Is(c.Fits(), volume.ErrNoRoom), len(c.MayOutgrow()), text)
	}
}

// TestCostOnSmallFileSystem: on a file system of 16 MiB, a thin target of 64 MiB fits as long as the guest does not write much,
// and another does not.
func TestCostOnSmallFileSystem(t *testing.T) {
	t.Parallel()
	must.Have(t, "unshare", "mount")
	dir := t.TempDir()
	cmd := exec.CommandContext(t.Context(), "unshare", "--mount", "sh", "-c", `mount -t tmpfs -o size=16m tmpfs "$1" || exit 77; exec "$0" -test.run='^TestCostHelper$'`, os.Args[0], dir)
	cmd.Env = append(os.Environ(), "LUKSPLUG_TEST_SMALL="+dir)
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState != nil && (cmd.ProcessState.ExitCode() == 77 || strings.HasPrefix(string(out), "unshare: ")) {
		t.Skipf("a file system cannot be mounted here: %s", out)
	}
	must.OK(t, err)
	for _, want := range []string{"cost false 1 {", "cost true 0 {"} {
		if !strings.Contains(string(out), want) {
			t.Errorf("%s\ndoes not have %q", out, want)
		}
	}
}
