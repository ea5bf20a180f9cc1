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

// TestPlannedHeaders: what QEMU does not open is not printed as arguments or as a plan: cmdline and plan
// refuse it by the words, hint and exit code of an attach.
func TestPlannedHeaders(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{RootPorts: 2, Paused: true})
	before := stateOf(ctx, t, q)
	quick := func(kind peer.VolumeKind, format ...string) *peer.Volume {
		return peer.NewFormatted(t, kind, append(format, "--pbkdf-force-iterations", "1000")...)
	}
	luks2 := []string{"--type", "luks2", "--pbkdf", "pbkdf2", "--sector-size", "512"}
	luks1 := []string{"--type", "luks1"}
	damaged, interrupted := quick(peer.EmbeddedLUKS, luks1...), quick(peer.DetachedRaw, luks1...)
	overwrite(t, damaged.Payload, 0, []byte("LUKS\xba\xbe\x00\x07"))
	overwrite(t, interrupted.Header, 0, []byte("LUKS\xde\xad"))
	empty := peer.NewVolume(t, peer.DetachedQcow2)
	must.OK(t, os.Truncate(empty.Header, 0), os.Truncate(empty.Header, peer.MiB))
	plain := peer.NewVolume(t, peer.DetachedQcow2)
	head, rest, _ := strings.Cut(plain.DiskXML("vdb", "virtio"), "<header")
	_, tail, _ := strings.Cut(rest, "</header>")
	for name, c := range map[string]struct {
		v    *peer.Volume
		xml  string // "" for the volume's own
		says string
	}{
		"LUKS2":                    {v: quick(peer.EmbeddedLUKS, luks2...), says: "QEMU's LUKS driver opens no LUKS2"},
		"LUKS2, detached":          {v: quick(peer.DetachedQcow2, luks2...), says: "QEMU's LUKS driver opens no LUKS2"},
		"large sectors":            {v: quick(peer.DetachedRaw, append(luks2[:4:4], "--sector-size", "4096")...), says: "LUKS2"},
		"a hash that QEMU lacks":   {v: quick(peer.EmbeddedLUKS, append(luks1, "--hash", "whirlpool")...), says: "QEMU's LUKS driver does not support the hash"},
		"a key at which it aborts": {v: quick(peer.EmbeddedLUKS, append(luks1, "--cipher", "aes-cbc-plain64", "--key-size", "192")...), says: "QEMU aborts"},
		"a damaged header":         {v: damaged, says: "version"},
		"a re-encryption":          {v: interrupted, says: "a re-encryption of this LUKS1 volume was interrupted"},
		"no header":                {v: empty, says: "has no LUKS header"},
		"no encryption inside":     {v: plain, xml: head + tail, says: "is not encrypted, and the XML has <encryption>"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.xml == "" {
				c.xml = c.v.DiskXML("vdb", "virtio")
			}
			file := writeFile(t, "disk.xml", c.xml)
			attach := tool(ctx, t, q.Socket, "--passphrase-file", c.v.PassphraseFile, "attach", "--unlock", "qemu", file)
			wantOneLine(t, attach, c.says)
			for _, args := range [][]string{
				{"cmdline", "--passphrase-file", c.v.PassphraseFile, file}, {"plan", "--unlock", "qemu", file},
				{"plan", "--unlock", "qemu", "--output", "json", file},
				append(named(q.Socket), "plan", "--unlock", "qemu", file), append(named(q.Socket), "cmdline", "--passphrase-file", c.v.PassphraseFile, file),
			} {
				got := run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, attach.code)
				if got.stdout != "" || !strings.HasPrefix(got.stderr, attach.stderr[:len(attach.stderr)-1]) {
					t.Errorf("%q: %s\nattach: %s", args, got.stderr, attach.stderr)
				}
			}
			// Without --unlock the plan shows a graph, and attach has another one.
			run(ctx, t, exec.CommandContext(ctx, luksplug, "plan", file)).want(t, 0).wantStderr(t, "level=warning", c.says)
		})
	}
	wantSame(ctx, t, q, before)
	t.Run("doubts", func(t *testing.T) { plannedDoubts(ctx, t) })
}

// plannedDoubts: what an attach refuses unless it is allowed, and what cannot be read, is a warning, and a plan
// of a good volume is silent.
func plannedDoubts(ctx context.Context, t *testing.T) {
	v := peer.NewVolume(t, peer.DetachedRaw)
	cmdline := func(xml string) result {
		t.Helper()
		return run(ctx, t, exec.CommandContext(ctx, luksplug, "cmdline", "--passphrase-file", v.PassphraseFile, writeFile(t, "disk.xml", xml))).want(t, 0)
	}
	if got := cmdline(v.DiskXML("vdb", "virtio")); strings.Contains(got.stderr, "level=") {
		t.Errorf("of a good volume: %s", got.stderr)
	}
	cmdline(plainXML(peer.NewVolume(t, peer.EmbeddedLUKS).Payload)).wantStderr(t, "level=warning", "the guest would see ciphertext", "--allow-guest-header")
	run(ctx, t, exec.CommandContext(ctx, "mkfs.ext4", "-q", "-F", v.Payload)).want(t, 0)
	cmdline(v.DiskXML("vdb", "virtio")).wantStderr(t, "level=warning", "has the signature of ext4", "--allow-signature")
	missing := edited(t, v.DiskXML("vdb", "virtio"), v.Header, filepath.Join(t.TempDir(), "missing"))
	cmdline(missing).wantStderr(t, "level=warning", "missing was not examined, so QEMU may refuse it: open ", "no such file")
}
