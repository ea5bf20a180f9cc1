package integration

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// Kinds of layers, besides those of package peer.
const (
	plainRaw   peer.VolumeKind = "raw"
	plainQcow2 peer.VolumeKind = "qcow2"
	// snapshot is a qcow2 image over the payload of a detached header: both hold ciphertext of
	// one volume. It stands for two layers.
	snapshot peer.VolumeKind = "snapshot of a detached payload"
)

// stacked is one layer of a disk.
type stacked struct {
	*peer.Volume
	path, format, encryption string
}

// stack is a disk of several layers, the top one first. Layer n has a pattern of its own in MiB
// n+1, which it stores as its kind does.
type stack struct {
	*remote
	layers []stacked
}

// newStack makes the layers and names each in the image above it. Equal kinds have different
// secrets.
func newStack(ctx context.Context, t *testing.T, q *peer.QEMU, kinds ...peer.VolumeKind) *stack {
	t.Helper()
	s := &stack{remote: &remote{q: q, keys: map[string]string{}}}
	for _, kind := range kinds {
		s.layers = append(s.layers, s.newLayers(ctx, t, kind)...)
	}
	for n, l := range s.layers[:len(s.layers)-1] {
		below := s.layers[n+1]
		image := "driver=qcow2,file.filename=" + l.path
		args := []string{"rebase", "-u", "-F", below.format, "-b", below.path}
		if l.Volume != nil && l.Kind == peer.Qcow2LUKS {
			image += ",encrypt.key-secret=s"
			args = append(args, "--object", "secret,id=s,file="+l.PassphraseFile)
		}
		command(ctx, t, "qemu-img", append(args, "--image-opts", image)...)
	}
	s.xml = writeFile(t, "disk.xml", s.diskXML(""))
	return s
}

// newLayers makes the one or two layers of a kind, with their patterns.
func (s *stack) newLayers(ctx context.Context, t *testing.T, kind peer.VolumeKind) []stacked {
	t.Helper()
	n := len(s.layers)
	switch kind {
	case plainRaw, plainQcow2:
		l := stacked{path: filepath.Join(t.TempDir(), "layer"), format: string(kind)}
		command(ctx, t, "qemu-img", "create", "-q", "-f", l.format, l.path, strconv.Itoa(peer.VolumeSize))
		command(ctx, t, "qemu-io", "-f", l.format, "-c", writePattern(n), l.path)
		return []stacked{l}
	case snapshot:
		v := s.newVolume(t, peer.DetachedRaw)
		must.OK(t, v.WriteOnHost(ctx, writePattern(n+1)))
		base := stacked{path: v.Payload, format: v.Format}
		v.Payload, v.Format = filepath.Join(t.TempDir(), "snapshot"), string(plainQcow2)
		command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", "-F", base.format, "-b", base.path, v.Payload)
		must.OK(t, v.WriteOnHost(ctx, writePattern(n)))
		return []stacked{s.layerOf(v), base}
	}
	v := s.newVolume(t, kind)
	must.OK(t, v.WriteOnHost(ctx, writePattern(n)))
	return []stacked{s.layerOf(v)}
}

// newVolume makes a volume and keeps its secret.
func (s *stack) newVolume(t *testing.T, kind peer.VolumeKind) *peer.Volume {
	t.Helper()
	v := peer.NewVolume(t, kind)
	used := func(l stacked) bool { return l.Volume != nil && l.Kind == kind }
	if kind == peer.Qcow2LUKS && slices.ContainsFunc(s.layers, used) {
		v = peer.NewOtherQcow2LUKS(t) // the others have one passphrase
	}
	s.keys[v.SecretUUID] = string(v.Passphrase)
	return v
}

func (s *stack) layerOf(v *peer.Volume) stacked {
	header := ""
	if v.Header != "" {
		header = "<header type='file'><source file='" + v.Header + "'/></header>"
	}
	return stacked{Volume: v, path: v.Payload, format: v.Format, encryption: (&remote{Volume: v}).encryption(header)}
}

// diskXML returns the disk, with further elements.
func (s *stack) diskXML(more string) string {
	backing := "<backingStore/>"
	for _, l := range slices.Backward(s.layers[1:]) {
		backing = "<backingStore type='file'><format type='" + l.format + "'/>" + l.source() + backing + "</backingStore>"
	}
	top := s.layers[0]
	return "<disk type='file' device='disk'><driver name='qemu' type='" + top.format + "'/>" + top.source() + backing + more + "<target dev='" + remoteTarget + "' bus='scsi'/></disk>"
}

func (l stacked) source() string {
	return "<source file='" + l.path + "'>" + l.encryption + "</source>"
}

// writePattern is the command of qemu-io that writes the pattern of a layer, readPattern the one
// that compares it.
func writePattern(n int) string { return pattern("write", n) }
func readPattern(n int) string  { return pattern("read", n) }

func pattern(verb string, n int) string { return fmt.Sprintf("%s -P %#x %dM 1M", verb, 0xd1+n, n+1) }

// wantRead attaches the disk with every method: what each layer stores is read, and what is
// written is in the top layer and read after the next attach.
func (s *stack) wantRead(ctx context.Context, t *testing.T) {
	t.Helper()
	lower := map[string][]byte{}
	for _, l := range s.layers[1:] {
		lower[l.path] = must.Get(os.ReadFile(l.path))(t)
	}
	for i, unlock := range unlockWays() {
		s.whileAttached(ctx, t, unlock, func() {
			for n := range s.layers {
				s.io(ctx, t, readPattern(n))
			}
			for before := range i {
				s.io(ctx, t, readPattern(10+before))
			}
			s.io(ctx, t, writePattern(10+i))
		})
	}
	for path, content := range lower {
		if string(content) != string(must.Get(os.ReadFile(path))(t)) {
			t.Errorf("the lower layer %s has been changed", path)
		}
	}
}

// TestEncryptedLayers attaches chains of which any layers are encrypted, each in its own way and
// with its own secret.
func TestEncryptedLayers(t *testing.T) {
	t.Parallel()
	for _, kinds := range [][]peer.VolumeKind{
		{peer.Qcow2LUKS, peer.EmbeddedLUKS},
		{peer.Qcow2LUKS, snapshot},
		{plainQcow2, peer.Qcow2LUKS, peer.DetachedRaw},
		{peer.Qcow2LUKS, peer.Qcow2LUKS, peer.EmbeddedLUKS},
		{peer.Qcow2LUKS, plainQcow2, peer.DetachedQcow2},
	} {
		testLayers(t, kinds)
	}
}

// TestAllEncryptedLayers is TestEncryptedLayers for all chains of two and three layers.
func TestAllEncryptedLayers(t *testing.T) {
	peer.Long(t, "attaches every chain of layers; the other test has each kind once")
	t.Parallel()
	bases := []peer.VolumeKind{plainRaw, plainQcow2, peer.EmbeddedLUKS, peer.DetachedRaw, peer.DetachedQcow2, peer.Qcow2LUKS, snapshot}
	overlays := []peer.VolumeKind{plainQcow2, peer.Qcow2LUKS}
	for _, base := range bases {
		for _, overlay := range overlays {
			testLayers(t, []peer.VolumeKind{overlay, base})
			for _, top := range overlays {
				testLayers(t, []peer.VolumeKind{top, overlay, base})
			}
		}
	}
	testLayers(t, []peer.VolumeKind{snapshot})
}

func testLayers(t *testing.T, kinds []peer.VolumeKind) {
	t.Helper()
	names := make([]string, len(kinds))
	for i, k := range kinds {
		names[i] = string(k)
	}
	t.Run(strings.Join(names, " over "), func(t *testing.T) {
		t.Parallel()
		ctx := bounded(t)
		q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
		newStack(ctx, t, q, kinds...).wantRead(ctx, t)
	})
}

// TestTransientOverLayers: the overlay of a transient disk over encrypted layers takes what is
// written, and no image is changed.
func TestTransientOverLayers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	s := newStack(ctx, t, q, peer.Qcow2LUKS, plainQcow2, peer.EmbeddedLUKS)
	s.xml = writeFile(t, "disk.xml", s.diskXML("<transient/>"))
	top := must.Get(os.ReadFile(s.layers[0].path))(t)
	for _, unlock := range unlockWays() {
		s.whileAttached(ctx, t, unlock, func() {
			for n := range s.layers {
				s.io(ctx, t, readPattern(n))
			}
			for n := range s.layers {
				s.io(ctx, t, fmt.Sprintf("write -P 0x77 %dM 1M", n+1))
				s.io(ctx, t, fmt.Sprintf("read -P 0x77 %dM 1M", n+1))
			}
		})
	}
	if string(top) != string(must.Get(os.ReadFile(s.layers[0].path))(t)) {
		t.Error("the top layer has been changed")
	}
}

// TestLayersByQEMU: with auto, QEMU gets the passphrases of qcow2 layers with LUKS inside, and a
// warning names them.
func TestLayersByQEMU(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	s := newStack(ctx, t, peer.Start(t, peer.Options{SCSI: true, Paused: true}), peer.Qcow2LUKS, peer.Qcow2LUKS, peer.EmbeddedLUKS)
	got := run(ctx, t, s.command(ctx, t, "attach", s.xml)).want(t, 0).wantStdout(t, "by luksplug in ")
	both := ", and " + s.layers[0].path + " and " + s.layers[1].path + " by QEMU\n"
	got.wantStdout(t, both)
	run(ctx, t, s.command(ctx, t, "attach", s.xml)).want(t, 0).wantStdout(t, both)
	run(ctx, t, s.command(ctx, t, "attach", "--output", "json", s.xml)).want(t, 0).wantStdout(t, `"layers_unlocked_by_qemu"`)
	wantTexts(t, "the warning", got.stderr, []string{s.layers[0].path + " and " + s.layers[1].path + " of disk " + remoteTarget,
		"LUKS header is inside of a qcow2 image", "the guest stalls meanwhile, for about", "--unlock external"})
	if strings.Contains(got.stderr, s.layers[2].path) {
		t.Errorf("QEMU does not unlock the base: %s", got.stderr)
	}
}

// TestStallOfLayers: the stalls by all layers count together.
func TestStallOfLayers(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	slow := []string{"--type", "luks1", "--pbkdf-force-iterations", "1000000"}
	s := &stack{remote: &remote{q: q, keys: map[string]string{}}}
	for _, kind := range []peer.VolumeKind{peer.DetachedQcow2, peer.EmbeddedLUKS} {
		v := peer.NewFormatted(t, kind, slow...)
		s.keys[v.SecretUUID] = string(v.Passphrase)
		s.layers = append(s.layers, s.layerOf(v))
	}
	s.xml = writeFile(t, "disk.xml", s.diskXML(""))
	attach := func(limit time.Duration) string {
		return failure(run(ctx, t, s.command(ctx, t, "attach", "--unlock", "qemu", "--max-stall", limit.String(), s.xml)).want(t, 5))
	}
	one := attach(time.Millisecond)
	wantTexts(t, "the error", one, []string{"the key slots of " + s.layers[0].Header + " for"})
	took := regexp.MustCompile(`for ([0-9.]+m?s) if`).FindStringSubmatch(one)
	if took == nil {
		t.Fatalf("no time: %s", one)
	}
	limit := must.Get(time.ParseDuration(took[1]))(t) * 3 / 2
	wantTexts(t, "the error", attach(limit), []string{"the key slots of all encrypted layers", "--max-stall"})
}

// TestLayersShareABase: the encrypted image below the overlays of several disks is only read, so
// that disks of one VM and of several may share it with its header.
func TestLayersShareABase(t *testing.T) {
	t.Parallel()
	for _, kind := range []peer.VolumeKind{peer.EmbeddedLUKS, peer.DetachedRaw, peer.Qcow2LUKS} {
		t.Run(string(kind), func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t)
			q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
			s := newStack(ctx, t, q, plainQcow2, kind)
			others := []string{}
			for _, target := range []string{"sdc", "sdd"} {
				path := filepath.Join(t.TempDir(), "overlay")
				command(ctx, t, "qemu-img", "create", "-q", "-f", "qcow2", "-u", "-b", s.layers[1].path, "-F", s.layers[1].format, path, "64M")
				xml := strings.Replace(s.diskXML(""), s.layers[0].path, path, 1)
				others = append(others, writeFile(t, "disk.xml", strings.Replace(xml, remoteTarget, target, 1)))
			}
			for _, unlock := range unlockWays() {
				s.whileAttached(ctx, t, unlock, func() {
					for _, method := range unlockWays() {
						run(ctx, t, s.command(ctx, t, "attach", "--unlock", method, others[0])).want(t, 0)
						tool(ctx, t, q.Socket, "detach", "sdc").want(t, 0)
					}
					another := &stack{remote: &remote{q: peer.Start(t, peer.Options{SCSI: true, Paused: true}), keys: s.keys}}
					run(ctx, t, another.command(ctx, t, "attach", "--unlock", unlock, others[1])).want(t, 0)
					must.OK(t, another.q.Close())
				})
			}
			if kind != peer.DetachedRaw {
				return
			}
			// Over another payload the header is refused, as ever.
			other := peer.NewVolume(t, kind)
			other.Header, other.SecretUUID = s.layers[1].Header, s.layers[1].SecretUUID
			xml := writeFile(t, "disk.xml", other.DiskXML("sdc", "scsi"))
			for _, unlock := range []string{"auto", "qemu"} {
				s.whileAttached(ctx, t, unlock, func() {
					got := run(ctx, t, s.command(ctx, t, "attach", xml)).want(t, 5)
					wantTexts(t, "the error", failure(got), []string{"in use by disk " + remoteTarget, "--allow-shared-header"})
				})
			}
		})
	}
}

// TestReadOnlyInTwoVMs: a disk that VMs only read may be in several, with its detached header.
func TestReadOnlyInTwoVMs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	disk := func(more string) []string {
		return attachArgs(t, v, strings.Replace(v.DiskXML("sdb", "scsi"), "</disk>", more+"</disk>", 1))
	}
	first, second := peer.Start(t, peer.Options{SCSI: true, Paused: true}), peer.Start(t, peer.Options{SCSI: true, Paused: true})
	tool(ctx, t, first.Socket, disk("<readonly/>")...).want(t, 0)
	refuse(ctx, t, second, []refusal{{name: "to be written", args: disk(""), code: 5, says: []string{v.Payload, "in use"}}})
	tool(ctx, t, second.Socket, disk("<readonly/>")...).want(t, 0)
}

// TestWrongKeyOfALayer: a wrong passphrase of any layer is refused by every method, and the VM is
// as before.
func TestWrongKeyOfALayer(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	s := newStack(ctx, t, q, peer.Qcow2LUKS, peer.Qcow2LUKS, peer.EmbeddedLUKS)
	before := stateOf(ctx, t, q)
	for n, l := range s.layers {
		right := s.keys[l.SecretUUID]
		s.keys[l.SecretUUID] = "wrong"
		for _, unlock := range unlockWays() {
			if got := run(ctx, t, s.command(ctx, t, s.attachArgs(unlock)...)); got.code != 4 {
				t.Errorf("layer %d, %s: %+v", n, unlock, got)
			}
			wantSame(ctx, t, q, before)
		}
		s.keys[l.SecretUUID] = right
	}
}

// TestPartitionIsAVolume: a disk with a LUKS partition is its guest's own. With <encryption> it is
// refused, and the slice that the refusal names attaches the partition alone.
func TestPartitionIsAVolume(t *testing.T) {
	t.Parallel()
	must.Have(t, "sfdisk")
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true})
	r := newRemote(t, q, peer.NewVolume(t, peer.EmbeddedLUKS))
	must.OK(t, r.WriteOnHost(ctx, "write -P 0x42 5M 1M"))
	volume := must.Get(os.ReadFile(r.Payload))(t)
	image := writeFile(t, "disk.img", strings.Repeat("\x00", peer.MiB)+string(volume)+strings.Repeat("\x00", peer.MiB))
	command(ctx, t, "sh", "-c", `printf 'label: gpt\nstart=2048, size=%d\n' "$2" | sfdisk -q "$1"`, "sh", image, strconv.Itoa(len(volume)/512))
	use := func(inner string) {
		r.xml = writeFile(t, "disk.xml", strings.Replace(r.diskXML("<source file='"+image+"'>"+inner+"</source>"), "'network'", "'file'", 1))
	}
	use("")
	r.whileAttached(ctx, t, "auto", func() {})
	use(r.encryption(""))
	refusal := failure(run(ctx, t, r.command(ctx, t, r.attachArgs("auto")...)).want(t, 5))
	slice := regexp.MustCompile("<slices>.*</slices>").FindString(refusal)
	wantTexts(t, "the error", refusal, []string{"gpt at byte 512", "its partition 1 is a LUKS volume", "offset='1048576'"})
	use(slice + r.encryption(""))
	for _, unlock := range unlockWays() {
		r.whileAttached(ctx, t, unlock, func() { r.io(ctx, t, "read -P 0x42 5M 1M") })
	}
}
