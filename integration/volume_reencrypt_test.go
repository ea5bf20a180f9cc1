package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// copied is a disk of a VM that is re-encrypted. The VM never runs guest code: QEMU itself reads and writes the disk.
type copied struct {
	q      *peer.QEMU
	dir    string
	config string // with a key store and a journal of its own
	path   string
	xml    string // of the disk
}

// newCopied makes a volume and attaches it.
func newCopied(ctx context.Context, t *testing.T, size string, create ...string) *copied {
	t.Helper()
	dir := shortDir(t, "")
	c := &copied{q: peer.Start(t, peer.Options{Paused: true, SCSI: true}), dir: dir, path: filepath.Join(dir, "disk.img")}
	c.config = filepath.Join(dir, "config.yaml")
	must.OK(t, os.WriteFile(c.config, []byte("state: "+filepath.Join(dir, "own", "secrets")+"\n"), 0o600))
	for i, f := range create {
		create[i] = strings.ReplaceAll(f, "DIR", dir)
	}
	args := append([]string{"volume", "create", "serial1", "--target", "sda", "--size", size, "--path", c.path}, create...)
	c.xml = filepath.Join(dir, "sda.xml")
	must.OK(t, os.WriteFile(c.xml, []byte(c.run(ctx, t, args...).want(t, 0).stdout), 0o600))
	c.inVM(ctx, t, "attach", c.xml).want(t, 0)
	return c
}

// command runs the program, without a VM.
func (c *copied) command(ctx context.Context, args ...string) *exec.Cmd {
	return exec.CommandContext(ctx, luksplug, append([]string{"--config", c.config}, args...)...)
}

func (c *copied) run(ctx context.Context, t *testing.T, args ...string) result {
	t.Helper()
	return run(ctx, t, c.command(ctx, args...))
}

// inVM runs the program on the VM.
func (c *copied) inVM(ctx context.Context, t *testing.T, args ...string) result {
	t.Helper()
	return c.run(ctx, t, append([]string{"--qmp", c.q.Socket}, args...)...)
}

// io has QEMU read or write the disk, as its device would.
func (c *copied) io(ctx context.Context, t *testing.T, command string) {
	t.Helper()
	out := string(must.Get(c.q.Query(ctx, "human-monitor-command", map[string]any{"command-line": "qemu-io -d luksplug-sda \"" + command + "\""}))(t))
	if strings.Contains(out, "failed") || strings.Contains(out, "rror") {
		t.Errorf("%s: %s", command, out)
	}
}

// secrets returns how many secrets the key store has.
func (c *copied) secrets(ctx context.Context, t *testing.T) int {
	t.Helper()
	var list struct{ Secrets []any }
	c.run(ctx, t, "--output", "json", "secret", "list").want(t, 0).decode(t, &list)
	return len(list.Secrets)
}

// reencrypted is what the program prints of a re-encryption.
type reencrypted struct {
	ID, Phase, State string
	Old, New         struct{ Path, Header, Layout, UUID, Secret string }
	Cost             struct{ Size, Copied, Allocation int64 }
	DryRun           bool   `json:"dry_run"`
	Discarded        bool   `json:"old_discarded"`
	XML              string `json:"disk_xml"`
}

// jobs returns the entries of the journal.
func (c *copied) jobs(ctx context.Context, t *testing.T) []reencrypted {
	t.Helper()
	var list struct{ Jobs []reencrypted }
	c.run(ctx, t, "--output", "json", "volume", "jobs").want(t, 0).decode(t, &list)
	return list.Jobs
}

// TestVolumeReencrypt: a disk is on a new volume with another key, the old one is kept with its secret until it is discarded, and the printed
// document attaches the new one.
func TestVolumeReencrypt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "8M")
	c.io(ctx, t, "write -P 0x5a 0 1M")
	before := stateOf(ctx, t, c.q)
	var planned reencrypted
	c.inVM(ctx, t, "--output", "json", "volume", "reencrypt", "sda", "--dry-run", "--with-new-secret").want(t, 0).decode(t, &planned)
	if !planned.DryRun || planned.Cost.Copied != 8*peer.MiB || planned.New.Path != filepath.Join(c.dir, "disk-r2.img") {
		t.Errorf("a dry run: %+v", planned)
	}
	c.inVM(ctx, t, "volume", "reencrypt", "sda", "--dry-run").want(t, 0).wantStdout(t, "would re-encrypt", "that of the old volume", "room", "the same passphrase")
	wantSame(ctx, t, c.q, before)
	if c.secrets(ctx, t) != 1 || len(c.jobs(ctx, t)) != 0 {
		t.Error("a dry run has changed something")
	}

	r := c.inVM(ctx, t, "volume", "reencrypt", "sda", "--with-new-secret").want(t, 0)
	r.wantStdout(t, "disk-r2.img", "<serial>serial1</serial>").wantStderr(t, "copying 8 MiB", "the old volume is "+c.path+".old")
	c.io(ctx, t, "read -P 0x5a 0 1M")
	jobs := c.jobs(ctx, t)
	if len(jobs) != 1 || jobs[0].Old.Path != c.path+".old" || jobs[0].Phase != "done-with-old-kept" || jobs[0].Old.Secret == jobs[0].New.Secret {
		t.Fatalf("the journal has %+v", jobs)
	}
	for _, v := range []string{jobs[0].Old.Path, jobs[0].New.Path} {
		c.run(ctx, t, "volume", "info", v, "--check").want(t, 0)
	}
	if n := c.secrets(ctx, t); n != 2 {
		t.Errorf("%d secrets before the old volume is discarded", n)
	}
	c.run(ctx, t, "volume", "jobs", "sda", "--discard-old").want(t, 0)
	if _, err := os.Stat(jobs[0].Old.Path); !os.IsNotExist(err) || c.secrets(ctx, t) != 1 || len(c.jobs(ctx, t)) != 0 {
		t.Errorf("the old volume: %v", err)
	}
	c.inVM(ctx, t, "detach", "sda").want(t, 0)
	again := writeFile(t, "again.xml", r.stdout)
	c.inVM(ctx, t, "attach", again).want(t, 0)
	c.io(ctx, t, "read -P 0x5a 0 1M")
}

// background starts the program on the VM.
func (c *copied) background(ctx context.Context, t *testing.T, args ...string) *background {
	t.Helper()
	return startCommand(t, c.command(ctx, append([]string{"--qmp", c.q.Socket}, args...)...))
}

// wantOld checks that the disk is on its old volume, and that nothing is left of a new one.
func (c *copied) wantOld(ctx context.Context, t *testing.T, secrets int) {
	t.Helper()
	if _, err := os.Stat(filepath.Join(c.dir, "disk-r2.img")); !os.IsNotExist(err) || len(c.jobs(ctx, t)) != 0 || c.secrets(ctx, t) != secrets {
		t.Errorf("something is left: %v, %+v, %d secrets", err, c.jobs(ctx, t), c.secrets(ctx, t))
	}
	if _, err := os.Stat(c.path); err != nil {
		t.Error(err)
	}
}

// slowly bounds a copy so that it takes longer than what a test does meanwhile.
var slowly = []string{"--speed", "64K"}

// TestVolumeJobs: a copy that was begun is shown, and is canceled or finished by other processes.
func TestVolumeJobs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	c.io(ctx, t, "write -P 0x5a 0 1M")
	begin := append([]string{"volume", "reencrypt", "sda", "--with-new-secret"}, slowly...)
	r := c.inVM(ctx, t, append(begin, "--no-wait")...).want(t, 0).wantStderr(t, "volume jobs")
	if r.stdout != "" {
		t.Errorf("a document of a disk that is not switched: %s", r.stdout)
	}
	jobs := c.jobs(ctx, t)
	if len(jobs) != 1 || jobs[0].Phase != "copying" || jobs[0].State != "copying" || jobs[0].XML != "" || c.secrets(ctx, t) != 2 {
		t.Fatalf("the journal has %+v", jobs)
	}
	id := jobs[0].ID
	c.inVM(ctx, t, "list").want(t, 0).wantStdout(t, "its copy to "+jobs[0].New.Path+" is copying")
	c.inVM(ctx, t, "--output", "json", "list").want(t, 0).wantStdout(t, `"phase": "copying"`)
	c.inVM(ctx, t, "detach", "sda").want(t, 5).wantStderr(t, "luksplug-sda-copy", "volume jobs")
	c.inVM(ctx, t, begin...).want(t, 5).wantStderr(t, id[:8])
	c.inVM(ctx, t, "repair").want(t, 0).wantStderr(t, id[:8])
	c.run(ctx, t, "volume", "jobs", id[:6], "--finish").want(t, 5).wantStderr(t, "--wait")
	c.run(ctx, t, "volume", "jobs", "sda", "--discard-old").want(t, 5)
	c.run(ctx, t, "volume", "jobs", jobs[0].New.Path, "--cancel").want(t, 0).wantStdout(t, "the disk is on "+c.path)
	c.wantOld(ctx, t, 1)

	// Finished by another process than the one that has begun it.
	c.inVM(ctx, t, append(begin, "--no-wait")...).want(t, 0)
	c.run(ctx, t, "volume", "jobs", "sda", "--speed", "0").want(t, 0)
	eventually(ctx, t, "little is left to copy", func() bool {
		r := c.run(ctx, t, "volume", "jobs", "sda", "--finish", "--discard-old")
		return r.code == 0 || r.want(t, 5).code == 0
	})
	c.io(ctx, t, "read -P 0x5a 0 1M")
	if len(c.jobs(ctx, t)) != 0 || c.secrets(ctx, t) != 1 {
		t.Errorf("the old volume is not discarded: %+v", c.jobs(ctx, t))
	}
}

// TestVolumeReencryptInterrupted: a copy goes on when its process is interrupted or killed, and another one finishes it.
func TestVolumeReencryptInterrupted(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	c.io(ctx, t, "write -P 0x5a 0 1M")
	for _, signal := range []os.Signal{os.Interrupt, os.Kill} {
		b := c.background(ctx, t, append([]string{"volume", "reencrypt", "sda", "--with-new-secret"}, slowly...)...)
		var id string
		eventually(ctx, t, "QEMU copies", func() bool {
			for _, j := range c.jobs(ctx, t) { // those of one second are in the order of their ids
				if j.Phase == "copying" {
					id = j.ID
				}
			}
			return id != "" || b.isOver()
		})
		must.OK(t, b.cmd.Process.Signal(signal))
		if signal == os.Interrupt {
			b.end(ctx, t).want(t, 130).wantStderr(t, "QEMU goes on copying sda", "volume jobs "+id[:8]+" --wait")
		} else {
			<-b.ended
		}
		c.run(ctx, t, "volume", "jobs", id, "--speed", "0", "--wait").want(t, 0).wantStdout(t, "<target dev='sda'")
		c.io(ctx, t, "read -P 0x5a 0 1M")
	}
	if jobs := c.jobs(ctx, t); len(jobs) != 2 || c.secrets(ctx, t) != 3 {
		t.Errorf("two old volumes are kept: %+v", jobs)
	}
}

// TestVolumeReencryptVMEnds: if the VM ends, the disk is on its old volume, and nothing is left of the new one.
func TestVolumeReencryptVMEnds(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	b := c.background(ctx, t, append([]string{"volume", "reencrypt", "sda", "--with-new-secret"}, slowly...)...)
	eventually(ctx, t, "QEMU copies", func() bool {
		jobs := c.jobs(ctx, t)
		return len(jobs) == 1 && jobs[0].Phase == "copying" || b.isOver()
	})
	must.OK(t, c.q.Close())
	b.end(ctx, t).want(t, 6).wantStderr(t, "the disk is on its old volume")
	c.wantOld(ctx, t, 1)
}

// TestVolumeReencryptLayouts: a disk goes from each layout to the next, by its target alone, with its content.
func TestVolumeReencryptLayouts(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	c.io(ctx, t, "write -P 0x5a 0 1M")
	steps := []struct{ layout, want, flag string }{
		{"detached", "luks over raw", "--luks2"},
		{"qcow2-detached", "luks over qcow2", "--luks1"},
		{"qcow2", "luks in qcow2", "--with-new-secret"},
		{"raw", "luks", "--luks2"},
		{"", "luks", "--cipher=aes-cbc-essiv:sha256"},
	}
	if !peer.IsLong() {
		steps = steps[:2]
	}
	for _, s := range steps {
		args := []string{"--output", "json", "volume", "reencrypt", "sda", "--discard-old", s.flag}
		if s.layout != "" {
			args = append(args, "--layout", s.layout)
		}
		var got reencrypted
		c.inVM(ctx, t, args...).want(t, 0).decode(t, &got)
		if got.New.Layout != s.want || !got.Discarded || got.XML == "" {
			t.Errorf("%s: %+v", s.layout, got)
		}
		c.io(ctx, t, "read -P 0x5a 0 1M")
		if n := c.secrets(ctx, t); n != 1 {
			t.Errorf("%s: %d secrets", s.layout, n)
		}
	}
}

// TestVolumeReencryptPlain: a disk without encryption gets it, with a new secret.
func TestVolumeReencryptPlain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	plain := filepath.Join(c.dir, "plain.img")
	must.OK(t, os.WriteFile(plain, []byte(strings.Repeat("x", peer.MiB)), 0o600))
	xml := writeFile(t, "sdb.xml", "<disk type='file' device='disk'><driver name='qemu' type='raw'/><source file='"+plain+"'/><target dev='sdb' bus='scsi'/></disk>")
	c.inVM(ctx, t, "attach", xml).want(t, 0)
	var got reencrypted
	c.inVM(ctx, t, "--output", "json", "volume", "reencrypt", "sdb", "--discard-old").want(t, 0).decode(t, &got)
	if got.New.Layout != "luks" || got.Old.Layout != "raw" || c.secrets(ctx, t) != 2 {
		t.Errorf("%+v", got)
	}
	if _, err := os.Stat(plain + ".old"); !os.IsNotExist(err) {
		t.Errorf("the plain image: %v", err)
	}
	c.run(ctx, t, "volume", "info", got.New.Path, "--check").want(t, 0)
}

// TestVolumeReencryptOld: disks with old keys are re-encrypted in one run, within a window, and young ones are not.
func TestVolumeReencryptOld(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "1M")
	c.inVM(ctx, t, "volume", "reencrypt", "--older-than", "90d").want(t, 0)
	if len(c.jobs(ctx, t)) != 0 {
		t.Error("a young key was replaced")
	}
	now := time.Now()
	closed := now.Add(2*time.Hour).Format("15:04") + "-" + now.Add(3*time.Hour).Format("15:04")
	c.inVM(ctx, t, "volume", "reencrypt", "--older-than", "1ms", "--window", closed).want(t, 0).wantStderr(t, "the window "+closed+" opens")
	c.inVM(ctx, t, "volume", "reencrypt", "--older-than", "1ms", "--dry-run").want(t, 0).wantStdout(t, "KEY AGE", "disk-r2.img")
	if len(c.jobs(ctx, t)) != 0 {
		t.Error("a copy was begun outside of the window, or in a dry run")
	}
	// What an earlier run has begun is finished first.
	c.inVM(ctx, t, append([]string{"volume", "reencrypt", "sda", "--with-new-secret", "--no-wait"}, slowly...)...).want(t, 0)
	c.run(ctx, t, "volume", "jobs", "sda", "--speed", "0").want(t, 0)
	c.inVM(ctx, t, "volume", "reencrypt", "--older-than", "90d").want(t, 0).wantStderr(t, "going on with the re-encryption")
	r := c.inVM(ctx, t, "volume", "reencrypt", "--older-than", "1ms", "--with-new-secret", "--discard-old").want(t, 0)
	r.wantStdout(t, "disk-r3.img").wantStderr(t, "sda of "+c.q.Socket+" uses ")
	if jobs := c.jobs(ctx, t); len(jobs) != 1 {
		t.Errorf("the journal has %+v", jobs)
	}
}

// TestVolumeReencryptDomain: of a libvirt domain the records move with the disk, so that its next start has the new volume.
func TestVolumeReencryptDomain(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	l := h.Libvirt
	must.OK(t, os.Chmod(h.keys, 0o700))
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true}))(t)
	inside(ctx, t, l, "hook", "enable", d.Name, "--yes").want(t, 0)
	dir := shortDir(t, "")
	old := filepath.Join(dir, "disk.img")
	xml := writeFile(t, "sda.xml", inside(ctx, t, l, "volume", "create", "serial1", "--target", "sda", "--size", "4M", "--path", old).want(t, 0).stdout)
	viaVirsh(ctx, t, l, d.Name, "attach", "--persistent", xml).want(t, 0)
	viaVirsh(ctx, t, l, d.Name, "volume", "reencrypt", "sda", "--no-wait", "--speed", "64K").want(t, 0).wantStderr(t, "is bound to "+old)
	for _, scope := range []string{"--live", "--config"} {
		if text := metadata(ctx, l, d.Name, scope); !strings.Contains(text, old) || strings.Contains(text, "disk-r2.img") {
			t.Errorf("before the switch, %s: %s", scope, text)
		}
	}
	inside(ctx, t, l, "volume", "jobs", "sda", "--speed", "0", "--wait").want(t, 0).wantStdout(t, "disk-r2.img")
	want := recordedDisk{"sda", "attached", "", []string{"live", "persistent"}}
	wantRecorded(ctx, t, l, d, want)
	for _, scope := range []string{"--live", "--config"} {
		if text := metadata(ctx, l, d.Name, scope); strings.Contains(text, old+"'") || !strings.Contains(text, "disk-r2.img") {
			t.Errorf("after the switch, %s: %s", scope, text)
		}
	}
	inside(ctx, t, l, "volume", "jobs", "sda", "--discard-old").want(t, 0)
	if keys := must.Get(filepath.Glob(filepath.Join(h.keys, "*.xml")))(t); len(keys) != 1 {
		t.Errorf("secrets in the end: %v", keys)
	}
	virsh(ctx, t, l, "destroy", d.Name)
	inside(ctx, t, l, "volume", "reencrypt", filepath.Join(dir, "disk-r2.img")).want(t, 5).wantStderr(t, "--domain")
	viaVirsh(ctx, t, l, d.Name, "volume", "reencrypt", "sda", "--discard-old").want(t, 0).wantStdout(t, "disk-r3.img")
	virsh(ctx, t, l, "start", d.Name)
	wantRecorded(ctx, t, l, d, want)
	viaVirsh(ctx, t, l, d.Name, "volume", "reencrypt", "--older-than", "1ms", "--discard-old").want(t, 0).wantStdout(t, "disk-r4.img")
	wantRecorded(ctx, t, l, d, want)
	viaVirsh(ctx, t, l, d.Name, "detach", "--persistent", "sda").want(t, 0)
}

// TestVolumeReencryptIdle: a volume that no VM has gets a new data key, and one whose copy is interrupted stays as it was.
func TestVolumeReencryptIdle(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	c.io(ctx, t, "write -P 0x5a 0 1M")
	c.run(ctx, t, "volume", "reencrypt", c.path, "--with-new-secret").want(t, 5) // the VM has it
	c.wantOld(ctx, t, 1)
	c.inVM(ctx, t, "detach", "sda").want(t, 0)
	c.run(ctx, t, "volume", "reencrypt", c.path, "--dry-run").want(t, 0).wantStdout(t, "would re-encrypt", "4194304 bytes")
	c.run(ctx, t, "volume", "reencrypt", c.path, "--no-wait").want(t, 2)
	b := startCommand(t, c.command(ctx, append([]string{"volume", "reencrypt", c.path, "--with-new-secret"}, slowly...)...))
	eventually(ctx, t, "luksplug copies", func() bool {
		jobs := c.jobs(ctx, t)
		return len(jobs) == 1 && jobs[0].Phase == "copying" && strings.HasPrefix(jobs[0].State, "copied by process") || b.isOver()
	})
	c.run(ctx, t, "volume", "jobs", "--cancel").want(t, 5).wantStderr(t, "is driven by process")
	must.OK(t, b.cmd.Process.Signal(os.Interrupt))
	b.end(ctx, t).want(t, 6).wantStderr(t, "the old volume is complete")
	c.wantOld(ctx, t, 1)
	b = startCommand(t, c.command(ctx, append([]string{"volume", "reencrypt", c.path, "--with-new-secret"}, slowly...)...))
	eventually(ctx, t, "luksplug copies", func() bool {
		jobs := c.jobs(ctx, t)
		return len(jobs) == 1 && jobs[0].Phase == "copying" || b.isOver()
	})
	must.OK(t, b.cmd.Process.Kill())
	<-b.ended
	eventually(ctx, t, "the storage daemon has ended", func() bool {
		return c.run(ctx, t, "volume", "jobs", "--cancel").code == 0
	})
	c.wantOld(ctx, t, 1)

	xml := c.run(ctx, t, "volume", "reencrypt", c.xml, "--with-new-secret", "--discard-old", "--layout", "detached").want(t, 0).stdout
	c.inVM(ctx, t, "attach", writeFile(t, "again.xml", xml)).want(t, 0)
	c.io(ctx, t, "read -P 0x5a 0 1M")
	if len(c.jobs(ctx, t)) != 0 || c.secrets(ctx, t) != 1 {
		t.Errorf("the old volume is not discarded: %+v", c.jobs(ctx, t))
	}
}

// TestVolumeReencryptSharedSecret: a secret that another disk uses stays when the old volume is destroyed.
func TestVolumeReencryptSharedSecret(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "1M")
	var info struct{ Secrets []string }
	c.run(ctx, t, "--output", "json", "volume", "info", c.path).want(t, 0).decode(t, &info)
	xml := c.run(ctx, t, "volume", "create", "other", "--target", "sdb", "--size", "1M", "--path", filepath.Join(c.dir, "other.img"), "--secret", info.Secrets[0]).want(t, 0).stdout
	c.inVM(ctx, t, "attach", writeFile(t, "sdb.xml", xml)).want(t, 0)
	c.inVM(ctx, t, "volume", "reencrypt", "sda", "--with-new-secret", "--discard-old").want(t, 0).wantStderr(t, "the secret "+info.Secrets[0]+" stays", "other.img")
	if n := c.secrets(ctx, t); n != 2 {
		t.Errorf("%d secrets", n)
	}
	// A new volume may have a secret that exists, and its end does not remove that.
	c.inVM(ctx, t, "volume", "reencrypt", "sda", "--secret", info.Secrets[0], "--speed", "64K", "--no-wait").want(t, 0)
	c.run(ctx, t, "volume", "jobs", "copying", "--cancel").want(t, 2)
	for _, job := range c.jobs(ctx, t) {
		c.run(ctx, t, "volume", "jobs", job.ID, "--cancel").want(t, 0)
	}
	if n := c.secrets(ctx, t); n != 2 {
		t.Errorf("%d secrets after the second copy was canceled", n)
	}
}

// TestVolumeReencryptAtATerminal: ^C asks whether the copy is to go on.
func TestVolumeReencryptAtATerminal(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	c := newCopied(ctx, t, "4M")
	for _, at := range []struct {
		typed, says string
		code, jobs  int
	}{{"c\n", "is canceled", 6, 0}, {"\n", "goes on copying", 130, 1}} {
		tty, person := must.Terminal(t)
		must.OK(t, unix.IoctlSetWinsize(int(tty.Fd()), unix.TIOCSWINSZ, &unix.Winsize{Row: 25, Col: 120})) // for the bar
		cmd := c.command(ctx, append([]string{"--qmp", c.q.Socket, "volume", "reencrypt", "sda", "--with-new-secret"}, slowly...)...)
		cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
		cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
		must.OK(t, cmd.Start())
		shown, done := make(chan string, 1), make(chan error, 1)
		go func() { shown <- conversation(person, [][2]string{{", copying", "\x03"}, {"[L/c] ", at.typed}}) }()
		go func() { done <- cmd.Wait() }()
		<-done //nolint:errcheck // the exit code is in the process's state
		must.OK(t, tty.Close())
		text := <-shown
		if code := cmd.ProcessState.ExitCode(); code != at.code || !strings.Contains(text, at.says) || !strings.Contains(text, " % ") || len(c.jobs(ctx, t)) != at.jobs {
			t.Errorf("exit code %d, want %d, %d jobs: %q", code, at.code, len(c.jobs(ctx, t)), text)
		}
	}
	c.run(ctx, t, "volume", "jobs", "--cancel").want(t, 0)
	c.wantOld(ctx, t, 1)
}

// conversation types texts, each when the terminal shows another one, and returns all that it shows.
func conversation(person *os.File, say [][2]string) string {
	var text strings.Builder
	buffer := make([]byte, 1000)
	from := 0
	for {
		n, err := person.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			return text.String()
		}
		if len(say) > 0 && strings.Contains(text.String()[from:], say[0][0]) {
			from = text.Len()
			_, _ = person.WriteString(say[0][1]) // an error ends the reading as well
			say = say[1:]
		}
	}
}
