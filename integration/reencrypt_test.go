package integration

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/reencrypt"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// reencryption is a guest that writes a log to a disk, and the setting by which the disk is re-encrypted.
type reencryption struct {
	reencrypt.Setting
	q    *peer.QEMU
	keys *dir.Store
	disk []byte // the document of the disk
	dev  string // in the guest
	log  *guestLog
}

// reencrypting attaches a new volume to a guest, which begins to write.
func reencrypting(ctx context.Context, t *testing.T, keys *dir.Store, q *peer.QEMU, r volume.Request) *reencryption {
	t.Helper()
	run, locks := shortDir(t, ""), t.TempDir()
	out := &reencryption{q: q, keys: keys}
	with := func(ctx context.Context, f func(context.Context, *hotplug.VM) error) error {
		vm, err := hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) { return qmp.Dial(ctx, q.Socket) }, hotplug.Options{RunDir: run, LockDir: locks})
		if err != nil {
			return err
		}
		defer func() { _ = vm.Close() }()
		return f(ctx, vm)
	}
	define := func(ctx context.Context, d secrets.Document) (secrets.Keeper, error) {
		return keys, keys.Define(ctx, d)
	}
	r.Path, r.Size = filepath.Join(t.TempDir(), "disk.img"), 8*peer.MiB
	v := must.Get(volume.Create(ctx, r, define))(t)
	out.disk = v.DiskXML("vdb", "vm1-vdb")
	must.OK(t, with(ctx, func(ctx context.Context, vm *hotplug.VM) error {
		_, err := vm.Attach(ctx, parsed(t, out.disk), keys, hotplug.AttachOptions{})
		return err
	}))
	out.Setting = reencrypt.Setting{
		Journal: reencrypt.Journal{Dir: filepath.Join(t.TempDir(), "journal")}, Engine: reencrypt.InVM{Target: "vdb", With: with}, Store: keys, Keys: define,
		Forget: func(ctx context.Context, ref secrets.Reference, _ string) error {
			if err := keys.Remove(ctx, ref); !errors.Is(err, secrets.ErrNotFound) {
				return err
			}
			return nil
		},
		Attached: func() ([]hotplug.Use, error) { return hotplug.Uses(run) },
	}
	out.dev = guestDisk(ctx, t, q, "vm1-vdb")
	out.log = startLog(ctx, t, q.Guest(), out.dev)
	return out
}

// plaintext returns what a guest reads from a volume that nothing has open.
func (r *reencryption) plaintext(ctx context.Context, t *testing.T, v reencrypt.Volume) []byte {
	t.Helper()
	value := must.Get(r.keys.Lookup(ctx, v.Secret))(t)
	defer value.Wipe()
	key := filepath.Join(t.TempDir(), "key")
	must.OK(t, value.Use(func(b []byte) error { return os.WriteFile(key, b, 0o600) }))
	image := "driver=luks,key-secret=s,file.filename=" + v.Payload
	switch {
	case v.Header != "":
		image = "driver=luks,key-secret=s,file.driver=" + string(v.Format) + ",file.file.filename=" + v.Payload + ",header.driver=file,header.filename=" + v.Header
	case v.Format == blockgraph.FormatQcow2:
		image = "driver=qcow2,encrypt.format=luks,encrypt.key-secret=s,file.filename=" + v.Payload
	}
	out := filepath.Join(t.TempDir(), "plain")
	must.Run(t, "", "qemu-img", "convert", "--object", "secret,id=s,file="+key, "--image-opts", image, "-O", "raw", out)
	return must.Get(os.ReadFile(out))(t)
}

// lines returns how many lines of the log the disk has for certain.
func (l *guestLog) lines(ctx context.Context, t *testing.T, g *peer.Guest) int {
	t.Helper()
	var n int
	_, err := fmt.Sscan(must.Get(g.Run(ctx, "cat /tmp/log-lines"))(t), &n)
	must.OK(t, err)
	return n
}

// TestReencryptVMKilled: QEMU is killed at a random time of a re-encryption. The volume that counts afterwards has all that the guest has
// synced, and nothing is left of the other one but the old volume under its new name.
func TestReencryptVMKilled(t *testing.T) {
	t.Parallel()
	rounds := 1
	if peer.IsLong() {
		rounds = 100
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	keys := newKeys(t)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	outcomes := map[string]int{}
	for i := range rounds {
		t.Run(fmt.Sprint(i), func(t *testing.T) {
			q := booted(ctx, t, peer.Options{RootPorts: 1})
			r := reencrypting(ctx, t, keys, q, volume.Request{})
			uses := must.Get(r.Attached())(t)
			p := must.Get(reencrypt.Prepare(ctx, reencrypt.Request{Disk: r.disk, Size: 8 * peer.MiB, VM: reencrypt.VM{Name: "vm"}, Speed: 32 * peer.MiB, Attached: uses}))(t)
			lines := r.log.lines(ctx, t, q.Guest())
			dying, kill := context.WithCancel(ctx)
			defer kill()
			var done sync.WaitGroup
			inStep := make(chan struct{})
			done.Go(func() { // as long as the VM lives
				e, err := r.Start(dying, p)
				if err == nil {
					err = r.Wait(dying, reencrypt.Waiting{Poll: 5 * time.Millisecond})
				}
				close(inStep)
				if err == nil {
					_, _, _ = r.Finish(dying, e)
				}
			})
			at := time.Duration(dice.Int64N(int64(900 * time.Millisecond)))
			if dice.IntN(2) == 0 { // the switch takes a short part of the time, and matters most
				<-inStep
				at /= 9
			}
			time.Sleep(at)
			must.OK(t, q.Close())
			kill()
			done.Wait()
			entries := must.Get(r.Journal.List())(t)
			used := p.Entry.Source
			used.Secret = parsed(t, r.disk).Image.Encryption.Secrets[0]
			phase, outcome := reencrypt.Phase("not begun, or undone"), reencrypt.OutcomeDropped
			if len(entries) == 1 {
				phase = entries[0].Phase
				r.Engine = nil
				var after reencrypt.Entry
				var err error
				after, outcome, err = r.Resume(ctx, entries[0])
				must.OK(t, err)
				if outcome == reencrypt.OutcomeDone {
					used = after.Target
				}
			}
			outcomes[string(phase)+": "+string(outcome)]++
			checkLog(t, r.plaintext(ctx, t, used), r.dev, lines)
			if outcome == reencrypt.OutcomeDropped {
				if _, err := os.Stat(p.Entry.Target.Payload); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("the new volume: %v", err)
				}
			}
		})
	}
	for _, o := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%d times %s", outcomes[o], o)
	}
}

// TestReencryptWhileWriting: a guest that writes all the time finds everything after its disk was re-encrypted, and after a
// re-encryption that was canceled.
func TestReencryptWhileWriting(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := booted(ctx, t, peer.Options{RootPorts: 1})
	r := reencrypting(ctx, t, newKeys(t), q, volume.Request{})
	start := func() reencrypt.Entry {
		uses := must.Get(r.Attached())(t)
		return must.Get(r.Start(ctx, must.Get(reencrypt.Prepare(ctx, reencrypt.Request{Disk: r.disk, Size: 8 * peer.MiB, VM: reencrypt.VM{Name: "vm"}, Attached: uses}))(t)))(t)
	}
	e := start()
	must.OK(t, r.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
	r.log.wantMore(ctx, t, q.Guest())
	must.OK(t, r.Cancel(ctx, e))
	r.log.wantMore(ctx, t, q.Guest())
	for range 2 {
		e = start()
		must.OK(t, r.Wait(ctx, reencrypt.Waiting{Poll: 10 * time.Millisecond}))
		done, switched, err := r.Finish(ctx, e)
		must.OK(t, err)
		t.Logf("the switch took %v", switched.Took)
		r.log.wantMore(ctx, t, q.Guest())
		r.disk = []byte(done.Target.XML)
		must.OK(t, r.DiscardOld(ctx, done))
		e = done
	}
	lines := r.log.stop(ctx, t, q.Guest())
	must.OK(t, q.Close())
	checkLog(t, r.plaintext(ctx, t, e.Target), r.dev, lines)
	if names := must.Get(filepath.Glob(filepath.Join(filepath.Dir(e.Target.Payload), "*")))(t); len(names) != 1 || !strings.HasSuffix(names[0], "-r3.img") {
		t.Errorf("the directory has %v", names)
	}
}

func newKeys(t *testing.T) *dir.Store {
	t.Helper()
	path, _ := volumeStore(t)
	return dir.New(path)
}

func parsed(t *testing.T, xml []byte) *blockgraph.Disk {
	t.Helper()
	return must.Get(diskxml.ParseDisk(xml))(t)
}

// TestReencryptKilled: luksplug is killed at a random time of a re-encryption. volume jobs, run by another process, finishes or cancels it.
// The guest writes all the time, and has its data in the end; nothing piles up in the VM, in the directory or in the key store.
func TestReencryptKilled(t *testing.T) {
	t.Parallel()
	rounds := 3
	if peer.IsLong() {
		rounds = 200
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Hour)
	defer cancel()
	q := booted(ctx, t, peer.Options{RootPorts: 1})
	keys, store := volumeStore(t)
	dir := shortDir(t, "")
	disk := writeFile(t, "vdb.xml", run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "create", "vm1-vdb", "--target", "vdb", "--size", fmt.Sprint(8*peer.MiB), "--path", filepath.Join(dir, "disk.img"))).want(t, 0).stdout)
	tool(ctx, t, q.Socket, "--keystore", store, "attach", disk).want(t, 0)
	dev := guestDisk(ctx, t, q, "vm1-vdb")
	log := startLog(ctx, t, q.Guest(), dev)
	nodes := len(stateOf(ctx, t, q).Nodes)
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	dice := rand.New(rand.NewPCG(seed, 0))
	begin := time.Now()
	tool(ctx, t, q.Socket, "--keystore", store, "volume", "reencrypt", "vdb", "--with-new-secret", "--discard-old").want(t, 0)
	took := time.Since(begin)
	outcomes := map[string]int{}
	for i := range rounds {
		c := program(ctx, q.Socket, "--keystore", store, "volume", "reencrypt", "vdb", "--with-new-secret")
		must.OK(t, c.Start())
		time.Sleep(time.Duration(dice.Int64N(int64(took))))
		_ = c.Process.Kill()
		_ = c.Wait()
		job := jobIn(t, dir)
		outcome := string(job.Phase)
		if job.ID != "" {
			end := "--wait"
			if dice.IntN(3) == 0 {
				end = "--cancel"
			}
			r := run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "jobs", job.ID, end))
			outcome += fmt.Sprintf(" %s %d", end, r.code)
			left := jobIn(t, dir)
			if left.ID != "" && left.Phase != reencrypt.PhaseSourceKept { // a job that had not begun to copy is removed
				t.Fatalf("round %d, %s: %s\n%+v", i, outcome, r.stderr, left)
			}
			if left.ID != "" {
				run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "volume", "jobs", left.ID, "--discard-old")).want(t, 0)
			}
		}
		outcomes[outcome]++
		if files := must.Get(filepath.Glob(filepath.Join(dir, "*")))(t); len(files) != 1 {
			t.Fatalf("round %d, %s: the directory has %v", i, outcome, files)
		}
		if values := valuesIn(t, keys); len(values) != 1 {
			t.Fatalf("round %d, %s: the key store has %v", i, outcome, values)
		}
		if n := len(stateOf(ctx, t, q).Nodes); n != nodes {
			t.Fatalf("round %d, %s: the VM has %d nodes, not %d", i, outcome, n, nodes)
		}
		log.wantMore(ctx, t, q.Guest())
	}
	for _, o := range slices.Sorted(maps.Keys(outcomes)) {
		t.Logf("%d times %s", outcomes[o], o)
	}
	lines := log.stop(ctx, t, q.Guest())
	must.OK(t, q.Close())
	image := must.Get(filepath.Glob(filepath.Join(dir, "*")))(t)[0]
	out := filepath.Join(t.TempDir(), "plain")
	must.Run(t, "", "qemu-img", "convert", "--object", "secret,id=s,file="+valuesIn(t, keys)[0], "--image-opts", "driver=luks,key-secret=s,file.filename="+image, "-O", "raw", out)
	checkLog(t, must.Get(os.ReadFile(out))(t), dev, lines)
}

// valuesIn returns the files with values in a key store.
func valuesIn(t *testing.T, keys string) []string {
	t.Helper()
	var out []string
	for _, path := range must.Get(filepath.Glob(filepath.Join(keys, "*")))(t) {
		if _, err := uuid.Parse(filepath.Base(path)); err == nil {
			out = append(out, path)
		}
	}
	return out
}

// jobIn returns the re-encryption of a disk in a directory; without an ID if there is none.
func jobIn(t *testing.T, dir string) reencrypt.Entry {
	t.Helper()
	j := must.Get(reencrypt.DefaultJournal())(t)
	for _, e := range must.Get(j.List())(t) {
		if filepath.Dir(e.Source.Payload) == dir {
			return e
		}
	}
	return reencrypt.Entry{}
}
