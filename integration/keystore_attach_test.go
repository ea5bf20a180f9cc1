package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/internal/testserver/tangtest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// keystoreCase is a key store that holds a volume's passphrase.
type keystoreCase struct {
	uri string
	env []string
	// wrap is a program that runs luksplug; its arguments follow.
	wrap []string
	// program is another build of luksplug; "" for the usual one.
	program string
	// opens is the secret that unlocks the store.
	opens string
}

// tool is the program to run.
func (c keystoreCase) tool() string {
	if c.program != "" {
		return c.program
	}
	return luksplug
}

// filler makes a key store with a passphrase, and returns its description for a test.
type filler[T any] func(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) T

// keystoreCases returns the filler of each kind of store.
func keystoreCases() map[string]filler[keystoreCase] {
	return map[string]filler[keystoreCase]{
		"dir":         inDir("dir:", ""),
		"dir in hex":  inDir("dir:", "?encoding=hex"),
		"age":         inDir("age:", ""),
		"age, hybrid": inDir("age:", "?key=hybrid"),
		"credentials": func(_ context.Context, t *testing.T, id uuid.UUID, p []byte) keystoreCase {
			dir := filepath.Dir(writeFile(t, id.String(), string(p)))
			return keystoreCase{uri: "credentials:", env: []string{"CREDENTIALS_DIRECTORY=" + dir}}
		},
		"systemd-creds": inSystemdCreds,
		"systemd-creds by exec": func(ctx context.Context, t *testing.T, id uuid.UUID, p []byte) keystoreCase {
			c := inSystemdCreds(ctx, t, id, p)
			c.uri = strings.Replace(documentedLine(t, "systemd-creds decrypt"), "/etc/credstore.encrypted", strings.TrimPrefix(c.uri, "credentials:"), 1)
			return c
		},
		"exec": func(_ context.Context, t *testing.T, id uuid.UUID, p []byte) keystoreCase {
			dir := filepath.Dir(writeFile(t, id.String(), string(p)))
			return keystoreCase{uri: `exec:/bin/sh -c 'echo looking >&2; exec cat "$KEYS/$LUKSPLUG_SECRET_UUID"'`, env: []string{"KEYS=" + dir}}
		},
		"clevis by exec": inClevis,
		"libvirt":        inLibvirt,
		"keyring":        inKeyring,
		"kmip":           inKMIP,
		"pkcs11":         inPKCS11,
	}
}

// documentedLine returns the key store that README.md and docs/keystores.md show for a program.
func documentedLine(t *testing.T, program string) string {
	t.Helper()
	var lines []string
	for _, path := range []string{"README.md", "docs/keystores.md"} {
		text := must.Get(os.ReadFile(filepath.Join(repository, path)))(t)
		for line := range strings.Lines(string(text)) {
			if uri, found := strings.CutPrefix(strings.TrimSpace(line), "- exec:"); found && strings.Contains(uri, program) {
				lines = append(lines, "exec:"+uri)
			}
		}
	}
	if len(lines) != 2 || lines[0] != lines[1] {
		t.Fatalf("the two documents show for %s: %q", program, lines)
	}
	return lines[0]
}

// inDir fills a store of a new directory.
func inDir(scheme, query string) filler[keystoreCase] {
	return func(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
		return filled(ctx, t, scheme+t.TempDir()+query, id, passphrase)
	}
}

// filled defines the secret through the store itself.
func filled(ctx context.Context, t *testing.T, uri string, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	store := must.Get(keystore.Open(uri, keystore.Options{}))(t)
	k := store.(secrets.Keeper)
	d := secrets.Document{UUID: id, Private: true}
	value := secrets.New(bytes.Clone(passphrase))
	defer value.Wipe()
	must.OK(t, errors.Join(k.Define(ctx, d), k.Set(ctx, d.Reference(), value)))
	return keystoreCase{uri: uri}
}

func inSystemdCreds(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	if _, err := exec.LookPath("systemd-creds"); err != nil {
		t.Skip("systemd-creds is not installed (it belongs to systemd)")
	}
	dir := t.TempDir()
	c := keystoreCase{uri: "credentials:" + dir, env: []string{"SYSTEMD_CREDENTIAL_SECRET=" + filepath.Join(t.TempDir(), "host.secret")}}
	cmd := exec.CommandContext(ctx, "systemd-creds", "encrypt", "--with-key=host", "-", filepath.Join(dir, id.String()))
	cmd.Env = append(os.Environ(), c.env...)
	cmd.Stdin = bytes.NewReader(passphrase)
	run(ctx, t, cmd).want(t, 0)
	return c
}

// inClevis has clevis bind the passphrase to a tang server.
func inClevis(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	tang := tangtest.Start(t)
	cmd := exec.CommandContext(ctx, "clevis", "encrypt", "tang", fmt.Sprintf(`{"url":%q}`, tang.URL), "-y")
	cmd.Stdin = bytes.NewReader(passphrase)
	r := run(ctx, t, cmd).want(t, 0)
	dir := filepath.Dir(writeFile(t, id.String()+".jwe", r.stdout))
	return keystoreCase{uri: strings.Replace(documentedLine(t, "clevis decrypt"), "/etc/luksplug/clevis", dir, 1)}
}

func inLibvirt(_ context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	d := peer.Libvirtd(t)
	newLibvirtKeys(t, d).define(t, secrets.Document{UUID: id}, passphrase)
	return keystoreCase{uri: "libvirt+qemu:///system?socket=" + d.Socket}
}

func inKMIP(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	a := kmiptest.NewAuthority(t)
	return filled(ctx, t, kmipURI(t, a, kmiptest.PyKMIP(t, a)), id, passphrase)
}

// kmipURI returns the store's URI for a client of a KMIP server.
func kmipURI(t *testing.T, a *kmiptest.Authority, address string) string {
	t.Helper()
	client := a.Client(t, "luksplug")
	return "kmip://" + address + "?cert-file=" + client.Certificate + "&key-file=" + client.Key + "&ca-file=" + a.File
}

// untilKeyring waits for the Secret Service. An earlier query would have the bus start a daemon without a
// password.
const untilKeyring = `until dbus-send --print-reply --dest=org.freedesktop.DBus / org.freedesktop.DBus.NameHasOwner string:org.freedesktop.secrets 2>/dev/null | grep -q true; do
	kill -0 $keyring; sleep 0.05
done
`

// withPKCS11 builds, once, the program with PKCS#11, in addition to the usual one.
var withPKCS11 = sync.OnceValues(func() (string, error) {
	path := luksplug + "-pkcs11"
	cmd := exec.Command("go", "build", "-trimpath", "-tags", "pkcs11", "-o", path, "github.com/luksplug/luksplug/cmd/luksplug")
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("build the program with PKCS#11: %w: %s", err, out)
	}
	return path, nil
})

// inPKCS11 has a build of luksplug with PKCS#11 put the passphrase on a token of SoftHSM's.
func inPKCS11(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	return onToken(ctx, t, t.TempDir(), id, passphrase)
}

// onToken is inPKCS11 with the token's files in dir.
func onToken(ctx context.Context, t *testing.T, dir string, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	peer.Long(t, "builds the program once more, with cgo; secrets/pkcs11 and secrets/keystore test the store in every run")
	const module = "/usr/lib/softhsm/libsofthsm2.so"
	for _, program := range []string{"softhsm2-util", "gcc"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make setup installs it)", program)
		}
	}
	program := must.Get(withPKCS11())(t)
	pin := "pin " + uuid.NewString()
	c := keystoreCase{
		uri:     "pkcs11:token=disks?module-path=" + module + "&pin-source=file:" + writeFile(t, "pin", pin+"\n"),
		env:     []string{"SOFTHSM2_CONF=" + writeFile(t, "softhsm2.conf", "directories.tokendir = "+dir+"\n")},
		program: program,
		opens:   pin,
	}
	with := func(name string, args ...string) {
		cmd := exec.CommandContext(ctx, name, args...)
		cmd.Env = append(os.Environ(), c.env...)
		run(ctx, t, cmd).want(t, 0)
	}
	with("softhsm2-util", "--init-token", "--free", "--label", "disks", "--so-pin", "so "+pin, "--pin", pin)
	with(c.program, "--keystore", c.uri, "secret", "define", writeFile(t, "secret.xml", "<secret private='yes'><uuid>"+id.String()+"</uuid></secret>"))
	with(c.program, "--keystore", c.uri, "secret", "set-value", id.String(), "--file", writeFile(t, "value", string(passphrase)))
	return c
}

// inKeyring wraps luksplug in a session with a D-Bus and an unlocked gnome-keyring that has the passphrase.
func inKeyring(_ context.Context, t *testing.T, id uuid.UUID, passphrase []byte) keystoreCase {
	t.Helper()
	for _, program := range []string{"dbus-run-session", "gnome-keyring-daemon", "secret-tool"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("%s is not installed (make setup installs it)", program)
		}
	}
	home := t.TempDir()
	value := writeFile(t, "hex", fmt.Sprintf("%x", passphrase)) // secret-tool takes text
	const script = `set -e
printf password | gnome-keyring-daemon --unlock --components=secrets --foreground --control-directory="$HOME/run" >/dev/null 2>&1 & keyring=$!
trap 'kill $keyring' EXIT
value=$1 id=$2; shift 2
` + untilKeyring + `until secret-tool store --label=test application luksplug uuid "$id" <"$value" 2>/dev/null; do
	kill -0 $keyring; sleep 0.05
done
"$@"`
	return keystoreCase{
		uri:  "keyring:?encoding=hex",
		env:  []string{"HOME=" + home, "XDG_DATA_HOME=" + home, "XDG_RUNTIME_DIR=" + home, "XDG_CONFIG_HOME=" + home, "XDG_CACHE_HOME=" + home, "DISPLAY="},
		wrap: []string{"dbus-run-session", "--", "/bin/sh", "-c", script, "sh", value, id.String()},
	}
}

// TestKeystoreAttach attaches a volume with the passphrase from each kind of key store.
func TestKeystoreAttach(t *testing.T) {
	t.Parallel()
	for name, fill := range keystoreCases() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := attachFrom(bounded(t), t, fill)
			if name == "exec" && !strings.Contains(r.stderr, "looking\n") {
				t.Error("the program's messages are not passed on")
			}
		})
	}
}

// attachFrom attaches a volume with a passphrase from a key store: 64 random bytes, with NUL and high bytes.
// luksplug does not write them to any file, and leaves no object in QEMU.
func attachFrom(ctx context.Context, t *testing.T, fill filler[keystoreCase]) result {
	t.Helper()
	passphrase := make([]byte, 64)
	_, _ = rand.Read(passphrase) // never fails
	passphrase[7], passphrase[8], passphrase[63] = 0, 0xff, '\n'
	v := peer.NewVolume(t, peer.DetachedRaw)
	addKey(ctx, t, v, string(passphrase))
	c := fill(ctx, t, must.Get(uuid.Parse(v.SecretUUID))(t), passphrase)
	q := peer.Start(t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	args := append(c.wrap, c.tool(), "--qmp", q.Socket, "-vv", "--keystore", c.uri, "attach", writeFile(t, "disk.xml", v.DiskXML("vdb", "virtio")))
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.Env = append(os.Environ(), c.env...)
	r := run(ctx, t, cmd).want(t, 0)
	found := evidence{}
	found.output("luksplug", r)
	found.hides(t, string(passphrase))
	if c.opens != "" {
		found.hides(t, c.opens)
	}
	tool(ctx, t, q.Socket, "list").want(t, 0).wantStdout(t, "vdb")
	wantSameObjects(ctx, t, q, before)
	return r
}
