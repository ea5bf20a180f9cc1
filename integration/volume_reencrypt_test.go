package integration

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

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
