package hotplug_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/daemon"
	"github.com/luksplug/luksplug/hotplug/internal/overlay"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets/luks"
)

// idleSize is the size of the disks that no VM has.
const idleSize = 8 << 20

// idleVolume is a volume of a layout. QEMU opens it by options of its own (--image-opts) and secret objects, in which luksplug has no
// part, except for LUKS2, which QEMU does not know.
type idleVolume struct {
	disk    *blockgraph.Disk
	key     store
	objects []string
	options string
}

// secretObject returns QEMU's argument for the object s with that value.
func secretObject(t *testing.T, value store) []string {
	t.Helper()
	return []string{"--object", "secret,id=s,file=" + must.File(t, string(value))}
}

// emptyFile makes a sparse file.
func emptyFile(t *testing.T, size int64) string {
	t.Helper()
	path := must.File(t, "")
	must.OK(t, os.Truncate(path, size))
	return path
}

func emptyQcow2(t *testing.T, args ...string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "image.qcow2")
	must.Run(t, "", "qemu-img", append(append([]string{"create", "-q", "-f", "qcow2"}, args...), path, fmt.Sprint(idleSize))...)
	return path
}

func encrypted(usage, inside string) string {
	return fmt.Sprintf("<encryption format='luks'><secret type='passphrase' usage='%s'/>%s</encryption>", usage, inside)
}

// detachedHeader makes a header of LUKS1 for a payload that begins at 0.
func detachedHeader(t *testing.T) string {
	t.Helper()
	header := readFile(t, must.LUKS(t, key, 2<<20+1<<20))[:2<<20]
	binary.BigEndian.PutUint32(header[104:], 0)
	return must.File(t, header)
}

// layout makes an empty volume. Its secret has the usage.
type layout struct {
	name string
	make func(t *testing.T, usage string) idleVolume
}

func layouts() []layout {
	plain := func(format string, path func(*testing.T) string) func(*testing.T, string) idleVolume {
		return func(t *testing.T, _ string) idleVolume {
			p := path(t)
			return idleVolume{disk: parse(t, "vdb", format, p, ""), options: "driver=" + format + ",file.filename=" + p}
		}
	}
	detached := func(format string, path func(*testing.T) string) func(*testing.T, string) idleVolume {
		return func(t *testing.T, usage string) idleVolume {
			p, header := path(t), detachedHeader(t)
			return idleVolume{disk: parse(t, "vdb", format, p, encrypted(usage, "<header type='file'><source file='"+header+"'/></header>")), key: key, objects: secretObject(t, key),
				options: "driver=luks,key-secret=s,header.driver=file,header.filename=" + header + ",file.driver=" + format + ",file.file.filename=" + p}
		}
	}
	raw := func(t *testing.T) string { return emptyFile(t, idleSize) }
	qcow2 := func(t *testing.T) string { return emptyQcow2(t) }
	return []layout{
		{"plain raw", plain("raw", raw)},
		{"plain qcow2", plain("qcow2", qcow2)},
		{"LUKS1", func(t *testing.T, usage string) idleVolume {
			p := must.LUKS(t, key, 2<<20+idleSize)
			return idleVolume{disk: parse(t, "vdb", "raw", p, encrypted(usage, "")), key: key, objects: secretObject(t, key), options: "driver=luks,key-secret=s,file.filename=" + p}
		}},
		{"LUKS2", luks2Volume},
		{"detached raw", detached("raw", raw)},
		{"detached qcow2", detached("qcow2", qcow2)},
		{"inside qcow2", func(t *testing.T, usage string) idleVolume {
			header := must.Get(luks.Fresh())(t)
			defer header.Wipe()
			p, value := filepath.Join(t.TempDir(), "image.qcow2"), store(must.Use(t, header.Passphrase()))
			must.OK(t, overlay.Create(p, overlay.Options{Size: idleSize, Mark: "no overlay", Header: header}))
			return idleVolume{disk: parse(t, "vdb", "qcow2", p, encrypted(usage, "")), key: value, objects: secretObject(t, value), options: "driver=qcow2,encrypt.key-secret=s,file.filename=" + p}
		}},
	}
}

// luks2Volume makes a volume of LUKS2 with argon2id. QEMU opens it by an ephemeral header.
func luks2Volume(t *testing.T, usage string) idleVolume {
	const offset = 16 << 20
	p := must.LUKS(t, key, offset+idleSize, "--type", "luks2", "--sector-size", "512", "--pbkdf", "argon2id", "--pbkdf-memory", "64", "--pbkdf-parallel", "1", "--pbkdf-force-iterations", "4")
	f := must.Get(os.Open(p))(t)
	defer func() { _ = f.Close() }()
	volumeKey := must.Get(luks.Unlocker{}.Unlock(t.Context(), must.Get(luks.ReadHeader(f))(t), []byte(key)))(t)
	defer volumeKey.Wipe()
	header := must.Get(luks.Ephemeral(volumeKey))(t)
	defer header.Wipe()
	file := ""
	must.OK(t, header.Use(func(b []byte) error { file = must.File(t, b); return nil }))
	return idleVolume{disk: parse(t, "vdb", "raw", p, encrypted(usage, "")), key: key, objects: secretObject(t, store(must.Use(t, header.Passphrase()))),
		options: "driver=luks,key-secret=s,header.driver=file,header.filename=" + file + ",file.driver=raw,file.file.filename=" + p}
}

// fill writes content to the volume.
func (v idleVolume) fill(t testing.TB, content []byte) {
	t.Helper()
	args := append([]string{"convert", "-n", "-f", "raw"}, v.objects...)
	must.Run(t, "", "qemu-img", append(args, "--target-image-opts", must.File(t, content), v.options)...)
}

// content reads what a guest would see.
func (v idleVolume) content(t testing.TB) []byte {
	t.Helper()
	out := filepath.Join(t.TempDir(), "content")
	args := append([]string{"convert", "-O", "raw"}, v.objects...)
	must.Run(t, "", "qemu-img", append(args, "--image-opts", v.options, out)...)
	return must.Get(os.ReadFile(out))(t)
}

// stored returns the bytes of the volume's files.
func (v idleVolume) stored(t testing.TB) (out []byte) {
	t.Helper()
	for _, layer := range v.disk.Layers() {
		out = append(out, must.Get(os.ReadFile(layer.Source.Path))(t)...)
		if h := layer.LUKSHeader(); h != nil {
			out = append(out, must.Get(os.ReadFile(h.Source.Path))(t)...)
		}
	}
	return out
}

// idleContent is data with holes: at the beginning, in the middle and in the last sector.
func idleContent(t *testing.T) []byte {
	t.Helper()
	content := make([]byte, idleSize)
	for _, part := range [][]byte{content[:3<<20], content[5<<20 : 5<<20+70_000], content[idleSize-512:]} {
		must.Get(rand.Read(part))(t)
	}
	return content
}

// overBacking makes a plain qcow2 image over another one, each with a part of the content.
func overBacking(t *testing.T, content []byte) idleVolume {
	t.Helper()
	const at, length = 1 << 20, 1 << 20
	below := bytes.Clone(content)
	copy(below[at:], bytes.Repeat([]byte{0xbb}, length))
	base := emptyQcow2(t)
	idleVolume{options: "driver=qcow2,file.filename=" + base}.fill(t, below)
	top := emptyQcow2(t, "-b", base, "-F", "qcow2")
	must.Run(t, "", "qemu-io", "-f", "qcow2", "-c", fmt.Sprintf("write -s %s %d %d", must.File(t, content[at:at+length]), at, length), top)
	disk := diskOf(t, "qcow2", top, "", "<backingStore type='file'><format type='qcow2'/><source file='"+base+"'/><backingStore/></backingStore>")
	disk.Target = "vdb"
	return idleVolume{disk: disk, options: "driver=qcow2,file.filename=" + top}
}

// idleRun returns a run directory in memory, which a test leaves empty.
func idleRun(t testing.TB) string {
	t.Helper()
	return must.Dir(t, "/dev/shm")
}

// wantNoCopy fails unless no file or process of a copy is left.
func wantNoCopy(t *testing.T, run string) {
	t.Helper()
	if entries := must.Get(os.ReadDir(run))(t); len(entries) > 0 {
		t.Errorf("left in the run directory: %v", entries)
	}
	for _, line := range strings.Split(must.Run(t, "", "ps", "-eo", "args"), "\n") {
		if strings.Contains(line, run) {
			t.Errorf("left is the process %s", line)
		}
	}
}

// keys returns the store of both volumes.
func keys(from, to idleVolume) named { return named{"from": from.key, "to": to.key} }

// TestIdleCopy copies each layout to each other one: a guest would see the same in the new volume, and nothing of the old one has changed.
func TestIdleCopy(t *testing.T) {
	t.Parallel()
	must.Have(t, "qemu-storage-daemon", "qemu-img", "qemu-io")
	all := layouts()
	for i := range len(all) + 1 {
		for k, to := range all {
			if os.Getenv("LUKSPLUG_LONG") == "" && k != (i+2)%len(all) {
				continue // each layout is once the old one and once the new one
			}
			from := "over a backing file"
			if i < len(all) {
				from = all[i].name
			}
			t.Run(from+" to "+to.name, func(t *testing.T) {
				t.Parallel()
				content := idleContent(t)
				var source idleVolume
				if i < len(all) {
					source = all[i].make(t, "from")
					source.fill(t, content)
				} else {
					source = overBacking(t, content)
				}
				copied(t, source, to.make(t, "to"), content)
			})
		}
	}
}

// copied copies a volume to another one and compares them.
func copied(t *testing.T, from, to idleVolume, content []byte) {
	t.Helper()
	before, empty, run := from.stored(t), to.stored(t), idleRun(t)
	opened, last := 0, hotplug.IdleCopy{}
	err := hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), hotplug.IdleCopyOptions{
		RunDir: run,
		Opened: func(context.Context) error {
			opened++
			if !bytes.Equal(to.stored(t), empty) {
				t.Error("the new volume was written before it was marked")
			}
			for _, volume := range []idleVolume{from, to} {
				out, err := exec.Command("qemu-io", "-f", "raw", "-c", "read 0 512", volume.disk.Image.Source.Path).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "Failed to get") {
					t.Errorf("a writer of %s: %s", volume.disk.Image.Source.Path, out)
				}
			}
			return nil
		},
		Report: func(c hotplug.IdleCopy) { last = c },
	})
	must.OK(t, err)
	wantNoCopy(t, run)
	if opened != 1 || last.Phase != hotplug.CopyEnded || last.Done != last.Total || last.Total == 0 || last.Err != nil {
		t.Errorf("opened %d times, and the last report was %+v", opened, last)
	}
	if !bytes.Equal(from.stored(t), before) {
		t.Error("the old volume has changed")
	}
	if !bytes.Equal(from.content(t), content) {
		t.Error("the old volume has another content than was written")
	}
	if !bytes.Equal(to.content(t), content) {
		t.Error("the new volume has another content than the old one")
	}
}

// idlePair returns a LUKS volume with content, and an empty one.
func idlePair(t *testing.T) (from, to idleVolume) {
	t.Helper()
	must.Have(t, "qemu-storage-daemon", "qemu-img", "qemu-io")
	luks1 := layouts()[2]
	from, to = luks1.make(t, "from"), luks1.make(t, "to")
	from.fill(t, idleContent(t))
	return from, to
}

// slowly is a copy that stands almost still, and calls during once it runs.
func slowly(run string, during func()) hotplug.IdleCopyOptions {
	called := false
	return hotplug.IdleCopyOptions{RunDir: run, Speed: 1, Report: func(hotplug.IdleCopy) {
		if !called {
			called = true
			during()
		}
	}}
}

// TestIdleCopyCanceled: while a copy runs, neither volume can be written by others. A canceled one leaves the old volume as it was.
func TestIdleCopyCanceled(t *testing.T) {
	t.Parallel()
	ctx, cancel := context.WithCancel(bounded(t))
	defer cancel()
	for _, l := range []int{0, 2, 4} { // a storage daemon alone would not keep writers from a plain image
		from, to := layouts()[l].make(t, "from"), layouts()[2].make(t, "to")
		must.Have(t, "qemu-storage-daemon", "qemu-io")
		from.fill(t, idleContent(t))
		before, run := from.stored(t), idleRun(t)
		v, _ := vm(t, hotplug.Options{RunDir: run})
		ctx, cancel := context.WithCancel(ctx)
		err := hotplug.CopyIdle(ctx, from.disk, to.disk, keys(from, to), slowly(run, func() {
			defer cancel()
			for _, volume := range []idleVolume{from, to} {
				out, err := exec.Command("qemu-io", "-f", "raw", "-c", "write 0 512", volume.disk.Image.Source.Path).CombinedOutput()
				if err == nil || !strings.Contains(string(out), "Failed to get") {
					t.Errorf("another writer: %s", out)
				}
				other := *volume.disk
				other.Target, other.Bus = "sdc", blockgraph.BusSCSI
				if _, err := v.Attach(ctx, &other, keys(from, to), hotplug.AttachOptions{}); !errors.Is(err, hotplug.ErrImageInUse) && !errors.Is(err, hotplug.ErrHeaderInUse) {
					t.Errorf("an attach: %v", err)
				}
				if !slices.ContainsFunc(must.Get(hotplug.Uses(run))(t), func(u hotplug.Use) bool { return u.Payload == volume.disk.Image.Source.Path }) && volume.disk.Encrypted() {
					t.Errorf("%s is not among those in use", volume.disk.Image.Source)
				}
			}
			third := layouts()[2].make(t, "to")
			if err := hotplug.CopyIdle(ctx, from.disk, third.disk, keys(from, third), hotplug.IdleCopyOptions{RunDir: run}); !errors.Is(err, hotplug.ErrImageInUse) {
				t.Errorf("a second copy: %v", err)
			}
		}))
		var failed *hotplug.CopyError
		if !errors.As(err, &failed) || !errors.Is(err, context.Canceled) || failed.Target != "vdb" {
			t.Errorf("canceled: %v", err)
		}
		wantNoCopy(t, run)
		if !bytes.Equal(from.stored(t), before) {
			t.Error("the old volume has changed")
		}
	}
}

// TestIdleCopyRefused: what cannot be copied is refused before the new volume is marked, and nothing is left.
func TestIdleCopyRefused(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	from, to := idlePair(t)
	v, _ := vm(t, hotplug.Options{})
	attached, all := from, layouts()
	attached.disk = luksDisk(t, "sdb")
	must.Get(v.Attach(ctx, attached.disk, store(key), hotplug.AttachOptions{}))(t)
	locked := all[0].make(t, "")
	locked.disk.ReadOnly, locked.disk.Target = true, "sdc"
	must.Get(v.Attach(ctx, locked.disk, none, hotplug.AttachOptions{}))(t)
	inside := all[6].make(t, "from")
	inside.key = "wrong"
	wrong := from
	wrong.key = "wrong"
	unsaid := from
	unsaid.disk = parse(t, "vdb", "raw", from.disk.Image.Source.Path, "")
	missing := from
	missing.disk = parse(t, "vdb", "raw", "/nonexistent/image", encrypted("from", ""))
	larger := to
	larger.disk = parse(t, "vdb", "raw", must.LUKS(t, key, 2<<20+idleSize+512), encrypted("to", ""))
	plainly := all[4].make(t, "from")
	must.Run(t, "", "mkfs.ext4", "-q", plainly.disk.Image.Source.Path)
	failed := errors.New("it cannot be marked")
	for name, c := range map[string]struct {
		from, to idleVolume
		opened   error
		want     error
	}{
		"attached":               {attached, to, nil, hotplug.ErrImageInUse},
		"attached to be read":    {locked, to, nil, hotplug.ErrImageInUse},
		"attached, the new one":  {from, attached, nil, hotplug.ErrImageInUse},
		"one volume":             {from, from, nil, hotplug.ErrImageInUse},
		"another size":           {from, larger, nil, hotplug.ErrSize},
		"no image":               {missing, to, nil, os.ErrNotExist},
		"encrypted, no XML":      {unsaid, to, nil, hotplug.ErrUnexpectedEncryption},
		"plain data":             {plainly, to, nil, hotplug.ErrPayloadSignature},
		"wrong passphrase":       {wrong, to, nil, luks.ErrWrongPassphrase},
		"wrong passphrase, QEMU": {inside, to, nil, qmp.ErrWrongPassphrase},
		"it is not marked":       {from, to, failed, failed},
	} {
		run, empty, opened := idleRun(t), to.stored(t), 0
		err := hotplug.CopyIdle(ctx, c.from.disk, c.to.disk, keys(c.from, c.to), hotplug.IdleCopyOptions{RunDir: run, Opened: func(context.Context) error { opened++; return c.opened }})
		var late *hotplug.CopyError
		if !errors.Is(err, c.want) || errors.As(err, &late) || (opened > 0) != (c.opened != nil) {
			t.Errorf("%s: opened %d times, %v", name, opened, err)
		}
		if refused := (*hotplug.PreflightError)(nil); errors.As(err, &refused) && refused.Target != "vdb" && refused.Target != c.from.disk.Target {
			t.Errorf("%s: of disk %s", name, refused.Target)
		}
		if secret := (*hotplug.SecretError)(nil); strings.HasPrefix(name, "wrong") && (!errors.As(err, &secret) || secret.Ref.Usage != "from") {
			t.Errorf("%s: %v", name, err)
		}
		wantNoCopy(t, run)
		if !bytes.Equal(to.stored(t), empty) {
			t.Errorf("%s: the new volume was written", name)
		}
	}
}

// copyDaemon returns the storage daemon of the copy in a run directory.
func copyDaemon(t *testing.T, run string) daemon.Info {
	t.Helper()
	found := must.Get(filepath.Glob(filepath.Join(run, "copy-*", "vdb")))(t)
	if len(found) != 1 {
		t.Fatalf("storage daemons: %v", found)
	}
	return must.Get(daemon.Inspect(found[0]))(t)
}

// TestIdleCopyDaemonKilled: a storage daemon that ends in the middle ends the copy with an error that says which volume is complete.
func TestIdleCopyDaemonKilled(t *testing.T) {
	t.Parallel()
	from, to := idlePair(t)
	before, run := from.stored(t), idleRun(t)
	err := hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), slowly(run, func() {
		must.OK(t, must.Get(os.FindProcess(copyDaemon(t, run).Process.PID))(t).Kill())
	}))
	var failed *hotplug.CopyError
	if !errors.As(err, &failed) || !errors.Is(err, qmp.ErrConnectionLost) || !strings.Contains(err.Error(), "the storage daemon that copied it has ended") || !strings.Contains(err.Error(), "the old volume is complete") {
		t.Errorf("killed: %v", err)
	}
	wantNoCopy(t, run)
	if !bytes.Equal(from.stored(t), before) {
		t.Error("the old volume has changed")
	}
}

// TestIdleCopyProcessKilled: the storage daemon ends with the process that copies, and the next copy removes its directory.
func TestIdleCopyProcessKilled(t *testing.T) {
	if run := os.Getenv("LUKSPLUG_TEST_COPY"); run != "" { // the process
		from, to := idleVolume{disk: parse(t, "vdb", "raw", os.Getenv("FROM"), ""), key: key}, idleVolume{disk: parse(t, "vdb", "raw", os.Getenv("TO"), encrypted("to", "")), key: key}
		t.Error(hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), slowly(run, func() { fmt.Println("it runs") })))
		return
	}
	t.Parallel()
	must.Have(t, "qemu-storage-daemon", "qemu-img")
	from, to, run := layouts()[0].make(t, ""), layouts()[2].make(t, "to"), idleRun(t)
	from.fill(t, idleContent(t))
	cmd := exec.Command(must.Get(os.Executable())(t), "-test.run", "^TestIdleCopyProcessKilled$")
	cmd.Env = append(os.Environ(), "LUKSPLUG_TEST_COPY="+run, "FROM="+from.disk.Image.Source.Path, "TO="+to.disk.Image.Source.Path)
	out := must.Get(cmd.StdoutPipe())(t)
	must.OK(t, cmd.Start())
	if line := must.Get(bufio.NewReader(out).ReadString('\n'))(t); line != "it runs\n" {
		t.Errorf("the process says %q", line)
	}
	process := must.Get(copyDaemon(t, run).Process.Open())(t)
	defer process.Close()
	must.OK(t, cmd.Process.Kill())
	_ = cmd.Wait() // killed
	must.OK(t, process.Wait(bounded(t)))
	if entries := must.Get(os.ReadDir(run))(t); len(entries) != 1 {
		t.Errorf("the directory of the killed process: %v", entries)
	}
	copied(t, from, to, from.content(t))
	must.OK(t, hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), hotplug.IdleCopyOptions{RunDir: run}))
	wantNoCopy(t, run)
}

// TestIdleCopySpeed: the limit holds, and can be changed while the copy runs.
func TestIdleCopySpeed(t *testing.T) {
	t.Parallel()
	from, to := idlePair(t)
	speeds, run, reports := make(chan int64, 1), idleRun(t), 0
	must.OK(t, hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), hotplug.IdleCopyOptions{RunDir: run, Speed: 1, SetSpeed: speeds, Report: func(c hotplug.IdleCopy) {
		if reports++; reports == 5 {
			if c.Speed != 1 || c.Phase != hotplug.CopyRunning {
				t.Errorf("with a limit of one byte a second: %+v", c)
			}
			speeds <- 0
			close(speeds)
		}
	}}))
	if reports < 5 {
		t.Errorf("it took %d reports", reports)
	}
	const size, limit = 64 << 20, 16 << 20
	memory := must.Dir(t, "/dev/shm")
	large := func(name string) *blockgraph.Disk {
		path := filepath.Join(memory, name)
		must.Write(t, path, bytes.Repeat([]byte(name), size/len(name)))
		return parse(t, "vdb", "raw", path, "")
	}
	took := func(speed int64) (d time.Duration) {
		var begin time.Time
		must.OK(t, hotplug.CopyIdle(bounded(t), large("from"), large("into"), none, hotplug.IdleCopyOptions{
			RunDir: run, Speed: speed,
			Opened: func(context.Context) error { begin = time.Now(); return nil },
			Report: func(hotplug.IdleCopy) { d = time.Since(begin) },
		}))
		return d
	}
	if limited, free := took(limit), took(0); limited < 2*free {
		t.Errorf("%s with a limit, and %s without one", limited, free)
	}
}

// TestIdleCopyNoRoom: a copy without room is paused, and goes on when there is some.
func TestIdleCopyNoRoom(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("only root can mount a file system")
	}
	from, to := idlePair(t)
	dir, run := t.TempDir(), idleRun(t)
	if out, err := exec.Command("mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", dir).CombinedOutput(); err != nil {
		t.Skipf("no file system can be mounted: %s", out)
	}
	t.Cleanup(func() { must.Run(t, "", "umount", dir) })
	path := filepath.Join(dir, "new")
	must.Run(t, "", "cp", "--sparse=always", to.disk.Image.Source.Path, path)
	to.options = strings.Replace(to.options, to.disk.Image.Source.Path, path, 1)
	to.disk = parse(t, "vdb", "raw", path, encrypted("to", ""))
	paused, again := 0, 0
	must.OK(t, hotplug.CopyIdle(bounded(t), from.disk, to.disk, keys(from, to), hotplug.IdleCopyOptions{RunDir: run, Report: func(c hotplug.IdleCopy) {
		switch {
		case c.Phase == hotplug.CopyPaused:
			if c.Err == nil || c.Done >= c.Total {
				t.Errorf("paused: %+v", c)
			}
			if paused++; paused == 15 { // after an attempt to resume it
				must.Run(t, "", "mount", "-o", "remount,size=16m", dir)
			}
		case paused > 0:
			again++
			if paused < 15 {
				t.Errorf("it went on without room: %+v", c)
			}
		}
	}}))
	if paused < 15 || again == 0 {
		t.Errorf("paused for %d reports, and then %d", paused, again)
	}
	wantNoCopy(t, run)
	if !bytes.Equal(from.content(t), to.content(t)) {
		t.Error("the volumes differ")
	}
}
