package access

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
)

var profile = Profile("3e3fce45-4f53-4fa7-bb32-11f34168b82b")

// profiles is a directory of profiles with one of a domain, as libvirt makes it, and a
// parser that is a script and logs its arguments.
type profiles struct {
	AppArmor
	t *testing.T
}

const (
	profileText = "#include <tunables/global>\n\nprofile it flags=(attach_disconnected) {\n  #include <it.files>\n\n}\n"
	filesText   = "# MANAGED BY libvirt\n  \"/srv/root.img\" rwk,\n"
)

func newProfiles(t *testing.T) profiles {
	t.Helper()
	dir := t.TempDir()
	p := profiles{AppArmor{Dir: dir, Parser: filepath.Join(dir, "parser")}, t}
	must.OK(t, os.WriteFile(p.path(profile), []byte(profileText), 0o640), os.WriteFile(p.path(profile)+".files", []byte(filesText), 0o640))
	p.parser("exit 0")
	return p
}

// parser has the parser end in this way.
func (p profiles) parser(end string) {
	p.t.Helper()
	must.OK(p.t, os.WriteFile(p.Parser, []byte("#!/bin/sh\necho \"$@\" >> "+p.Parser+".log\n"+end+"\n"), 0o700))
}

// calls counts the calls of the parser for the profile.
func (p profiles) calls() int {
	text, _ := os.ReadFile(p.Parser + ".log") // not there before the first
	return strings.Count(string(text), "-r "+p.path(profile)+"\n")
}

// want checks luksplug's lines, and that libvirt's files are as they were but for the line
// that includes them.
func (p profiles) want(lines string) {
	p.t.Helper()
	got := map[string]string{}
	for _, suffix := range []string{"", filesSuffix, rulesSuffix} {
		text, err := os.ReadFile(p.path(profile) + suffix)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			p.t.Error(err)
		}
		got[suffix] = string(text)
	}
	if got[rulesSuffix] != lines || got[filesSuffix] != filesText {
		p.t.Errorf("got %q, want %q", got, lines)
	}
	line := "  include if exists \"" + p.path(profile) + ".luksplug\" # by luksplug\n"
	if strings.Replace(got[""], line, "", 1) != strings.Replace(profileText, "\n\n}", "\n}", 1) && got[""] != profileText {
		p.t.Errorf("the profile is %q", got[""])
	}
	if lines != "" && strings.Count(got[""], line) != 1 {
		p.t.Errorf("the profile includes the lines not once: %q", got[""])
	}
	if left, _ := filepath.Glob(p.path("*.new")); len(left) > 0 {
		p.t.Errorf("left: %v", left)
	}
}

var (
	rulesOfVDB = []Rule{{Path: "/srv/top image.qcow2", Access: "rwk"}, {Path: "/srv/base.qcow2", Access: "rk"}, {Path: "/run/vdb", Below: true, Access: "rwk"}}
	rulesOfVDC = []Rule{{Path: "/srv/base.qcow2", Access: "rk"}}
)

const (
	linesOfVDB = "  \"/srv/top image.qcow2\" rwk, # luksplug vdb\n  \"/srv/base.qcow2\" rk, # luksplug vdb\n  \"/run/vdb/*\" rwk, # luksplug vdb\n"
	linesOfVDC = "  \"/srv/base.qcow2\" rk, # luksplug vdc\n"
)

// TestAppArmor: the domain's own profile gets our lines, and loses them again.
func TestAppArmor(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newProfiles(t)
	for range 2 {
		must.OK(t, p.Grant(ctx, profile, "vdb", rulesOfVDB))
		p.want(linesOfVDB)
	}
	if n := p.calls(); n != 1 {
		t.Errorf("the parser was called %d times: once was enough", n)
	}
	must.OK(t, p.Grant(ctx, profile, "vdc", rulesOfVDC))
	p.want(linesOfVDB + linesOfVDC)
	if info, err := os.Stat(p.path(profile)); err != nil || info.Mode() != 0o640 {
		t.Errorf("mode %v, error %v", info.Mode(), err)
	}
	changed, err := p.Revoke(ctx, profile, func(target string) bool { return target == "vdb" })
	if err != nil || !changed {
		t.Errorf("got %v, %v", changed, err)
	}
	p.want(linesOfVDC)
	must.OK(t, p.Replace(ctx, profile, map[string][]Rule{"vdb": rulesOfVDB[:1], "monitor": {{Path: "/run/qmp", Access: "rw"}}}))
	p.want("  \"/run/qmp\" rw, # luksplug monitor\n" + strings.SplitAfter(linesOfVDB, "\n")[0])
	if _, err := p.Revoke(ctx, profile, func(string) bool { return true }); err != nil {
		t.Error(err)
	}
	p.want("")
	must.OK(t, p.Forget(profile), p.Forget(profile))
	if _, err := os.Stat(p.path(profile) + ".luksplug"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the lines of a domain that has ended: %v", err)
	}
}

// TestAppArmorFails: a profile that the kernel rejects leaves the files as they were.
func TestAppArmorFails(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newProfiles(t)
	p.parser("echo syntax error; exit 1")
	for range 2 {
		if err := p.Grant(ctx, profile, "vdd", rulesOfVDB); !errors.Is(err, ErrAppArmor) || !strings.Contains(err.Error(), "syntax error") {
			t.Errorf("got %v", err)
		}
		p.want("")
	}
	if text, _ := os.ReadFile(p.path(profile)); string(text) != profileText {
		t.Errorf("the profile is %q", text)
	}
	p.parser("exit 0")
	must.OK(t, p.Grant(ctx, profile, "vdc", rulesOfVDC))
	p.parser("exit 1")
	if err := p.Grant(ctx, profile, "vdd", rulesOfVDB); !errors.Is(err, ErrAppArmor) {
		t.Errorf("got %v", err)
	}
	p.want(linesOfVDC)
}

// TestAppArmorForgetsEarlierStarts: lines of a start whose end was missed do not return
// with the profile that libvirt makes for the next one.
func TestAppArmorForgetsEarlierStarts(t *testing.T) {
	t.Parallel()
	p := newProfiles(t)
	must.OK(t, os.WriteFile(p.path(profile)+".luksplug", []byte(linesOfVDB), 0o644))
	must.OK(t, p.Grant(context.Background(), profile, "vdc", rulesOfVDC))
	p.want(linesOfVDC)
}

// TestAppArmorOfAnotherProcess: lines for a process whose end was not reported are
// dropped, and those of the hook, which were there before the process, are kept.
func TestAppArmorOfAnotherProcess(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newProfiles(t)
	grant := func(process, owner string, rules []Rule, want string) {
		t.Helper()
		p.Process = process
		must.OK(t, p.Grant(ctx, profile, owner, rules))
		p.want(want)
	}
	grant("1", "vdb", rulesOfVDB, "# process 1\n"+linesOfVDB)
	grant("1", "vdc", rulesOfVDC, "# process 1\n"+linesOfVDB+linesOfVDC)
	grant("2", "vdc", rulesOfVDC, "# process 2\n"+linesOfVDC)
	p.Process = ""
	must.OK(t, p.Replace(ctx, profile, map[string][]Rule{"vdb": rulesOfVDC}))
	hooks := strings.ReplaceAll(linesOfVDC, "vdc", "vdb")
	p.want(hooks)
	grant("3", "vdc", rulesOfVDC, "# process 3\n"+hooks+linesOfVDC)
	for _, target := range []string{"vdb", "vdc"} {
		if changed, err := p.Revoke(ctx, profile, func(t string) bool { return t == target }); err != nil || !changed {
			t.Errorf("%s: %v, %v", target, changed, err)
		}
	}
	p.want("")
}

// TestAppArmorOfAnEarlierVersion: lines in libvirt's own list are removed with the disk.
func TestAppArmorOfAnEarlierVersion(t *testing.T) {
	t.Parallel()
	p := newProfiles(t)
	must.OK(t, os.WriteFile(p.path(profile)+".files", []byte(filesText+linesOfVDB), 0o640))
	changed, err := p.Revoke(context.Background(), profile, func(target string) bool { return target == "vdb" })
	if err != nil || !changed {
		t.Errorf("got %v, %v", changed, err)
	}
	p.want("")
}

// TestAppArmorOfOthers: only profiles that libvirt has made for a domain are changed.
func TestAppArmorOfOthers(t *testing.T) {
	t.Parallel()
	p := newProfiles(t)
	must.OK(t, os.WriteFile(filepath.Join(p.Dir, "site"), []byte(profileText), 0o640))
	for _, other := range []string{"", "site", "unconfined", "../../etc/passwd", "libvirt-../../../../../../../../../../etc/passwd", "libvirt-00000000-0000-0000-0000-000000000000"} {
		must.OK(t, p.Grant(context.Background(), other, "vdb", rulesOfVDB), p.Forget(other))
	}
	p.want("")
	if text := must.Get(os.ReadFile(filepath.Join(p.Dir, "site")))(t); string(text) != profileText {
		t.Errorf("the site's profile is %q", text)
	}
	if _, err := os.Stat(p.Parser + ".log"); !errors.Is(err, fs.ErrNotExist) {
		t.Error("the parser was called")
	}
}

// unnameable are paths that a profile cannot name.
var unnameable = []string{
	`/srv/"`, `/srv/a", /etc/shadow r, "/b`, `/srv/\`, `/srv/\x41`, "/srv/a\nb", "/srv/a\tb", "/srv/a\x00b", "/srv/a\x7fb", "/srv/a\u0085b",
	"/srv/*", "/srv/?", "/srv/[a]", "/srv/]", "/srv/{a,b}", "/srv/}", "/srv/@{HOME}", "/srv/^a", "/srv/\xff\xfe", "srv/a", "", " /srv/a",
}

// TestAppArmorPaths: a path that AppArmor would read as something else is refused before
// anything is written, and others are lines of their own.
func TestAppArmorPaths(t *testing.T) {
	t.Parallel()
	ctx := context.Background()
	p := newProfiles(t)
	for _, path := range unnameable {
		if err := p.Grant(ctx, profile, "vdd", []Rule{{Path: path, Access: "rk"}}); !errors.Is(err, ErrAppArmor) {
			t.Errorf("%q: got %v", path, err)
		}
	}
	p.want("")
	// A link's target is what the kernel compares.
	real := filepath.Join(p.Dir, "image")
	must.OK(t, os.WriteFile(real, nil, 0o600), os.Symlink("image", real+".link"), os.Symlink("a*b", real+".bad"), os.WriteFile(filepath.Join(p.Dir, "a*b"), nil, 0o600))
	must.OK(t, p.Grant(ctx, profile, "vdd", []Rule{{Path: real + ".link", Access: "rk"}, {Path: "/srv/a # luksplug vdb", Access: "rk"}}))
	p.want("  \"" + real + "\" rk, # luksplug vdd\n  \"/srv/a # luksplug vdb\" rk, # luksplug vdd\n")
	if err := p.Grant(ctx, profile, "vdd", []Rule{{Path: real + ".bad", Access: "rk"}}); !errors.Is(err, ErrAppArmor) {
		t.Errorf("got %v", err)
	}
	if _, err := p.Revoke(ctx, profile, func(target string) bool { return target == "vdb" }); err != nil {
		t.Error(err)
	}
	if text := must.Get(os.ReadFile(p.path(profile) + ".luksplug"))(t); !strings.Contains(string(text), "/srv/a # luksplug vdb") {
		t.Errorf("the path's own text was taken for the mark: %s", text)
	}
}

// FuzzAppArmorLine: AppArmor's parser reads each line as one rule, for exactly that path.
func FuzzAppArmorLine(f *testing.F) {
	for _, path := range append(unnameable, "/srv/a b", "/srv/é", "/srv/a # b", "/srv/a,b", "/srv/@x", "/srv/a' ", "/srv/!$&()-~|;<>=+%`") {
		f.Add(path)
	}
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		f.Skip("apparmor_parser is not installed (make setup installs it)")
	}
	f.Fuzz(func(t *testing.T, path string) {
		line, err := Rule{Path: path, Access: "rk"}.line("vdb")
		if err != nil || filepath.Clean(path) != path {
			return // refused, or AppArmor cleans it
		}
		name := line[len("  \""):strings.LastIndex(line, "\" rk,")]
		text := "profile it {\n" + line + "}\n"
		cmd := exec.Command(parser, "--skip-kernel-load", "--skip-cache", "--debug", "--replace")
		cmd.Stdin = strings.NewReader(text)
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Fatalf("%q: %v: %s", line, err, said)
		}
		if n := strings.Count(string(said), "Name:"); n != 2 || !strings.Contains(string(said), "Name:\t("+name+")") {
			t.Errorf("%q is read as %s", line, said)
		}
	})
}
