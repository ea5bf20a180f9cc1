package integration

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/testserver/barbicantest"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
)

// leakStores returns the filler of every kind of key store, by the scheme of its URI.
func leakStores() map[string]filler[leakPlace] {
	return map[string]filler[leakPlace]{
		"dir:":                          leakDir,
		"vm:":                           leakVM,
		"age:":                          leakAge,
		"credentials:":                  leakCredentials,
		"credentials: by systemd-creds": leakSystemdCreds,
		"exec:":                         leakExec,
		"libvirt:":                      leakLibvirt,
		"keyring:":                      leakKeyring,
		"barbican+http:":                leakBarbican,
		"kmip:":                         leakKMIP,
		"pkcs11:":                       leakPKCS11,
	}
}

// renamed returns the same store with another URI.
func (c keystoreCase) renamed(uri string) keystoreCase {
	c.uri = uri
	return c
}

// spoil changes a file that holds, or protects, the passphrase.
func spoil(t *testing.T, path string, mode os.FileMode, edit func([]byte) []byte) {
	t.Helper()
	content, err := os.ReadFile(path)
	if err == nil && edit != nil {
		err = os.WriteFile(path, edit(content), mode)
	}
	if err == nil {
		err = os.Chmod(path, mode)
	}
	must.OK(t, err)
}

func leakDir(_ context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	dir := keyDir(t, id.String(), passphrase, 0o600)
	c := keystoreCase{uri: "dir:" + dir}
	return leakPlace{keystoreCase: c, failures: []leakFailure{
		{"damaged", "not hexadecimal", c.renamed(c.uri + "?encoding=hex"), nil},
		{"damaged, in base64", "not base64", c.renamed(c.uri + "?encoding=base64"), nil},
		{"gone", "/nonexistent", c.renamed("dir:/nonexistent"), nil},
		{"denied", "access denied", c, func() { spoil(t, filepath.Join(dir, id.String()), 0o644, nil) }},
	}}
}

// inMemoryDir is a directory of the host that is in memory.
const inMemoryDir = "/dev/shm"

func leakVM(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	vm := uuid.NewString()
	dir := shortDir(t, inMemoryDir)
	c := filled(ctx, t, "vm:"+dir+"?uuid="+vm, id, passphrase)
	return leakPlace{keystoreCase: c, failures: []leakFailure{
		{"damaged", "not hexadecimal", c.renamed(c.uri + "&encoding=hex"), nil},
		{"another VM's", "no such secret", c.renamed("vm:" + dir + "?uuid=" + uuid.NewString()), nil},
		{"denied", "access denied", c, func() { spoil(t, filepath.Join(dir, vm, id.String()), 0o644, nil) }},
	}}
}

func leakAge(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	dir, other := t.TempDir(), t.TempDir()
	c := filled(ctx, t, "age:"+dir, id, passphrase)
	filled(ctx, t, "age:"+other, id, []byte("another"))
	identity := must.Get(os.ReadFile(filepath.Join(dir, "identity.txt")))(t)
	key := string(identity[strings.LastIndex(strings.TrimSpace(string(identity)), "\n")+1:])
	lock, wrong := awkward(), awkward()
	locked := t.TempDir()
	protectedIdentity(ctx, t, locked, lock)
	protected := "age:" + locked + "?protect=passphrase&passphrase-file="
	filled(ctx, t, protected+url.QueryEscape(writeFile(t, "lock", lock)), id, passphrase)
	file := filepath.Join(dir, id.String()+".age")
	return leakPlace{
		keystoreCase: c, sealed: []string{dir, other, locked}, also: []string{strings.TrimSpace(key), lock, wrong},
		except: []string{filepath.Join(dir, "identity.txt")},
		failures: []leakFailure{
			{"wrong identity", "age:", c.renamed(c.uri + "?identity=" + other + "/identity.txt"), nil},
			{"no identity", "/nonexistent", c.renamed(c.uri + "?identity=/nonexistent"), nil},
			{"not protected", "not protected", c.renamed(c.uri + "?protect=passphrase&passphrase-file=" + writeFile(t, "lock", lock)), nil},
			{"locked, wrong passphrase", "is wrong", c.renamed(protected + url.QueryEscape(writeFile(t, "wrong", wrong))), nil},
			{"locked, without a terminal", "locked", c.renamed(protected + "/nonexistent"), nil},
			{"gone", "/nonexistent", c.renamed("age:/nonexistent"), nil},
			{"damaged", "damaged", c, func() { spoil(t, file, 0o600, func(b []byte) []byte { b[len(b)-1] ^= 1; return b }) }},
			{"cut off", "damaged", c, func() { spoil(t, file, 0o600, func(b []byte) []byte { return b[:len(b)/2] }) }},
		},
	}
}

func leakCredentials(_ context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	dir := keyDir(t, id.String(), passphrase, 0o600)
	c := keystoreCase{uri: "credentials:", env: []string{"CREDENTIALS_DIRECTORY=" + dir}}
	gone, none := c, c
	gone.env, none.env = []string{"CREDENTIALS_DIRECTORY=/nonexistent"}, []string{"CREDENTIALS_DIRECTORY="}
	return leakPlace{keystoreCase: c, failures: []leakFailure{
		{"damaged", "not hexadecimal", c.renamed("credentials:?encoding=hex"), nil},
		{"gone", "/nonexistent", gone, nil},
		{"no credentials", "CREDENTIALS_DIRECTORY", none, nil},
	}}
}

// spied puts a program first in PATH that records its own arguments and environment, and then runs the real
// one by exec.
func spied(t *testing.T, program string) (env, evidence string) {
	t.Helper()
	real, err := exec.LookPath(program)
	if err != nil {
		t.Skipf("%s is not installed", program)
	}
	evidence = t.TempDir()
	path := script(t, program, fmt.Sprintf("cat /proc/$$/cmdline /proc/$$/environ >>'%s/seen'\nexec '%s' \"$@\"", evidence, real))
	return "PATH=" + filepath.Dir(path) + ":" + os.Getenv("PATH"), evidence
}

func leakSystemdCreds(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	c := inSystemdCreds(ctx, t, id, passphrase)
	path, seen := spied(t, "systemd-creds")
	c.env = append(c.env, path)
	dir := strings.TrimPrefix(c.uri, "credentials:")
	otherHost, otherTool := c, c
	secretOf := filepath.Join(t.TempDir(), "other.secret")
	otherHost.env = append(otherHost.env[:len(otherHost.env):len(otherHost.env)], "SYSTEMD_CREDENTIAL_SECRET="+secretOf)
	otherTool.env = append(otherTool.env[:len(otherTool.env):len(otherTool.env)], "PATH=/nonexistent")
	file := filepath.Join(dir, id.String())
	return leakPlace{keystoreCase: c, sealed: []string{dir, seen}, failures: []leakFailure{
		{"wrong host key", "access denied", otherHost, nil},
		{"no systemd-creds", "systemd-creds", otherTool, nil},
		{"gone", "/nonexistent", c.renamed("credentials:/nonexistent"), nil},
		{"damaged, as text", "not hexadecimal", c.renamed(c.uri + "?encoding=hex"), nil},
		{"changed", "access denied", c, func() {
			// Still base64, which includes upper case.
			spoil(t, file, 0o600, func(b []byte) []byte { return append(bytes.ToUpper(b[:len(b)/2]), b[len(b)/2:]...) })
		}},
		{"damaged", "damaged", c, func() { spoil(t, file, 0o600, func([]byte) []byte { return []byte("!") }) }},
	}}
}

// leakExec has programs that write the passphrase to their standard output only, and then fail.
func leakExec(_ context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	dir := keyDir(t, id.String(), passphrase, 0o600)
	seen := t.TempDir()
	script := func(then string) string {
		return fmt.Sprintf(`exec:/bin/sh -c 'cat /proc/$$/cmdline /proc/$$/environ >>%s/seen; cat "$KEYS/$LUKSPLUG_SECRET_UUID"; %s'`, seen, then)
	}
	c := keystoreCase{uri: script("exit 0"), env: []string{"KEYS=" + dir}}
	return leakPlace{keystoreCase: c, sealed: []string{seen}, failures: []leakFailure{
		{"failed", "ended with status 1", c.renamed(script("exit 1")), nil},
		{"not found", "no such secret", c.renamed(script("exit 2")), nil},
		{"denied", "access denied", c.renamed(script("exit 3")), nil},
		{"locked", "locked", c.renamed(script("exit 4")), nil},
		{"killed", "signal", c.renamed(script("kill -9 $$")), nil},
		{"hanging", "300ms", c.renamed(script("exec sleep 1000") + "?timeout=300ms"), nil},
		{"too much", "too long", c.renamed(script("exec cat /dev/zero")), nil},
		{"damaged", "not base64", c.renamed(script("exit 0") + "?encoding=base64"), nil},
		{"gone", "/nonexistent", c.renamed("exec:/nonexistent/program"), nil},
	}}
}

// hanging returns a listener that accepts and never answers, and an address at which nothing listens.
func hanging(t *testing.T, network, address string) (hangs, refuses string) {
	t.Helper()
	listener := must.Get(net.Listen(network, address))(t)
	t.Cleanup(func() { _ = listener.Close() }) // the test has ended
	if network == "unix" {
		return listener.Addr().String(), address + ".gone"
	}
	other := must.Get(net.Listen(network, address))(t)
	defer func() { _ = other.Close() }() // closing is its purpose
	return listener.Addr().String(), other.Addr().String()
}

func leakLibvirt(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	d := peer.Libvirtd(t)
	keys := newLibvirtKeys(t, d)
	keys.define(t, secrets.Document{UUID: id}, passphrase)
	hangs, refuses := hanging(t, "unix", filepath.Join(shortDir(t, ""), "s"))
	c := keystoreCase{uri: "libvirt+qemu:///system?socket=" + d.Socket}
	return leakPlace{keystoreCase: c, failures: []leakFailure{
		{"damaged", "not hexadecimal", c.renamed(c.uri + "&encoding=hex"), nil},
		{"refused", "cannot be reached", c.renamed("libvirt+qemu:///system?socket=" + refuses), nil},
		{"hanging", "300ms", c.renamed("libvirt+qemu:///system?timeout=300ms&socket=" + hangs), nil},
		{"private", "private", c, func() { keys.define(t, secrets.Document{UUID: id, Private: true}, passphrase) }},
		{"gone", "cannot be reached", c, d.Close},
	}}
}

func leakKeyring(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	c := inKeyring(ctx, t, id, passphrase)
	hangs, refuses := hanging(t, "unix", filepath.Join(shortDir(t, ""), "s"))
	bus := func(address, uri string) keystoreCase {
		return keystoreCase{uri: uri, env: []string{"DBUS_SESSION_BUS_ADDRESS=unix:path=" + address}}
	}
	locked := c
	// A daemon that is given another password than the key ring's leaves it locked.
	const script = `set -e
printf wrong | gnome-keyring-daemon --unlock --components=secrets --foreground --control-directory="$HOME/run2" >/dev/null 2>&1 & keyring=$!
trap 'kill $keyring' EXIT
` + untilKeyring + `"$@"`
	locked.wrap = []string{"dbus-run-session", "--", "/bin/sh", "-c", script, "sh"}
	return leakPlace{keystoreCase: c, sealed: homeOf(c), failures: []leakFailure{
		{"locked", "locked", locked, nil},
		{"refused", "cannot be reached", bus(refuses, "keyring:"), nil},
		{"hanging", "300ms", bus(hangs, "keyring:?timeout=300ms"), nil},
	}}
}

// homeOf returns the directory of a key ring's files.
func homeOf(c keystoreCase) []string {
	for _, v := range c.env {
		if home, found := strings.CutPrefix(v, "HOME="); found {
			return []string{home}
		}
	}
	return nil
}

func leakBarbican(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	token, wrong := awkward(), awkward()
	token, wrong = strings.ReplaceAll(token, " ", "_"), strings.ReplaceAll(wrong, " ", "_")
	token, wrong = strings.ReplaceAll(token, "ä", "a"), strings.ReplaceAll(wrong, "ä", "a") // a header is ASCII
	server := &barbicantest.Server{Token: token, Password: token}
	h := httptest.NewServer(server)
	t.Cleanup(h.Close)
	hangs, refuses := hanging(t, "tcp", "127.0.0.1:0")
	with := "/?token-file=" + url.QueryEscape(writeFile(t, "token", token))
	c := filled(ctx, t, "barbican+"+h.URL+with, id, passphrase)
	says := func(name, says string, status int, header http.Header, body string) leakFailure {
		return leakFailure{name, says, c, func() {
			server.Before(func(w http.ResponseWriter, r *http.Request) bool {
				for name, values := range header {
					w.Header()[name] = values
				}
				w.WriteHeader(status)
				_, _ = io.WriteString(w, body+r.Header.Get("X-Auth-Token")) // the client may have disconnected
				return true
			})
		}}
	}
	text := string(passphrase)
	login := "keystone=" + h.URL + "/v3&application-credential=a&password-file="
	return leakPlace{keystoreCase: c, also: []string{token, wrong}, failures: []leakFailure{
		{"wrong token", "access denied", c.renamed("barbican+" + h.URL + "/?token-file=" + url.QueryEscape(writeFile(t, "wrong", wrong))), nil},
		{"wrong password", "Keystone", c.renamed("barbican+" + h.URL + "/?" + login + url.QueryEscape(writeFile(t, "wrong", wrong))), nil},
		{"no token", "locked", c.renamed("barbican+" + h.URL + "/?token-file=/nonexistent"), nil},
		{"damaged", "not base64", c.renamed(c.uri + "&encoding=base64"), nil},
		{"hanging", "300ms", c.renamed("barbican+http://" + hangs + with + "&timeout=300ms"), nil},
		{"refused", "refused", c.renamed("barbican+http://" + refuses + with), nil},
		says("denied", "access denied", http.StatusForbidden, nil, text),
		says("an error that repeats the request", "500", http.StatusInternalServerError, nil, text),
		says("no JSON", "no Barbican", http.StatusOK, nil, text),
		says("a redirect", "redirects", http.StatusFound, http.Header{"Location": {"/" + token}}, text),
		{"gone", "cannot be reached", c, h.Close},
	}}
}

func leakKMIP(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	kmiptest.Silence()
	a, stranger := kmiptest.NewAuthority(t), kmiptest.NewAuthority(t)
	proxy := kmiptest.NewProxy(t, kmiptest.NewServer(t, a).Address)
	c := filled(ctx, t, kmipURI(t, a, proxy.Address), id, passphrase)
	hangs, refuses := hanging(t, "tcp", "127.0.0.1:0")
	wrong := stranger.Client(t, "stranger")
	return leakPlace{keystoreCase: c, failures: []leakFailure{
		{"wrong certificate", "key store", c.renamed("kmip://" + proxy.Address + "?ca-file=" + a.File + "&cert-file=" + wrong.Certificate + "&key-file=" + wrong.Key), nil},
		{"wrong authority", "not trusted", c.renamed(kmipURI(t, stranger, proxy.Address)), nil},
		{"no key", "/nonexistent", c.renamed("kmip://" + proxy.Address + "?ca-file=" + a.File + "&cert-file=" + wrong.Certificate + "&key-file=/nonexistent"), nil},
		{"damaged", "not base64", c.renamed(c.uri + "&encoding=base64"), nil},
		{"refused", "cannot be reached", c.renamed(kmipURI(t, a, refuses)), nil},
		{"hanging", "300ms", c.renamed(kmipURI(t, a, hangs) + "&timeout=300ms"), nil},
		{"hanging later", "300ms", c.renamed(c.uri + "&timeout=300ms"), proxy.Hang},
		{"gone", "cannot be reached", c, proxy.Break},
	}}
}

func leakPKCS11(ctx context.Context, t *testing.T, id uuid.UUID, passphrase []byte) leakPlace {
	t.Helper()
	dir := t.TempDir()
	c := onToken(ctx, t, dir, id, passphrase)
	token, _, _ := strings.Cut(c.uri, "&pin-source=")
	wrong := "pin " + uuid.NewString()
	return leakPlace{keystoreCase: c, sealed: []string{dir}, also: []string{c.opens, wrong}, failures: []leakFailure{
		{"wrong PIN", "PIN is wrong", c.renamed(token + "&pin-source=file:" + writeFile(t, "wrong", wrong)), nil},
		{"no PIN", "/nonexistent", c.renamed(token + "&pin-source=/nonexistent"), nil},
		{"no such token", "no such token", c.renamed(strings.Replace(c.uri, "token=disks", "token=other", 1)), nil},
		{"no module", "cannot be loaded", c.renamed(strings.Replace(c.uri, "libsofthsm2", "nonexistent", 1)), nil},
		{"damaged", "not base64", c.renamed(c.uri + "&encoding=base64"), nil},
		{"gone", "key store pkcs11:", c, func() { must.OK(t, os.RemoveAll(dir)) }},
	}}
}
