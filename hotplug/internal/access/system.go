package access

import (
	"errors"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// ErrSystemFile reports a file of the host itself, which is given to no QEMU: a user who can
// write a disk's XML would get the host.
var ErrSystemFile = errors.New("it is in a system directory, whose files are given to no QEMU: use a copy of it elsewhere")

// systemDirs are directories with the host's own files, by their path or a pattern of
// path.Match. libvirt's virt-aa-helper refuses most of them as well.
var systemDirs = []string{
	"/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/usr", "/etc", "/boot", "/efi", "/dev", "/proc", "/sys", "/selinux", "/lost+found",
	"/nix/store", "/snap",
	"/var/log", "/var/spool", "/var/mail", "/var/backups",
	"/var/lib/dpkg", "/var/lib/rpm", "/var/lib/apt", "/var/lib/systemd", "/var/lib/sss", "/var/lib/polkit-1", "/var/lib/selinux",
	"/var/lib/luksplug/owners", "/var/lib/luksplug/secrets", "/var/lib/luksplug/keys", "/var/lib/luksplug/reencrypt", "/var/lib/libvirt/qemu",
	"/run/luksplug", "/run/credentials", "/run/systemd", "/run/udev", "/run/libvirt", "/run/lock", "/run/dbus", "/run/sudo",
	"/root/.ssh", "/root/.gnupg", "/home/*/.ssh", "/home/*/.gnupg",
}

// systemFiles are files with the host's own content in directories that may have images.
var systemFiles = []string{"/vmlinuz*", "/initrd*"}

// userDirs are exceptions: the memory file system that users have in /dev.
var userDirs = []string{"/dev/shm"}

// isSystem reports whether a path without links is that of a system file, or is below a
// system directory. In /dev, block devices are none.
func isSystem(file string, block bool) bool {
	if block && strings.HasPrefix(file, "/dev/") {
		return false
	}
	if slices.ContainsFunc(systemFiles, func(pattern string) bool { return matches(pattern, file) }) {
		return true
	}
	for dir := path.Clean(file); dir != "/" && dir != "."; dir = path.Dir(dir) {
		is := func(pattern string) bool { return matches(pattern, dir) }
		switch {
		case slices.ContainsFunc(userDirs, is):
			return false
		case slices.ContainsFunc(systemDirs, is):
			return true
		}
	}
	return false
}

func matches(pattern, name string) bool {
	ok, err := path.Match(pattern, name)
	return ok && err == nil
}

// system reports whether the file is a system file.
func (h *handle) system() bool { return isSystem(h.Path, h.Stat.Mode&unix.S_IFMT == unix.S_IFBLK) }

// System reports whether the file is one of the host itself, by its path without links.
func (f File) System() bool {
	h, err := open(f.Path)
	if err != nil {
		return isSystem(f.Path, true)
	}
	defer h.Close()
	return h.system()
}

// real returns the path without links, which is what AppArmor compares; the path itself
// if the file cannot be found.
func (f File) real() string {
	h, err := open(f.Path)
	if err != nil {
		return f.Path
	}
	defer h.Close()
	return h.Path
}
