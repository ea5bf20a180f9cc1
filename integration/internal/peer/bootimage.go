package peer

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// BootMark is on the kernel command line of the guest that boots from [BootImage].
const BootMark = "luksplug.from=disk"

// BootImage returns the path of a disk image of [VolumeSize] bytes from which a PC boots the small Linux
// guest: a FAT file system with SYSLINUX, the kernel and the initial file system. It is kept in the cache,
// and made with Debian's programs, which are unpacked without being installed.
func BootImage(ctx context.Context, t testing.TB) string {
	t.Helper()
	dir, err := cached("boot-v1", func(dir string) error { return buildBootImage(ctx, dir) })
	if err != nil {
		t.Fatalf("make a bootable image: %v", err)
	}
	return filepath.Join(dir, "image")
}

func buildBootImage(ctx context.Context, dir string) error {
	guest, err := LoadGuestImage(ctx, CloudKernel)
	if err != nil {
		return err
	}
	work, err := os.MkdirTemp(dir, "work-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // inside the cache entry's own temporary directory
	root := filepath.Join(work, "root")
	if err := unpackPackages(ctx, work, root, "syslinux", "mtools", "dosfstools"); err != nil {
		return err
	}
	const config = "DEFAULT linux\nLABEL linux\nKERNEL vmlinuz\nINITRD initrd\nAPPEND " + guestCommandLine + " " + BootMark + "\n"
	settings := filepath.Join(work, "syslinux.cfg")
	if err := os.WriteFile(settings, []byte(config), 0o644); err != nil {
		return err
	}
	image := filepath.Join(dir, "image")
	if err := sparse(image, VolumeSize); err != nil {
		return err
	}
	// syslinux runs mtools by name.
	path := []string{filepath.Join(root, "usr", "bin"), filepath.Join(root, "usr", "sbin"), filepath.Join(root, "sbin"), os.Getenv("PATH")}
	for _, command := range [][]string{
		{"mkfs.fat", "-F", "16", image},
		{"mcopy", "-i", image, guest.Packed, "::vmlinuz"},
		{"mcopy", "-i", image, guest.Initrd, "::initrd"},
		{"mcopy", "-i", image, settings, "::syslinux.cfg"},
		{"syslinux", "--install", image},
	} {
		cmd := exec.CommandContext(ctx, "env", append([]string{"PATH=" + strings.Join(path, ":")}, command...)...)
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%s: %w: %s", command[0], err, out)
		}
	}
	return nil
}
