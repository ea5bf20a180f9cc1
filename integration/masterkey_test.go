package integration

import (
	"bytes"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// TestMasterKeyOfLibvirt attaches disks to a domain whose libvirtd logs its monitors' traffic, with each
// method and with a wrong passphrase. The log has secret objects, encrypted under libvirt's master key, and
// no passphrase in any form.
func TestMasterKeyOfLibvirt(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{Config: []string{
		`log_filters = "2:qemu.qemu_monitor"`, `log_outputs = "2:file:/var/log/libvirt/monitor.log"`,
	}})
	d, before := bootedDomain(ctx, t, l)
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	right, wrong := awkward()+"\n", awkward()
	keyFile := addKey(ctx, t, v, right)
	disk := writeFile(t, "disk.xml", serialXML(t, v.DiskXML("vdb", "virtio"), "masterkey"))
	found := evidence{}
	for _, c := range []struct {
		unlock, key string
		code, sent  int
	}{{"qemu", keyFile, 0, 1}, {"auto", keyFile, 0, 1}, {"external", keyFile, 0, 0}, {"qemu", writeFile(t, "wrong", wrong), 4, 1}} {
		trace := filepath.Join(t.TempDir(), "trace")
		via := viaLibvirt
		if c.unlock == "external" {
			via = viaVirsh // has the storage daemon in PATH, too
		}
		got := via(ctx, t, l, d.Name, "-v", "--trace", trace, "--passphrase-file", c.key, "attach", "--unlock", c.unlock, disk).want(t, c.code)
		if says := strings.Contains(got.stderr, "encrypted under its master key masterKey0"); says != (c.sent > 0) {
			t.Errorf("--unlock %s says: %s", c.unlock, got.stderr)
		}
		found["standard error, --unlock "+c.unlock] = []byte(got.stderr)
		found.dir(t, filepath.Dir(trace))
		wantSealed(t, trace, c.sent)
		if c.code == 0 {
			guestDisk(ctx, t, d, "masterkey")
			wantSameObjects(ctx, t, d, before)
			via(ctx, t, l, d.Name, "--timeout", "1m", "detach", "vdb").want(t, 0)
		}
		wantSame(ctx, t, d, before)
	}

	// libvirtd itself runs as root, and its state may have the key.
	log := filepath.Join(l.Dir, "log", "monitor.log")
	content, err := os.ReadFile(log)
	if err != nil || bytes.Count(content, []byte(`"keyid":"masterKey0"`)) < 3 {
		t.Fatalf("libvirtd does not log its monitors' traffic: %d bytes, error %v", len(content), err)
	}
	found.dir(t, l.Dir)
	found.hides(t, strings.TrimSuffix(right, "\n"))
	found.hides(t, wrong)
}

// wantSealed checks that n secret objects went to QEMU, each a ciphertext with its own initialisation
// vector.
func wantSealed(t *testing.T, trace string, n int) {
	t.Helper()
	content := must.Get(os.ReadFile(trace))(t)
	var vectors []string
	for line := range bytes.Lines(content) {
		var entry struct {
			Message struct {
				Execute   string
				Arguments struct {
					Type                    string `json:"qom-type"`
					KeyID, IV, Data, Format string
				}
			}
		}
		must.OK(t, json.Unmarshal(line, &entry))
		a := entry.Message.Arguments
		if entry.Message.Execute != "object-add" || a.Type != "secret" {
			continue
		}
		if a.KeyID != "masterKey0" || a.Format != "base64" || a.Data == "[redacted]" || slices.Contains(vectors, a.IV) {
			t.Errorf("the trace has %s", line)
		}
		vectors = append(vectors, a.IV)
	}
	if len(vectors) != n {
		t.Errorf("%d secret objects went to QEMU, want %d", len(vectors), n)
	}
}

// TestMasterKeyInAnotherNamespace: at the key's path, QEMU's mount namespace has another file than the host.
func TestMasterKeyInAnotherNamespace(t *testing.T) {
	t.Parallel()
	if os.Geteuid() != 0 {
		t.Skip("a mount namespace needs root")
	}
	ctx := bounded(t)
	dir := t.TempDir()
	path := filepath.Join(dir, "master.key")
	inside := writeFile(t, "inside", strings.Repeat("i", 32))
	must.OK(t, os.WriteFile(path, bytes.Repeat([]byte{'o'}, 32), 0o600))
	script := writeFile(t, "start", `mount --make-rprivate / && mount --bind "$1" "$2" && shift 2 && exec "$@"`)
	q := peer.Start(t, peer.Options{RootPorts: 2, Paused: true, Through: []string{"unshare", "--mount", "sh", script, inside, path},
		Extra: []string{"-object", "secret,id=masterKey0,format=raw,file=" + path}})
	v := peer.NewVolume(t, peer.EmbeddedLUKS)
	tool(ctx, t, q.Socket, append([]string{"-v"}, attachArgs(t, v, v.DiskXML("vdb", "virtio"))...)...).want(t, 0).wantStderr(t, "encrypted under its master key")
}

// TestCmdlineMasterKey starts a QEMU with the arguments that cmdline prints for a master key, without a
// passphrase file.
func TestCmdlineMasterKey(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	passphrase := awkward() + "\n"
	addKey(ctx, t, v, passphrase)
	key := writeFile(t, "master.key", "\x00\n\xff "+strings.Repeat("k", 28))
	cmd := exec.CommandContext(ctx, luksplug, "cmdline", "--output", "json", "--passphrase-file", "-", "--master-key", key, writeFile(t, "disk.xml", v.DiskXML("vdb", "virtio")))
	cmd.Stdin = strings.NewReader(passphrase)
	r := run(ctx, t, cmd).want(t, 0)
	var args []string
	r.decode(t, &args)
	evidence{"standard output": []byte(r.stdout), "standard error": []byte(r.stderr)}.hides(t, strings.TrimSuffix(passphrase, "\n"))
	q := peer.Start(t, peer.Options{Machine: peer.I440FX, Paused: true, Extra: append([]string{"-object", "secret,id=masterKey0,format=raw,file=" + key}, args...)})
	if s := stateOf(ctx, t, q); !slices.Contains(s.Nodes, "luksplug-vdb-luks") {
		t.Errorf("QEMU has the nodes %v", s.Nodes)
	}
}
