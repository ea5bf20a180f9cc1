package integration

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// forms returns the encodings in which a secret could have been written.
func forms(secret string) map[string]string {
	quoted, _ := json.Marshal(secret) // a string always encodes
	var plainJSON bytes.Buffer
	e := json.NewEncoder(&plainJSON)
	e.SetEscapeHTML(false)
	_ = e.Encode(secret) // into memory
	inner := func(s string) string { return strings.Trim(strings.TrimSpace(s), `"`) }
	out := map[string]string{
		"plain":                 secret,
		"JSON":                  inner(string(quoted)),
		"JSON without HTML":     inner(plainJSON.String()),
		"Go's %q":               inner(strconv.Quote(secret)),
		"Go's %+q":              inner(strconv.QuoteToASCII(secret)),
		"Go's %v of bytes":      strings.Trim(fmt.Sprintf("%d", []byte(secret)), "[]"),
		"percent-escaped query": url.QueryEscape(secret),
		"percent-escaped path":  url.PathEscape(secret),
		"hex":                   hex.EncodeToString([]byte(secret)),
		"HEX":                   strings.ToUpper(hex.EncodeToString([]byte(secret))),
		"hex with spaces":       fmt.Sprintf("% x", secret),
	}
	// Base64 depends on the number of preceding bytes. Characters with bits of adjacent text are left out.
	for name, encoding := range map[string]*base64.Encoding{"base64": base64.RawStdEncoding, "base64 for URLs": base64.RawURLEncoding} {
		for before := range 3 {
			text := encoding.EncodeToString(append(make([]byte, before), secret...))
			if (before+len(secret))%3 != 0 {
				text = text[:len(text)-1]
			}
			out[fmt.Sprintf("%s after %d bytes", name, before)] = text[(before*8+5)/6:]
		}
	}
	return out
}

// evidence is all output and files, by origin.
type evidence map[string][]byte

// dir adds all files in and under dir, but for those in except.
func (e evidence) dir(t *testing.T, dir string, except ...string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && path == dir {
			return nil
		}
		if err != nil || !entry.Type().IsRegular() || slices.Contains(except, path) {
			return err
		}
		content, err := os.ReadFile(path)
		e["file "+path] = content
		return err
	})
	must.OK(t, err)
}

// output adds the output of a run of the program.
func (e evidence) output(name string, r result) {
	e["standard output of "+name], e["standard error of "+name] = []byte(r.stdout), []byte(r.stderr)
}

// process adds the data of a process that every user can read.
func (e evidence) process(t *testing.T, name string, pid int) {
	t.Helper()
	for _, file := range []string{"cmdline", "environ"} {
		content, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
		if err != nil || len(content) == 0 {
			t.Errorf("%s of %s: %d bytes, error %v", file, name, len(content), err)
		}
		e[file+" of "+name] = content
	}
}

// hides checks that a secret is nowhere in the evidence.
func (e evidence) hides(t *testing.T, secret string) {
	t.Helper()
	for form, text := range forms(secret) {
		for where, content := range e {
			if bytes.Contains(content, []byte(text)) {
				t.Errorf("a secret (%s) is in %s", form, where)
			}
		}
	}
}

// awkward returns a passphrase that every escaping changes, and that does not occur by chance.
func awkward() string {
	var b [12]byte
	_, _ = rand.Read(b[:]) // never fails: it ends the program instead
	return `k\ä"s<e&> %` + hex.EncodeToString(b[:])
}

// TestSecretsAppearNowhere: no output or file of a run has the passphrase, at the highest verbosity. If QEMU
// unlocks the volume, the passphrase is in the one command that passes it to QEMU.
func TestSecretsAppearNowhere(t *testing.T) {
	t.Parallel()
	for _, unlock := range []string{"auto", "qemu"} {
		t.Run(unlock, func(t *testing.T) {
			t.Parallel()
			secretsAppearNowhere(bounded(t), t, unlock)
		})
	}
}

func secretsAppearNowhere(ctx context.Context, t *testing.T, unlock string) {
	q := booted(ctx, t, peer.Options{RootPorts: 2})
	before := stateOf(ctx, t, q)
	v := peer.NewVolume(t, peer.DetachedRaw)
	right, wrong := awkward(), awkward()
	keyFile, wrongFile := addKey(ctx, t, v, right), writeFile(t, "wrong", wrong)
	xml := v.DiskXML("vdb", "virtio")
	disk := writeFile(t, "disk.xml", xml)
	byUsage := writeFile(t, "usage.xml", edited(t, xml, "uuid='"+v.SecretUUID+"'", "usage='/data/vdb'"))

	proxy, held := gated(ctx, t, q.Socket, func(peer.Command) {})
	found := evidence{}
	l := &leakRun{proxy: proxy, found: found, temp: t.TempDir()}
	l.sources = []leakSource{
		{name: "file", args: []string{"--passphrase-file", keyFile}, disk: disk},
		{name: "dir by usage", args: []string{"--keystore", "dir:" + keyDir(t, "volume-%2Fdata%2Fvdb", []byte(right), 0o600)}, disk: byUsage},
	}
	if unlock == "auto" { // the other sources of a passphrase
		l.sources = append(l.sources,
			leakSource{name: "stdin", args: []string{"--passphrase-file", "-"}, disk: disk, stdin: right},
			leakSource{name: "fd", args: []string{"--passphrase-file", "fd:3"}, disk: disk, fd3: keyFile},
			leakSource{name: "dir by uuid", args: []string{"--keystore", "dir:" + keyDir(t, v.SecretUUID, []byte(right), 0o600)}, disk: disk})
	}

	// The first run is inspected while it works.
	first := startCommand(t, l.command(ctx, t, l.sources[0], "attach", "--unlock", unlock, disk))
	held.wait(t, first)
	found.process(t, "luksplug", first.cmd.Process.Pid)
	found.process(t, "QEMU", q.PID)
	held.open()
	found.output("first attach", first.end(ctx, t).want(t, 0))
	l.run(ctx, t, l.sources[0], 0, "detach", "vdb")
	for _, s := range l.sources {
		l.run(ctx, t, s, 0, "attach", "--unlock", unlock, s.disk)
		l.run(ctx, t, s, 0, "attach", "--unlock", unlock, s.disk) // is already attached
		for _, dir := range peer.RunDirs(q.UUID) {
			found.dir(t, dir)
		}
		l.run(ctx, t, s, 0, "list")
		l.run(ctx, t, s, 0, "list", "--all", "--output", "json")
		l.run(ctx, t, s, 0, "plan", "--unlock", unlock, s.disk)
		l.run(ctx, t, s, 0, "plan", "--output", "json", s.disk)
		l.run(ctx, t, s, 0, "repair")
		l.run(ctx, t, s, 0, "detach", "vdb")
	}
	l.run(ctx, t, l.sources[0], 0, "cmdline", disk)
	l.run(ctx, t, l.sources[0], 0, "cmdline", "--output", "json", disk)
	l.run(ctx, t, l.sources[0], 0, "cmdline", "--master-key", writeFile(t, "master.key", strings.Repeat("m", 32)), disk)
	l.run(ctx, t, leakSource{name: "wrong", args: []string{"--passphrase-file", wrongFile}}, 4, "attach", "--unlock", unlock, disk)
	wantSame(ctx, t, q, before)

	found.dir(t, l.temp)
	found.dir(t, q.Dir)
	found.dir(t, filepath.Dir(v.Header), v.PassphraseFile)
	found.process(t, "QEMU afterwards", q.PID)
	found.hides(t, right)
	found.hides(t, wrong)
	found.hides(t, string(v.Passphrase))
	key := must.Get(v.VolumeKey(ctx))(t)
	found.hides(t, string(key))
	wantOnWire(t, proxy, string(key), 0)
	attaches := len(l.sources) + 1 // that send a secret to QEMU
	if unlock == "qemu" {
		attaches++ // with the wrong passphrase
	}
	if n := shownRedacted(found); n != attaches {
		t.Errorf("%d logs show the command with the secret, redacted; want %d: the log is not at its highest verbosity", n, attaches)
	}
	if unlock == "auto" {
		wantOnWire(t, proxy, right, 0)
		wantOnWire(t, proxy, wrong, 0)
		return
	}
	wantOnWire(t, proxy, right, len(l.sources)+1)
	wantOnWire(t, proxy, wrong, 1)
}

// shownRedacted counts the logs that show the command with the secret.
func shownRedacted(found evidence) int {
	shown := 0
	for where, content := range found {
		if strings.HasPrefix(where, "standard error of") && bytes.Contains(content, []byte("object-add")) && bytes.Contains(content, []byte("[redacted]")) {
			shown++
		}
	}
	return shown
}

// leakSource is a source from which the program reads a passphrase.
type leakSource struct {
	name  string
	args  []string
	disk  string
	stdin string
	fd3   string // path of the file passed as descriptor 3
}

// leakRun runs the program at its highest verbosity and keeps its output.
type leakRun struct {
	proxy   *peer.Proxy
	found   evidence
	temp    string // directory of traces and temporary files
	sources []leakSource
	n       int
}

// command returns the program, ready to run.
func (l *leakRun) command(ctx context.Context, t *testing.T, s leakSource, args ...string) *exec.Cmd {
	t.Helper()
	l.n++
	format := []string{"text", "json"}[l.n%2]
	all := []string{"-vv", "--log-format", format, "--trace", filepath.Join(l.temp, fmt.Sprintf("trace%d", l.n))}
	if !slices.Contains([]string{"plan", "cmdline"}, args[0]) || slices.Contains(args, "json") { // also without a VM
		all = append(named(l.proxy.Address), all...)
	}
	cmd := exec.CommandContext(ctx, luksplug, slices.Concat(all, s.args, args)...)
	cmd.Env = append(os.Environ(), "TMPDIR="+l.temp)
	if s.stdin != "" {
		cmd.Stdin = strings.NewReader(s.stdin)
	}
	if s.fd3 != "" {
		f := must.Get(os.Open(s.fd3))(t)
		t.Cleanup(func() { _ = f.Close() }) // only read
		cmd.ExtraFiles = []*os.File{f}
	}
	return cmd
}

// run runs the program and keeps its output.
func (l *leakRun) run(ctx context.Context, t *testing.T, s leakSource, code int, args ...string) {
	t.Helper()
	cmd := l.command(ctx, t, s, args...)
	l.found.output(fmt.Sprintf("run %d, %s %v", l.n, s.name, args), run(ctx, t, cmd).want(t, code))
}

// wantOnWire checks that a secret went to QEMU n times, in base64 in an object-add, and that nothing else on
// the wire has it in any form. Finding it also validates the search.
func wantOnWire(t *testing.T, proxy *peer.Proxy, secret string, n int) {
	t.Helper()
	whole := base64.StdEncoding.EncodeToString([]byte(secret))
	times := 0
	for _, r := range proxy.Records() {
		var head struct {
			Execute   string
			Arguments struct {
				Type   string `json:"qom-type"`
				Format string
				Data   string
			}
		}
		_ = json.Unmarshal(r.Bytes, &head) // anything else is searched as it is
		rest := r.Bytes
		if !r.FromQEMU && head.Execute == "object-add" && head.Arguments.Type == "secret" && head.Arguments.Format == "base64" && head.Arguments.Data == whole {
			times++
			rest = bytes.Replace(rest, []byte(whole), nil, 1)
		}
		evidence{fmt.Sprintf("a message (from QEMU: %v) %.40s", r.FromQEMU, r.Bytes): rest}.hides(t, secret)
	}
	if times != n {
		t.Errorf("the secret went to QEMU %d times, want %d", times, n)
	}
}

// TestForms shows that the search finds a secret inside other text.
func TestForms(t *testing.T) {
	t.Parallel()
	const secret = `a"<ö>b c`
	for before := range 3 {
		text := base64.StdEncoding.EncodeToString([]byte("xyz"[:before] + secret + "tail"))
		if !slices.ContainsFunc([]string{"0", "1", "2"}, func(n string) bool {
			return strings.Contains(text, forms(secret)["base64 after "+n+" bytes"])
		}) {
			t.Errorf("not found in %q", text)
		}
	}
	message, err := json.Marshal(map[string]string{"data": "say " + secret + "!"})
	if err != nil || !bytes.Contains(message, []byte(forms(secret)["JSON"])) {
		t.Errorf("not found in %s, error %v", message, err)
	}
}
