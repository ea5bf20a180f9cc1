package access

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// AppArmor changes the profiles that libvirt makes for its domains. A profile is three
// files:
//
//	libvirt-UUID           made from a template as the domain starts, and kept
//	libvirt-UUID.files     the domain's files, included by the profile
//	libvirt-UUID.luksplug  what AppArmor adds, included by the profile as well
//
// libvirt writes the second file anew whenever the domain starts or loses a device, and
// keeps no line of others. It never writes to an existing profile, so a file that the
// profile includes stays in effect for as long as the domain runs. Changes of the same
// profile must not overlap.
type AppArmor struct {
	Dir    string // libvirt's directory of profiles, "" for /etc/apparmor.d/libvirt
	Parser string // the program that loads a profile, "" for apparmor_parser
	// Process identifies the domain's process, "" if it is unknown. Rules that were added
	// for another one are dropped: its end was not reported.
	Process string
}

// Rule is a line of a profile: QEMU may access a file.
type Rule struct {
	Path string
	// Below makes it a line for the files in the directory Path.
	Below bool
	// Access is the access in AppArmor's letters: r, w, and k for locks.
	Access string
}

// RulesFor returns the rules for files that QEMU opens, except for those that only images
// name. The error wraps [ErrSystemFile].
func RulesFor(files []File) ([]Rule, error) {
	var out []Rule
	for _, f := range Named(files) {
		if f.System() {
			return nil, fmt.Errorf("%s: %w", f.Path, ErrSystemFile)
		}
		r := Rule{Path: f.real(), Access: "rk"}
		if f.Write {
			r.Access = "rwk"
		}
		out = append(out, r)
	}
	return out, nil
}

// ours begins the end of each line. What needs the line, usually the target of a disk, follows it.
const ours = " # luksplug "

// maxProfile bounds the size of a file of a profile.
const maxProfile = 16 << 20

// line returns the rule as a line. The kernel compares resolved paths, so that the line has
// the path that Path leads to.
func (r Rule) line(owner string) (string, error) {
	path := r.Path
	if real, err := filepath.EvalSymlinks(path); err == nil {
		path = real
	} else if real, err := filepath.EvalSymlinks(filepath.Dir(path)); err == nil { // it is made later
		path = filepath.Join(real, filepath.Base(path))
	}
	if err := nameable(path); err != nil {
		return "", err
	}
	if r.Below {
		path += "/*"
	}
	return "  \"" + path + "\" " + r.Access + "," + ours + owner + "\n", nil
}

// nameable refuses a path that a profile cannot name: AppArmor would read a pattern, a
// variable or the end of the name in it.
func nameable(path string) error {
	special := func(c rune) bool { return strings.ContainsRune("\"\\*?[]{}^", c) || unicode.IsControl(c) }
	if !filepath.IsAbs(path) || !utf8.ValidString(path) || strings.ContainsFunc(path, special) {
		return fmt.Errorf("%w: a profile cannot name %q: rename it, without quotes, backslashes, control characters, and any of *?[]{}^", ErrAppArmor, path)
	}
	return nil
}

var profileName = regexp.MustCompile(`^libvirt-[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}$`)

// Profile returns the name of the profile that libvirt makes for the domain with that UUID.
func Profile(uuid string) string { return "libvirt-" + uuid }

// ErrAppArmor reports that the domain's profile could not be changed. It is as it was.
var ErrAppArmor = errors.New("the domain's AppArmor profile could not be changed")

// Grant adds rules for owner to a profile: the target of a disk, or another word for what
// needs them. It replaces what was granted for that owner before. A profile that is not
// libvirt's stays as it is. The error wraps [ErrAppArmor].
func (a AppArmor) Grant(ctx context.Context, profile, owner string, rules []Rule) error {
	lines, err := linesOf(owner, rules)
	if err != nil {
		return err
	}
	_, err = a.change(ctx, profile, func(o string) bool { return o == owner }, lines)
	return err
}

// Replace has exactly these rules, by owner, in a profile. The rest is as for
// [AppArmor.Grant].
func (a AppArmor) Replace(ctx context.Context, profile string, rules map[string][]Rule) error {
	var all []string
	for owner, of := range rules {
		lines, err := linesOf(owner, of)
		if err != nil {
			return err
		}
		all = append(all, lines...)
	}
	slices.Sort(all)
	_, err := a.change(ctx, profile, nil, all)
	return err
}

func linesOf(owner string, rules []Rule) ([]string, error) {
	var lines []string
	for _, r := range rules {
		line, err := r.line(owner)
		if err != nil {
			return nil, err
		}
		lines = append(lines, line)
	}
	return lines, nil
}

// Revoke removes the rules of the owners, and reports whether there were any. The error
// wraps [ErrAppArmor].
func (a AppArmor) Revoke(ctx context.Context, profile string, owners func(string) bool) (bool, error) {
	return a.change(ctx, profile, owners, nil)
}

// Forget removes the rules of a domain that has ended, whose profile libvirt removes.
func (a AppArmor) Forget(profile string) error {
	if !profileName.MatchString(profile) {
		return nil
	}
	if err := os.Remove(a.path(profile) + rulesSuffix); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%w: %w", ErrAppArmor, err)
	}
	return nil
}

// path returns the file of a profile.
func (a AppArmor) path(profile string) string {
	if a.Dir == "" {
		return filepath.Join("/etc/apparmor.d/libvirt", profile)
	}
	return filepath.Join(a.Dir, profile)
}

const (
	rulesSuffix = ".luksplug"
	filesSuffix = ".files"
)

// change removes the rules of the owners, nil for everything, and adds lines.
func (a AppArmor) change(ctx context.Context, profile string, owners func(string) bool, lines []string) (bool, error) {
	if !profileName.MatchString(profile) {
		return false, nil // the site's own, by <seclabel type='static'>
	}
	path := a.path(profile)
	old, err := readFiles(path, path+rulesSuffix, path+filesSuffix)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrAppArmor, err)
	}
	included, err := include(old[0].text, path+rulesSuffix)
	if err != nil {
		return false, err
	}
	rules := ""
	if included == old[0].text && owners != nil { // otherwise these are rules of an earlier start
		rules = without(a.present(old[1].text), owners)
	}
	rules = a.marked(rules + strings.Join(lines, ""))
	if rules == "" {
		included = old[0].text // nothing to include
	}
	// The profile last: it never includes a file that does not exist.
	texts := []string{included, rules, without(old[2].text, owners)} // earlier versions have written to the third
	var changed []profileFile
	for i := range old {
		if texts[i] != old[i].text {
			changed = slices.Insert(changed, 0, profileFile{old[i].path, texts[i], old[i].exists})
		}
	}
	if len(changed) == 0 {
		return false, nil
	}
	err = a.load(ctx, path, changed)
	if err != nil {
		// The kernel still has the old profile. Restore the files.
		return false, errors.Join(fmt.Errorf("%w: %w", ErrAppArmor, err), writeFiles(old))
	}
	return true, nil
}

// processMark begins the first line of rules that were added for a process.
const processMark = "# process "

// present returns the rules without those of another process.
func (a AppArmor) present(rules string) string {
	first, _, _ := strings.Cut(rules, "\n")
	if of, marked := strings.CutPrefix(first, processMark); marked && a.Process != "" && of != a.Process {
		return ""
	}
	return rules
}

// marked returns rules with the mark of the process. Rules without one were added by
// libvirt's hook for a process that did not exist yet.
func (a AppArmor) marked(rules string) string {
	first, rest, _ := strings.Cut(rules, "\n")
	switch marked := strings.HasPrefix(first, processMark); {
	case marked && rest == "":
		return ""
	case !marked && rules != "" && a.Process != "":
		return processMark + a.Process + "\n" + rules
	}
	return rules
}

// without returns the lines that are not those of the owners, nil for all.
func without(text string, owners func(string) bool) string {
	kept := slices.DeleteFunc(slices.Collect(strings.Lines(text)), func(line string) bool {
		i := strings.LastIndex(line, ours)
		return i >= 0 && (owners == nil || owners(strings.TrimSuffix(line[i+len(ours):], "\n")))
	})
	return strings.Join(kept, "")
}

// include returns a profile's text with a line that includes a file.
func include(profile, path string) (string, error) {
	line := "\n  include if exists \"" + path + "\" # by luksplug\n"
	if strings.Contains(profile, line) {
		return profile, nil
	}
	end := strings.LastIndex(profile, "\n}")
	if end < 0 {
		return "", fmt.Errorf("%w: the profile does not end with a brace", ErrAppArmor)
	}
	return strings.TrimSuffix(profile[:end], "\n") + line + profile[end+1:], nil
}

// load writes the files and loads the profile into the kernel.
func (a AppArmor) load(ctx context.Context, profile string, files []profileFile) error {
	if err := writeFiles(files); err != nil {
		return err
	}
	parser := a.Parser
	if parser == "" {
		parser = "apparmor_parser"
	}
	said, err := exec.CommandContext(ctx, parser, "-r", profile).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s -r: %w: %s", parser, err, bytes.TrimSpace(said))
	}
	return nil
}

// profileFile is a file of a profile.
type profileFile struct {
	path, text string
	exists     bool
}

// readFiles reads files. Only the first has to exist.
func readFiles(paths ...string) ([]profileFile, error) {
	var out []profileFile
	for i, path := range paths {
		text, err := fsutil.ReadFile(nil, path, maxProfile)
		if err != nil && (i == 0 || !errors.Is(err, fs.ErrNotExist)) {
			return nil, err
		}
		out = append(out, profileFile{path, string(text), err == nil})
	}
	return out, nil
}

// writeFiles gives files their text. A file that did not exist, and has none, is removed.
func writeFiles(files []profileFile) error {
	var failed []error
	for _, f := range files {
		failed = append(failed, f.write())
	}
	return errors.Join(failed...)
}

// write replaces the content of the file, and keeps the mode and owner of an existing one.
func (f profileFile) write() error {
	if !f.exists && f.text == "" {
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	o := fsutil.Options{Mode: 0o644, Durable: true, Temporary: f.path + ".new"}
	if f.exists {
		var st unix.Stat_t
		if err := unix.Lstat(f.path, &st); err != nil {
			return &fs.PathError{Op: "stat", Path: f.path, Err: err}
		}
		o.Mode, o.Owner = fs.FileMode(st.Mode).Perm(), &fsutil.Owner{UID: int(st.Uid), GID: int(st.Gid)}
	}
	return fsutil.Replace(nil, f.path, []byte(f.text), o)
}
