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

// TestVolumeDestroy: a volume that a VM has is not destroyed; after a detach nothing of it is left, the secret included.
func TestVolumeDestroy(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Paused: true, SCSI: true})
	for target, flags := range map[string][]string{"sda": nil, "sdb": {"--header", "HEADER", "--luks2"}} {
		keys, store := volumeStore(t)
		dir := shortDir(t, "")
		c := resizeCase{target: target, size: 8 * peer.MiB, create: flags}
		c.attached(ctx, t, q, store)
		copied := filepath.Join(dir, "copy")
		key := filepath.Join(dir, "key")
		luks := c.path
		if flags != nil {
			luks = c.create[1]
		}
		must.OK(t, os.WriteFile(copied, must.Get(os.ReadFile(luks))(t), 0o600))
		secrets := must.Get(filepath.Glob(filepath.Join(keys, "*-*")))(t)
		for _, s := range secrets {
			if !strings.HasSuffix(s, ".xml") {
				must.OK(t, os.WriteFile(key, must.Get(os.ReadFile(s))(t), 0o600))
			}
		}
		opens := func(file string) bool {
			return exec.CommandContext(ctx, "cryptsetup", "luksOpen", "--test-passphrase", "--key-file", key, file).Run() == nil
		}
		destroy := func(args ...string) result {
			return run(ctx, t, exec.CommandContext(ctx, luksplug, append([]string{"--keystore", store, "volume", "destroy", c.disk}, args...)...))
		}
		if r := destroy("--yes", "--force").want(t, 5); !strings.Contains(r.stderr, "it is disk "+target) {
			t.Errorf("%s", r.stderr)
		}
		tool(ctx, t, q.Socket, "detach", target).want(t, 0)
		if !opens(luks) {
			t.Fatal("cryptsetup does not open the volume before it is destroyed")
		}
		destroy("--dry-run").want(t, 0)
		if r := destroy().want(t, 2); !strings.Contains(r.stderr, "--yes") || !strings.Contains(r.stdout, "to be removed") || !opens(luks) {
			t.Errorf("without --yes: %s %s", r.stdout, r.stderr)
		}
		var done struct {
			Changed bool
			Removed []string
			Secrets []struct{ Removed bool }
		}
		run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", store, "--output", "json", "volume", "destroy", c.disk, "--yes", "--discard")).want(t, 0).decode(t, &done)
		if !done.Changed || len(done.Secrets) != 1 || !done.Secrets[0].Removed || len(done.Removed) == 0 {
			t.Errorf("%+v", done)
		}
		for _, path := range []string{c.path, luks} {
			if _, err := os.Stat(path); !os.IsNotExist(err) {
				t.Errorf("%s is still there: %v", path, err)
			}
		}
		for _, s := range secrets {
			if _, err := os.Stat(s); !os.IsNotExist(err) {
				t.Errorf("the secret %s is still there", s)
			}
		}
		if !opens(copied) {
			t.Error("a copy of the header opens no more")
		}
	}
}

// destroyInLibvirt destroys volumes beside a domain that is off and names one of them, which takes --force. A secret that
// another volume uses stays.
func destroyInLibvirt(ctx context.Context, t *testing.T, l *peer.Libvirt) {
	t.Helper()
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{Name: "vm2", Persistent: true, Off: true}))(t)
	dir := shortDir(t, "")
	_, store := volumeStore(t)
	inside := func(args ...string) result {
		return run(ctx, t, l.Inside(ctx, luksplug, append([]string{"--connect", l.URI, "--keystore", store}, args...)...))
	}
	path := filepath.Join(dir, "vdb")
	disk := writeFile(t, "vdb.xml", inside("volume", "create", "vm2-vdb", "--size", "8M", "--path", path).want(t, 0).stdout)
	virsh(ctx, t, l, "attach-device", d.Name, disk, "--config")
	if r := inside("volume", "destroy", disk, "--yes").want(t, 5); !strings.Contains(r.stderr, "domain vm2") || !strings.Contains(r.stderr, "--force") {
		t.Errorf("%s", r.stderr)
	}
	other := filepath.Join(dir, "vdc")
	uuid := secretIn(t, disk)
	inside("volume", "create", "vm2-vdc", "--size", "8M", "--path", other, "--secret", uuid).want(t, 0)
	if r := inside("volume", "destroy", other, "--secret", uuid, "--yes").want(t, 0); !strings.Contains(r.stdout, "stays") {
		t.Errorf("the secret of another volume: %s", r.stdout)
	}
	if r := inside("volume", "destroy", disk, "--yes", "--force").want(t, 0); !strings.Contains(r.stdout, "removed") {
		t.Errorf("%s", r.stdout)
	}
	inside("secret", "get-value", uuid).want(t, 4)
}

// secretIn returns the UUID of the secret that a disk document names.
func secretIn(t *testing.T, disk string) string {
	t.Helper()
	_, rest, _ := strings.Cut(string(must.Get(os.ReadFile(disk))(t)), "uuid='")
	uuid, _, found := strings.Cut(rest, "'")
	if !found {
		t.Fatal("the document names no secret")
	}
	return uuid
}
