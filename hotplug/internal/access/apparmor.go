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

	"github.com/luksplug/luksplug/internal/fsutil"
)

// AppArmor changes the profiles that libvirt makes for its domains. Each is two
// files: libvirt-UUID, made once, includes libvirt-UUID.files, which lists what the
// domain has. Here lines are added to the latter, and only our own are removed.
type AppArmor struct {
	// Dir is where libvirt has the profiles, "" for /etc/apparmor.d/libvirt.
	Dir string
	// Parser is the program that loads a profile, "" for apparmor_parser.
	Parser string
}

// ours ends a line of ours and names its disk.
const ours = " # luksplug "

var profileName = regexp.MustCompile(`^libvirt-[0-9a-f-]{36}$`)

// ErrAppArmor: the domain's profile could not be changed. It is as it was before.
var ErrAppArmor = errors.New("the domain's AppArmor profile could not be changed")

// Allow lets the domain of a profile open the files for the disk at target, and
// nothing else that it was allowed for it before. A profile that libvirt has not
// made is left alone.
func (a AppArmor) Allow(ctx context.Context, profile, target string, files []File) error {
	lines := []string{}
	for _, f := range files {
		// What a pattern means is something else than a path, as virt-aa-helper has it.
		if strings.ContainsAny(f.Path, "\"\\\n*?[]{}^") {
			return fmt.Errorf("%w: it has no way to name %q", ErrAppArmor, f.Path)
		}
		rights := "rk"
		if f.Write {
			rights = "rwk"
		}
		lines = append(lines, fmt.Sprintf("  %q %s,%s%s", f.Path, rights, ours, target))
	}
	_, err := a.change(ctx, profile, func(t string) bool { return t == target }, lines)
	return err
}

// Forbid takes back what Allow did for the targets, and tells whether there was
// anything.
func (a AppArmor) Forbid(ctx context.Context, profile string, targets func(string) bool) (bool, error) {
	return a.change(ctx, profile, targets, nil)
}

func (a AppArmor) change(ctx context.Context, profile string, targets func(string) bool, lines []string) (bool, error) {
	if !profileName.MatchString(profile) {
		return false, nil // the site's own, by <seclabel type='static'>
	}
	dir := a.Dir
	if dir == "" {
		dir = "/etc/apparmor.d/libvirt"
	}
	path := filepath.Join(dir, profile+".files")
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("%w: %w", ErrAppArmor, err)
	}
	kept := slices.DeleteFunc(slices.Collect(strings.Lines(string(old))), func(line string) bool {
		_, target, found := strings.Cut(strings.TrimSuffix(line, "\n"), ours)
		return found && targets(target)
	})
	text := strings.Join(kept, "")
	if len(lines) > 0 && text != "" && !strings.HasSuffix(text, "\n") {
		text += "\n"
	}
	for _, line := range lines {
		text += line + "\n"
	}
	if text == string(old) {
		return false, nil
	}
	err = a.load(ctx, dir, profile, []byte(text))
	if err != nil {
		// What the kernel has is what it had; the file says so again.
		return false, errors.Join(fmt.Errorf("%w: %w", ErrAppArmor, err), replace(path, old))
	}
	return true, nil
}

// load writes the file and has the kernel take the profile.
func (a AppArmor) load(ctx context.Context, dir, profile string, text []byte) error {
	if err := replace(filepath.Join(dir, profile+".files"), text); err != nil {
		return err
	}
	parser := a.Parser
	if parser == "" {
		parser = "apparmor_parser"
	}
	said, err := exec.CommandContext(ctx, parser, "-r", filepath.Join(dir, profile)).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s -r: %w: %s", parser, err, bytes.TrimSpace(said))
	}
	return nil
}

// replace writes a file that is there at once, and keeps its mode and owner.
func replace(path string, text []byte) error {
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	h, err := hold(path)
	if err != nil {
		return err
	}
	defer h.close()
	return fsutil.Replace(nil, path, text, fsutil.Options{
		Mode:      info.Mode().Perm(),
		Owner:     &fsutil.Owner{UID: int(h.stat.Uid), GID: int(h.stat.Gid)},
		Durable:   true,
		Temporary: path + ".luksplug",
	})
}
