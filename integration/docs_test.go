package integration

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// updateDocs writes the commands' output into the documents. Review the difference before a commit.
var updateDocs = flag.Bool("update-docs", false, "write the commands' real output into README.md and docs")

// exitCode is the command that shows the exit code of the one before it.
const exitCode = "echo $?"

// repository is the top directory, relative to this package's.
const repository = ".."

// notRun are the commands of the documents that this test does not run, and why. An entry that is in no
// document is an error.
var notRun = map[string]string{
	"apt-get update && apt-get install -y make && make demo": "package integration/demo runs the demo, and a fresh machine runs the line itself",
	"apt-get update && apt-get install -y make && make test": "this test is a part of it",
	"make build":                          "TestMain builds the program",
	"install bin/luksplug /usr/local/bin": "the test must not install anything on its machine",
	"luksplug completion bash > /etc/bash_completion.d/luksplug": "the same; cmd/luksplug tests the script",
	"luksplug hook install":                                          "TestHookFromTheBeginning does it, on a host of its own",
	"luksplug hook check":                                            "the same",
	"luksplug --domain vm1 hook check":                               "TestNextStart does it",
	"virsh start vm1":                                                "TestSavedWithoutHook does it",
	"luksplug hook enable vm1 --yes":                                 "the same",
	"luksplug hook enable vm1 --cold-plug --yes":                     "the same",
	"luksplug --domain vm1 attach --persistent vdb.xml":              "the same",
	"luksplug migrate-check vm1 qemu+ssh://vmhost2/system --prepare": "TestMigrate does it, between two hosts",
	"virsh migrate --live --persistent --undefinesource vm1 qemu+ssh://vmhost2/system": "the same",
	"luksplug --domain vm1 repair":                                                                             "the same",
	"luksplug --domain vm1 repair --adopt":                                                                     "it asks at a terminal; TestAdopt does it",
	"scp -p /etc/luksplug/record.key root@vmhost2:/etc/luksplug/record.key":                                    "there is no second host; TestMigrate shares the key",
	"luksplug --domain vm1 adopt --node luks0 --secret 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f --dry-run vdb":     "nothing is attached by hand; TestAdoptDiskInDomain does it",
	"luksplug --domain vm1 adopt --node luks0 --secret 0a81f5b2-8403-4b23-88d6-21ccc2f80d6f vdb > adopted.xml": "the same",
	"luksplug volume create vm1-vdf --path /dev/vg0/vm1-vdf --target vdf > vdf.xml":                            "there is no volume group; TestVolumeCreate has a block device",
	"make help": "it needs make, which go test does not",
	"go test -run TestDocs ./integration -update-docs":                                             "it is this test, and would change the documents",
	"go test ./integration/internal/diskgen -run TestAgainstLibvirt -disk-seed 4711 -disk-count 1": "it is a test of its own",
}

// TestDocs runs every command of README.md and docs in order, on a VM of its own, and compares their output
// with the documents. Each document must leave the VM unchanged.
//
// A block marked console has commands, each after the prompt "# ", and their full output; a line "..." stands
// for any number of lines. A command ends with exit code 0 unless "# echo $?" and the code follow. A
// block marked sh has commands only. A block marked xml with a file name is that file.
func TestDocs(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	r := newReader(ctx, t)
	used := map[string]bool{}
	for _, path := range documents(t) {
		r.read(ctx, t, path, used)
	}
	for command := range notRun {
		if !used[command] {
			t.Errorf("the list of commands that are not run holds %q, which no document has", command)
		}
	}
}

// documents returns the documents for users, whose commands are run.
func documents(t *testing.T) []string {
	t.Helper()
	docs, err := filepath.Glob(filepath.Join(repository, "docs", "*.md"))
	if err != nil || len(docs) == 0 {
		t.Fatalf("no documents: %v", err)
	}
	return append([]string{filepath.Join(repository, "README.md")}, docs...)
}

// reader follows the documents as a user would.
type reader struct {
	dir      string // the working directory
	path     string // for PATH
	config   string // for LUKSPLUG_CONFIG
	vm       *peer.QEMU
	domain   *peer.Domain // nil for a user who may not start libvirt
	names    []string     // in the documents, each followed by its value here
	toReal   *strings.Replacer
	fromReal *strings.Replacer
	code     int // the last command's exit code
}

// call makes a name of the documents stand for a value.
func (r *reader) call(names ...string) {
	r.names = append(r.names, names...)
	r.toReal = strings.NewReplacer(r.names...)
	reversed := slices.Clone(r.names)
	slices.Reverse(reversed)
	r.fromReal = strings.NewReplacer(reversed...)
}

// randomUUID is a UUID in a command's output.
var randomUUID = regexp.MustCompile(`\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b`)

// learn makes the UUIDs in a command's documented output stand for those that the command has made, so that later commands
// of the documents can name them. Lines are compared if both have one UUID.
func (r *reader) learn(want, got []string) {
	for i := range min(len(want), len(got)) {
		documented, real := randomUUID.FindAllString(want[i], -1), randomUUID.FindAllString(got[i], -1)
		if len(documented) == 1 && len(real) == 1 && documented[0] != real[0] && !slices.Contains(r.names, documented[0]) {
			r.call(documented[0], real[0])
		}
	}
}

func newReader(ctx context.Context, t *testing.T) *reader {
	t.Helper()
	base := must.Get(os.MkdirTemp("", "luksplug-docs-"))(t)
	t.Cleanup(func() { _ = os.RemoveAll(base) })
	must.OK(t, os.Chmod(base, 0o755)) // libvirt's QEMU opens images in it
	r := &reader{dir: filepath.Join(base, "work")}
	bin := filepath.Join(base, "bin")
	for _, dir := range []string{r.dir, bin} {
		must.OK(t, os.Mkdir(dir, 0o755))
	}
	must.OK(t, os.Symlink(luksplug, filepath.Join(bin, "luksplug")))
	r.path = bin + ":" + os.Getenv("PATH")
	r.vm = peer.Start(t, peer.Options{RootPorts: 4, Guest: true})
	// Names in the documents, and their values here.
	names := []string{
		"/run/vm1/qmp.sock", r.vm.Socket,
		"/var/lib/luksplug/images", filepath.Join(base, "images"),
		"/var/lib/luksplug/headers", filepath.Join(base, "headers"),
		"/run/luksplug/secrets", filepath.Join(base, "secrets"),
		"/run/luksplug/keys", shortDir(t, inMemoryDir),
		"/var/lib/luksplug/secrets", filepath.Join(base, "state"),
		"/srv/luksplug", filepath.Join(base, "srv"),
	}
	r.config = filepath.Join(base, "config.yaml") // instead of none, for the directories
	config := "state: " + filepath.Join(base, "state") + "\nephemeral: " + filepath.Join(base, "secrets") + "\n"
	must.OK(t, os.WriteFile(r.config, []byte(config), 0o600))
	if os.Geteuid() == 0 {
		l := peer.LibvirtdWith(t, peer.LibvirtOptions{User: qemuUser}) // as Debian's libvirt runs QEMU
		r.domain = must.Get(l.StartDomain(ctx, peer.DomainOptions{Name: "vm1", Guest: true}))(t)
		names = append(names, "--domain vm1", "--connect '"+l.URI+"' --domain vm1")
		virsh := l.VirshCommand(ctx)
		script := "#!/bin/sh\n" + virsh.Env[len(virsh.Env)-1] + " exec '" + strings.Join(virsh.Args, "' '") + "' \"$@\"\n"
		must.OK(t, os.WriteFile(filepath.Join(bin, "virsh"), []byte(script), 0o755))
		must.OK(t, r.domain.Guest().WaitBoot(ctx))
	}
	must.OK(t, r.vm.Guest().WaitBoot(ctx))
	r.call(names...)
	return r
}

// states returns what exists in the VMs.
func (r *reader) states(ctx context.Context, t *testing.T) []peer.State {
	t.Helper()
	states := []peer.State{stateOf(ctx, t, r.vm)}
	if r.domain != nil {
		s := stateOf(ctx, t, r.domain)
		states = append(states, s)
	}
	return states
}

// read runs the commands of one document.
func (r *reader) read(ctx context.Context, t *testing.T, path string, used map[string]bool) {
	t.Helper()
	text := must.Get(os.ReadFile(path))(t)
	before := r.states(ctx, t)
	lines := strings.Split(string(text), "\n")
	var updated []string // the document with real output
	copied := 0          // lines of the old document that are in it, or replaced
	for _, b := range blocks(lines) {
		if b.language == "xml" {
			r.xml(ctx, t, path, b)
			continue
		}
		skipped := false
		for i, c := range b.commands {
			if _, skip := notRun[c.text]; skip {
				used[c.text] = true
				continue
			}
			skipped = r.domain == nil && (needsLibvirt(c.text) || skipped && c.text == exitCode)
			if skipped {
				continue
			}
			failureShown := c.text == exitCode || i+1 < len(b.commands) && b.commands[i+1].text == exitCode
			got := r.command(ctx, t, c.text, failureShown)
			if strings.HasPrefix(c.text, "luksplug volume create ") {
				r.learn(c.output, got)
				got = strings.Split(r.fromReal.Replace(strings.Join(got, "\n")), "\n")
			}
			if b.language != "console" || matches(c.output, got) {
				continue
			}
			t.Errorf("%s:%d: %s\nprints:\n%s\nand the document has:\n%s", path, c.line, c.text, strings.Join(got, "\n"), strings.Join(c.output, "\n"))
			if !slices.Contains(c.output, "...") { // otherwise it must be shortened again by hand
				updated = append(append(updated, lines[copied:c.from]...), got...)
				copied = c.to
			}
		}
	}
	for i, s := range r.states(ctx, t) {
		if diff := before[i].Diff(s); len(diff) > 0 {
			t.Errorf("%s leaves something in VM %d: %q", path, i, diff)
		}
	}
	if *updateDocs && copied > 0 {
		updated = append(updated, lines[copied:]...)
		must.OK(t, os.WriteFile(path, []byte(strings.Join(updated, "\n")), 0o644))
	}
}

func needsLibvirt(command string) bool {
	return strings.Contains(command, "--domain vm1") || strings.HasPrefix(command, "virsh ")
}

// command returns the output of a command. It must succeed, unless the document shows its exit code next.
func (r *reader) command(ctx context.Context, t *testing.T, text string, failureShown bool) []string {
	t.Helper()
	if text == exitCode {
		return []string{fmt.Sprint(r.code)}
	}
	printed, code := r.run(ctx, t, text)
	r.code = code
	if code != 0 && !failureShown {
		t.Errorf("%s: exit code %d\n%s", text, code, strings.Join(printed, "\n"))
	}
	return printed
}

// run returns the output of a command, with the documents' names, and its exit code.
func (r *reader) run(ctx context.Context, t *testing.T, command string) ([]string, int) {
	t.Helper()
	cmd := exec.CommandContext(ctx, "bash", "-o", "pipefail", "-c", r.toReal.Replace(command))
	cmd.Dir = r.dir
	cmd.Env = append(os.Environ(), "PATH="+r.path, "LUKSPLUG_CONFIG="+r.config, "LC_ALL=C.UTF-8")
	var printed bytes.Buffer
	cmd.Stdout, cmd.Stderr = &printed, &printed
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("%s: %v", command, err)
	}
	text := strings.TrimSuffix(r.fromReal.Replace(printed.String()), "\n")
	if text == "" {
		return nil, cmd.ProcessState.ExitCode()
	}
	return strings.Split(text, "\n"), cmd.ProcessState.ExitCode()
}

// xml writes the file of a block, or plans a disk that has no file name.
func (r *reader) xml(ctx context.Context, t *testing.T, path string, b block) {
	t.Helper()
	text := r.toReal.Replace(strings.Join(b.lines, "\n") + "\n")
	name := b.name
	if name == "" {
		if !strings.HasPrefix(text, "<disk") {
			return // a part of a disk
		}
		name = "unnamed.xml"
	}
	must.OK(t, os.WriteFile(filepath.Join(r.dir, name), []byte(text), 0o600))
	if !strings.HasPrefix(text, "<disk") {
		return
	}
	if out, code := r.run(ctx, t, "luksplug plan "+name); code != 0 {
		t.Errorf("%s:%d: the disk has no plan: %s", filepath.Base(path), b.line, out)
	}
}

// matches reports whether got equals the document except for times, widths of columns and versions.
func matches(want, got []string) bool {
	want, got = normalised(want), normalised(got)
	for i, line := range want {
		if line == "..." {
			rest := want[i+1:]
			for skip := i; skip <= len(got); skip++ {
				if matches(rest, got[skip:]) {
					return true
				}
			}
			return false
		}
		if i >= len(got) || got[i] != line {
			return false
		}
	}
	return len(got) == len(want)
}

var volatile = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`\b\d+(\.\d+)?(µs|ms|s)\b`), "TIME"},
	{regexp.MustCompile(`milliseconds": [\d.]+`), `milliseconds": TIME`},
	{regexp.MustCompile(`"uuid": "[^"]*"`), `"uuid": UUID`}, // of a LUKS volume, random
	{regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d`), "DATE"},
	{regexp.MustCompile(`"time": ?"[^"]*"`), `"time": TIME`},
	{regexp.MustCompile(`luksplug \S+ \(go\S+, \S+\)`), "luksplug VERSION"},
	{regexp.MustCompile(` +`), " "},
}

func normalised(lines []string) []string {
	out := make([]string, 0, len(lines))
	for _, l := range lines {
		for _, v := range volatile {
			l = v.pattern.ReplaceAllString(l, v.instead)
		}
		out = append(out, strings.TrimSpace(l))
	}
	return out
}
