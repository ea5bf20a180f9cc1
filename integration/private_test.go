package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// guardedKeys makes a dir: store in memory with the passphrase of a volume, under a document.
func guardedKeys(ctx context.Context, t *testing.T, v *peer.Volume, d secrets.Document) (uri string) {
	t.Helper()
	path := shortDir(t, inMemoryDir)
	must.OK(t, os.Chmod(path, 0o700))
	guard(ctx, t, path, v, d)
	return "dir:" + path
}

// guard puts the passphrase of a volume into a dir: store, under a document.
func guard(ctx context.Context, t *testing.T, path string, v *peer.Volume, d secrets.Document) {
	t.Helper()
	d = withUUID(t, v, d)
	value := secrets.New(slices.Clone(v.Passphrase))
	defer value.Wipe()
	store := dir.New(path)
	must.OK(t, store.Define(ctx, d), store.Set(ctx, d.Reference(), value))
}

var (
	private   = secrets.Document{Private: true}
	ephemeral = secrets.Document{Ephemeral: true}
	guarded   = secrets.Document{Private: true, Ephemeral: true}
)

// TestPrivateStaysOnItsNode: over no transport does a private secret go to a QEMU on another node, by
// no method, nor for a migration; an ephemeral one does, since it is in memory there. The domain's own
// host is the way on.
func TestPrivateStaysOnItsNode(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	l := peer.ListeningLibvirtd(t)
	d := must.Get(l.StartDomain(ctx, peer.DomainOptions{SCSI: true}))(t)
	before := stateOf(ctx, t, d)
	ssh := l.StartSSH(t)
	env := []string{"SSH_AUTH_SOCK=" + ssh.Agent}
	over := fmt.Sprintf("qemu+ssh://%s@%s/system?no_tty=1&command=%s", ssh.User, ssh.Address(), sshProgram(t, ssh.Host))
	v := peer.NewVolume(t, peer.Qcow2LUKS)
	xml := writeFile(t, "disk.xml", serialXML(t, v.DiskXML("sdb", "scsi"), "private"))
	keys := guardedKeys(ctx, t, v, private)
	refused := func(uri string, args ...string) {
		t.Helper()
		trace := filepath.Join(t.TempDir(), "trace")
		got := at(ctx, t, uri, env, d.Name, append([]string{"--keystore", keys, "--trace", trace}, args...)...).want(t, 4)
		text := string(must.Get(os.ReadFile(trace))(t))
		if !strings.Contains(text, `"execute":"query-`) || strings.Contains(text, `"execute":"object-add"`) {
			t.Errorf("%s: a secret was sent, or nothing was", uri)
		}
		got.wantStderr(t, "the secret is private, and does not go to another node", "run luksplug on the VM's host (ssh HOST luksplug), with a key store there")
		wantSame(ctx, t, d, before)
	}
	for _, uri := range []string{
		fmt.Sprintf("qemu+tcp://127.0.0.1:%d/system", l.TCP),
		fmt.Sprintf("qemu://127.0.0.1:%d/system?pkipath=%s", l.TLS, l.Authority.LibvirtClient(t, l.Authority)),
		over,
	} {
		refused(uri, "attach", xml)
		refused(uri, "attach", "--unlock", "qemu", xml)
	}
	open := []string{"--keystore", guardedKeys(ctx, t, v, ephemeral)}
	at(ctx, t, over, env, d.Name, append(open, "attach", xml)...).want(t, 0)
	before = stateOf(ctx, t, d)
	// QEMU would need it again after a failed migration.
	migration := func(code int, args ...string) result {
		cmd := exec.CommandContext(ctx, luksplug, append(args, "--connect", over, "migrate-check", d.Name, l.URI, "--prepare")...)
		cmd.Env = append(os.Environ(), env...)
		return run(ctx, t, cmd).want(t, code)
	}
	migration(4, "--keystore", keys).wantStderr(t, "the secret is private, and does not go to another node")
	wantSame(ctx, t, d, before)
	at(ctx, t, over, env, d.Name, "--timeout", "1m", "detach", "sdb").want(t, 0)

	here := []string{"--keystore", guardedKeys(ctx, t, v, guarded)}
	for _, unlock := range []string{"qemu", "external"} {
		at(ctx, t, l.URI, nil, d.Name, append(here, "attach", "--unlock", unlock, xml)...).want(t, 0)
		at(ctx, t, l.URI, nil, d.Name, "--timeout", "1m", "detach", "sdb").want(t, 0)
	}
}

// TestPrivateOverMonitors: a private secret goes to a QEMU whose process is on this node, whatever the
// monitor's address is; a proxy may lead anywhere.
func TestPrivateOverMonitors(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{SCSI: true, Paused: true, TCP: true})
	before := stateOf(ctx, t, q)
	proxy := peer.NewProxy(t, q.Socket, peer.ProxyHooks{})
	// Forwarded sockets: no VM of this node has the UUID of a VM on another one.
	id := []byte(uuid.NewString())
	foreign := peer.ProxyHooks{Reply: func(_ string, reply []byte) []byte { return bytes.ReplaceAll(reply, []byte(q.UUID), id) }}
	forwarded, port := peer.NewProxy(t, q.Socket, foreign), peer.NewTCPProxy(t, q.Socket, foreign)
	v := peer.NewVolume(t, peer.DetachedRaw)
	xml := writeFile(t, "disk.xml", v.DiskXML("sdb", "scsi"))
	keys := guardedKeys(ctx, t, v, guarded)
	monitor := func(code int, args ...string) result {
		t.Helper()
		return run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, code)
	}
	for _, c := range map[string]struct {
		address []string
		refused bool
	}{
		"its own socket":         {address: []string{"--qmp", q.Socket}},
		"its own port":           {address: []string{"--qmp", q.TCPAddress}},
		"a proxy of a known one": {address: named(proxy.Address)},
		"a forwarded socket":     {address: []string{"--qmp", forwarded.Address}, refused: true},
		"a forwarded port":       {address: []string{"--qmp", port.Address}, refused: true},
	} {
		for _, unlock := range []string{"auto", "qemu"} {
			args := slices.Concat(c.address, []string{"--keystore", keys, "attach", "--unlock", unlock, xml})
			if c.refused {
				wantOneLine(t, monitor(4, args...), "the secret is private, and is not known to stay on this node", "--qemu-pid")
				wantSame(ctx, t, q, before)
				continue
			}
			monitor(0, args...)
			monitor(0, slices.Concat(c.address, []string{"detach", "sdb"})...)
		}
	}
	wantSame(ctx, t, q, before)
}

// TestPrivateAtStart: the hook gives QEMU private and ephemeral secrets of this node's key store.
func TestPrivateAtStart(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	h := newHookHost(t, "")
	disk := plugged{volume: peer.NewVolume(t, peer.Qcow2LUKS), target: "vdb", cold: true}
	d := h.define(ctx, t, disk)
	must.OK(t, os.Remove(h.keyFile(t, disk.volume)))
	guard(ctx, t, h.keys, disk.volume, private)
	h.start(ctx, t, d, disk)
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	h.wantClean(ctx, t)
}
