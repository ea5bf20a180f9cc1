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
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/fsutil"
)

// AppArmor changes the profiles that libvirt makes for its domains. A profile is two files:
// libvirt-UUID includes libvirt-UUID.files, which lists the domain's files. AppArmor adds
// lines to the latter, and removes only its own. Changes of the same profile must not
// overlap.
type AppArmor struct {
	Dir    string // libvirt's directory of profiles, "" for /etc/apparmor.d/libvirt
	Parser string // the program that loads a profile, "" for apparmor_parser
}

// ours begins the end of each added line. The disk's target follows it.
const ours = " # luksplug "

var profileName = regexp.MustCompile(`^libvirt-[0-9a-f-]{36}$`)

// ErrAppArmor reports that the domain's profile could not be changed. It is as it was.
var ErrAppArmor = errors.New("the domain's AppArmor profile could not be changed")

// Grant lets the domain of a profile open the files for the disk at target. It replaces
// what was granted for that disk before. A profile that is not libvirt's stays as it is.
// The error wraps [ErrAppArmor].
func (a AppArmor) Grant(ctx context.Context, profile, target string, files []File) error {
	lines := []string{}
	for _, f := range files {
		// AppArmor would read these as a pattern. virt-aa-helper refuses them too.
		// Nor can it read what %q escapes.
		if strings.ContainsAny(f.Path, "\"\\\n*?[]{}^") || strconv.Quote(f.Path) != `"`+f.Path+`"` {
			return fmt.Errorf("%w: a profile cannot name %q", ErrAppArmor, f.Path)
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

// Revoke undoes Grant for the targets, and reports whether anything was granted. The error
// wraps [ErrAppArmor].
func (a AppArmor) Revoke(ctx context.Context, profile string, targets func(string) bool) (bool, error) {
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
		// The kernel still has the old profile. Restore the file.
		return false, errors.Join(fmt.Errorf("%w: %w", ErrAppArmor, err), replace(path, old))
	}
	return true, nil
}

// load writes the file and loads the profile into the kernel.
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

// replace replaces the content of a file, and keeps its mode and owner.
func replace(path string, text []byte) error {
	h, err := open(path)
	if err != nil {
		return err
	}
	defer h.close()
	return fsutil.Replace(nil, path, text, fsutil.Options{
		Mode:      fs.FileMode(h.stat.Mode).Perm(),
		Owner:     &fsutil.Owner{UID: int(h.stat.Uid), GID: int(h.stat.Gid)},
		Durable:   true,
		Temporary: path + ".luksplug",
	})
}
