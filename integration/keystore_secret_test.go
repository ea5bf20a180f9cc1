package integration

import (
	"context"
	"crypto/rand"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
)

// binaryKey returns a passphrase that any conversion of its bytes would change.
func binaryKey() string {
	b := make([]byte, 64)
	_, _ = rand.Read(b) // never fails: it ends the program instead
	copy(b, "\x00\n\xff\x80=")
	copy(b[len(b)-3:], "\x00\r\n")
	return string(b)
}

// secretStore is a key store that luksplug itself fills.
type secretStore struct {
	name, uri string
	opens     string // file of the passphrase that opens it, as descriptor 3
	sealed    string // directory in which no value can be read
}

// TestSecretsToDisks defines secrets, attaches disks with them and reads them back, by uuid and by usage, in
// every store that luksplug can fill. No output or file has the value.
func TestSecretsToDisks(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	q := peer.Start(t, peer.Options{Guest: true, RootPorts: 2})
	v := peer.NewVolume(t, peer.DetachedRaw)
	value := binaryKey()
	key := addKey(ctx, t, v, value)
	opens := awkward()
	lock := writeFile(t, "lock", opens)
	must.OK(t, q.Guest().WaitBoot(ctx))
	before := stateOf(ctx, t, q)
	plain, sealed, protected := t.TempDir(), filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	protectedIdentity(ctx, t, protected, opens)
	authority := kmiptest.NewAuthority(t)
	stores := []secretStore{
		{name: "age", uri: "age:" + sealed, sealed: sealed},
		{name: "age with a passphrase", uri: "age:" + protected + "?key=hybrid&protect=passphrase&passphrase-file=fd:3", opens: lock, sealed: protected},
		{name: "dir", uri: "dir:" + plain},
		{name: "dir in hex", uri: "dir:" + t.TempDir() + "?encoding=hex"},
		{name: "kmip", uri: kmipURI(t, authority, kmiptest.NewServer(t, authority).Address)},
	}
	found := evidence{}
	for _, s := range stores {
		l := &secretLife{store: s, q: q, v: v, key: key, value: value, found: found, temp: t.TempDir()}
		l.run(ctx, t)
		wantSame(ctx, t, q, before)
		found.dir(t, l.temp)
		if s.sealed != "" {
			found.dir(t, s.sealed)
		}
	}
	found.hides(t, value)
}

// protectedIdentity makes a directory of age's with a hybrid identity that a passphrase opens quickly: with
// age's own cost each command would take a second.
func protectedIdentity(ctx context.Context, t *testing.T, path, passphrase string) {
	t.Helper()
	store := age.New(path, age.Options{PostQuantum: true, Protect: true, WorkFactor: 10, Passphrase: func(context.Context, string) (*secrets.Secret, error) {
		return secrets.New([]byte(passphrase)), nil
	}})
	d := secrets.Document{UUID: uuid.New()}
	must.OK(t, errors.Join(store.Define(ctx, d), store.Remove(ctx, d.Reference())))
}

// secretLife is the test of one secret in one store.
type secretLife struct {
	store      secretStore
	q          *peer.QEMU
	v          *peer.Volume
	key, value string
	found      evidence
	temp       string
}

// program runs the program and keeps its output.
func (l *secretLife) program(ctx context.Context, t *testing.T, code int, args ...string) result {
	t.Helper()
	all := []string{"-vv", "--keystore", l.store.uri}
	if !slices.Contains(args, "secret") {
		all = append(all, "--qmp", l.q.Socket, "--trace", filepath.Join(l.temp, "trace"+uuid.NewString()))
	}
	cmd := exec.CommandContext(ctx, luksplug, append(all, args...)...)
	if l.store.opens != "" {
		f := must.Get(os.Open(l.store.opens))(t)
		defer func() { _ = f.Close() }() // only read
		cmd.ExtraFiles = []*os.File{f}
	}
	r := run(ctx, t, cmd)
	if r.code != code {
		t.Fatalf("%s: %v: exit code %d, want %d\n%s%s", l.store.name, args, r.code, code, r.stdout, r.stderr)
	}
	l.found.output(l.store.name+": "+strings.Join(args, " ")+uuid.NewString(), r)
	return r
}

func (l *secretLife) run(ctx context.Context, t *testing.T) {
	usage := filepath.Dir(l.v.Header) + "/<image> & 'co'"
	id, ceph := uuid.NewString(), uuid.NewString()
	document := func(private, id, usage string) string {
		return writeFile(t, "secret.xml", "<secret private='"+private+"'><uuid>"+id+"</uuid>"+usage+"</secret>")
	}
	escaped := strings.NewReplacer("&", "&amp;", "<", "&lt;", "'", "&apos;").Replace(usage)
	l.program(ctx, t, 0, "secret", "define", document("yes", id, "<usage type='volume'><volume>"+escaped+"</volume></usage>"))
	l.program(ctx, t, 0, "secret", "define", document("no", ceph, "<usage type='ceph'><name>client.vm1</name></usage>"))
	xml := l.v.DiskXML("vdb", "virtio")
	named := func(attribute string) string {
		return writeFile(t, "disk.xml", edited(t, xml, "uuid='"+l.v.SecretUUID+"'", attribute))
	}
	byUUID, byUsage := named("uuid='"+id+"'"), named("usage='"+escaped+"'")

	l.program(ctx, t, 4, "attach", byUUID).wantStderr(t, "no value yet")
	l.program(ctx, t, 0, "secret", "set-value", id, "--file", l.key)
	l.program(ctx, t, 0, "secret", "set-value", ceph, "--file", l.key)
	l.program(ctx, t, 4, "secret", "get-value", id).wantStderr(t, "private")
	l.program(ctx, t, 4, "attach", named("uuid='"+ceph+"'")).wantStderr(t, "another type")
	l.program(ctx, t, 4, "attach", named("usage='client.vm1'"))

	for _, disk := range []string{byUUID, byUsage} {
		l.program(ctx, t, 0, "attach", disk)
		r := l.program(ctx, t, 5, "secret", "undefine", id)
		r.wantStderr(t, "disk vdb of VM "+l.q.Socket)
		l.program(ctx, t, 0, "secret", "list", "--output", "json")
		l.program(ctx, t, 0, "detach", "vdb")
	}

	// The only output that may contain a value.
	shown := exec.CommandContext(ctx, luksplug, "--keystore", l.store.uri, "secret", "get-value", ceph)
	if l.store.opens != "" {
		shown = exec.CommandContext(ctx, "sh", "-c", `exec "$@" 3<"$0"`, l.store.opens, luksplug, "--keystore", l.store.uri, "secret", "get-value", ceph)
	}
	if r := run(ctx, t, shown).want(t, 0); r.stdout != l.value {
		t.Errorf("%s: the value came back as %d other bytes", l.store.name, len(r.stdout))
	}
	l.program(ctx, t, 0, "secret", "undefine", id)
	l.program(ctx, t, 0, "secret", "undefine", ceph)
	l.program(ctx, t, 4, "attach", byUUID)
}
