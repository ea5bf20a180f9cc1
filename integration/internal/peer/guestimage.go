package peer

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Flavour is a kernel, as in Debian's package linux-image-FLAVOUR, and after a "+" the guest's extra software.
type Flavour string

const (
	// CloudKernel is small and boots fast; it has no USB.
	CloudKernel Flavour = "cloud-amd64"
	// FullKernel has every driver.
	FullKernel Flavour = "amd64"
	// CryptGuest is CloudKernel with dm-crypt and Debian's cryptsetup.
	CryptGuest Flavour = CloudKernel + "+cryptsetup"
	// NFSGuest is CloudKernel with the kernel's NFS client and a network card's driver.
	NFSGuest Flavour = CloudKernel + "+nfs"
	// AgentGuest is CloudKernel with Debian's QEMU guest agent, which a test starts by [AgentCommand], and
	// with dmsetup and mke2fs.
	AgentGuest Flavour = CloudKernel + "+agent"
)

// kernel returns the flavour without the extra software.
func (f Flavour) kernel() string {
	kernel, _, _ := strings.Cut(string(f), "+")
	return kernel
}

// guestModules are loaded at boot in this order, each after its dependencies. virtio_ring comes first because
// virtio uses its symbols.
var guestModules = map[Flavour][]string{
	CloudKernel: {"virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod"},
	CryptGuest:  {"virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "ecb", "xts", "essiv", "algif_skcipher", "algif_hash", "dm_crypt"},
	NFSGuest:    {"virtio_ring", "virtio_pci", "virtio_net", "nfsv3", "nfsv4"},
	AgentGuest:  {"virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "virtio_console", "dm_mod"},
	FullKernel:  {"virtio_ring", "virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod", "xhci_pci", "usb_storage", "uas"},
}

// guestSoftware is the extra software of flavours: Debian's packages, with and without what they depend on, and the
// programs of them that the guest gets. The guest agent's package also depends on packages for its installation.
var guestSoftware = map[Flavour]struct{ packages, alone, programs []string }{
	CryptGuest: {packages: []string{"cryptsetup-bin"}, programs: []string{"cryptsetup"}},
	AgentGuest: {
		packages: []string{"dmsetup", "e2fsprogs", "libglib2.0-0", "libudev1", "libnuma1", "liburing2"},
		alone:    []string{"qemu-guest-agent"},
		programs: []string{"qemu-ga", "dmsetup", "mke2fs"},
	},
}

// AgentCommand starts the guest agent of an [AgentGuest] at its virtio port, the only one of the guest, in the
// background, and waits until the agent has opened the port.
const AgentCommand = `i=0
while [ $i -lt 100 ]; do
	[ -e /dev/vport*p1 ] && break
	usleep 50000; i=$((i+1))
done
mkdir -p /tmp/agent
qemu-ga -m virtio-serial -p /dev/vport*p1 -t /tmp/agent >/tmp/agent/log 2>&1 </dev/null &
i=0
while [ $i -lt 200 ]; do
	ls -l /proc/$!/fd | grep -q vport && exit
	usleep 50000; i=$((i+1))
done
cat /tmp/agent/log
false`

// GuestImage is the files, in the cache, from which a guest boots.
type GuestImage struct {
	Kernel string // uncompressed, for QEMU
	Packed string // the bzImage, for boot loaders
	Initrd string // the initial file system, which is the whole guest
}

// guestImageVersion is part of the name of the cache entry: increment it when the content changes.
const guestImageVersion = "3"

// LoadGuestImage returns the image of the small Linux guest. If the cache lacks it, apt-get downloads
// Debian's kernel and static busybox and checks their signatures; they are unpacked without being installed.
// Root is not needed.
func LoadGuestImage(ctx context.Context, flavour Flavour) (GuestImage, error) {
	dir, err := cached("guest-"+string(flavour)+"-v"+guestImageVersion, func(dir string) error {
		return buildGuestImage(ctx, flavour, dir)
	})
	if err != nil {
		return GuestImage{}, err
	}
	return GuestImage{
		Kernel: filepath.Join(dir, "vmlinux"), Packed: filepath.Join(dir, "vmlinuz"), Initrd: filepath.Join(dir, "initrd"),
	}, nil
}

// buildGuestImage fills dir with the files of a GuestImage.
func buildGuestImage(ctx context.Context, flavour Flavour, dir string) error {
	work, err := os.MkdirTemp(dir, "work-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(work) }() // inside the cache entry's own temporary directory
	kernelPackage, err := kernelPackageOf(ctx, flavour)
	if err != nil {
		return err
	}
	root := filepath.Join(work, "root")
	packages := []string{kernelPackage, "busybox-static"}
	packages = append(packages, guestSoftware[flavour].alone...)
	for _, name := range guestSoftware[flavour].packages {
		more, err := packageClosure(ctx, name)
		if err != nil {
			return err
		}
		packages = append(packages, more...)
	}
	slices.Sort(packages)
	packages = slices.Compact(packages)
	if err := unpackPackages(ctx, work, root, packages...); err != nil {
		return err
	}
	kernels, err := filepath.Glob(filepath.Join(root, "boot", "vmlinuz-*"))
	if err != nil || len(kernels) != 1 {
		return fmt.Errorf("package %s holds %d kernels, want 1: %w", kernelPackage, len(kernels), err)
	}
	stage := filepath.Join(work, "stage")
	release := strings.TrimPrefix(filepath.Base(kernels[0]), "vmlinuz-")
	if err := stageGuest(stage, root, release, flavour); err != nil {
		return fmt.Errorf("make the initial file system: %w", err)
	}
	// The kernel unpacks "newc" (Documentation/driver-api/early-userspace/buffer-format.rst in its sources).
	// It has a /dev/console of its own, which it opens for init.
	const pack = `cd "$1" && find . | bin/busybox cpio -o -H newc -R 0:0 > "$2"`
	if _, err := Output(ctx, "sh", "-c", pack, "sh", stage, filepath.Join(dir, "initrd")); err != nil {
		return err
	}
	if err := unpackKernel(ctx, work, kernels[0], filepath.Join(dir, "vmlinux")); err != nil {
		return err
	}
	return os.Rename(kernels[0], filepath.Join(dir, "vmlinuz"))
}

// kernelPackageOf resolves Debian's meta-package to the package that holds the kernel.
func kernelPackageOf(ctx context.Context, flavour Flavour) (string, error) {
	meta := "linux-image-" + flavour.kernel()
	out, err := Output(ctx, "apt-cache", "depends", "--important", meta)
	if err != nil {
		return "", fmt.Errorf("%w (are the package lists there? apt-get update fetches them)", err)
	}
	for line := range strings.Lines(out) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: "); ok && strings.HasPrefix(name, "linux-image-") {
			return name, nil
		}
	}
	return "", fmt.Errorf("package %s depends on no kernel (are the package lists there? apt-get update fetches them)", meta)
}

// unpackPackages downloads packages into work and unpacks them into root.
func unpackPackages(ctx context.Context, work, root string, packages ...string) error {
	// apt-get download always writes into the working directory. As root it would drop its privileges to a
	// user that cannot write there.
	script := `cd "$1" && shift && exec apt-get -q -o APT::Sandbox::User=root download "$@"`
	if _, err := Output(ctx, "sh", append([]string{"-c", script, "sh", work}, packages...)...); err != nil {
		return fmt.Errorf("download %s (apt-get update may be needed): %w", strings.Join(packages, ", "), err)
	}
	files, err := filepath.Glob(filepath.Join(work, "*.deb"))
	if err != nil {
		return err
	}
	for _, file := range files {
		if _, err := Output(ctx, "dpkg-deb", "-x", file, root); err != nil {
			return err
		}
	}
	return nil
}

// stageGuest makes a directory of the guest's whole file system: busybox, the kernel modules with their order,
// guestInit, and the flavour's extra software.
func stageGuest(stage, root, release string, flavour Flavour) error {
	tree, err := findModules(filepath.Join(root, "lib", "modules", release))
	if err != nil {
		return err
	}
	modules, err := tree.closure(guestModules[flavour])
	if err != nil {
		return err
	}
	for _, dir := range []string{"bin", "sbin", "dev", "proc", "sys", "tmp", "mnt", "run", "etc", "lib/modules"} {
		if err := os.MkdirAll(filepath.Join(stage, dir), 0o755); err != nil {
			return err
		}
	}
	for _, name := range modules {
		if err := copyFile(tree[name], filepath.Join(stage, "lib/modules", name+".ko"), 0o644); err != nil {
			return err
		}
	}
	for _, program := range guestSoftware[flavour].programs {
		if err := addProgram(stage, root, program); err != nil {
			return err
		}
	}
	return errors.Join(
		copyFile(filepath.Join(root, "bin", "busybox"), filepath.Join(stage, "bin", "busybox"), 0o755),
		os.Symlink("busybox", filepath.Join(stage, "bin", "sh")),
		os.WriteFile(filepath.Join(stage, "etc", "modules"), []byte(strings.Join(modules, "\n")+"\n"), 0o644),
		os.WriteFile(filepath.Join(stage, "init"), []byte(guestInit), 0o755))
}

// guestCommandLine is the kernel command line of the guest. It disables mitigations, self-tests of ciphers and
// a second processor: they take a fifth of an emulated boot, and no test needs them.
const guestCommandLine = "console=ttyS0 loglevel=4 mitigations=off tsc=reliable no_timer_check cryptomgr.notests noreplace-smp"

// guestReady is the line that the guest sends when it accepts commands.
const guestReady = "luksplug-guest-ready"

// guestInit is the guest's only lasting process. It serves the second serial port: it answers a line of a
// marker and a command in base64 with the command's output, a line feed, the marker and the exit status. The
// marker is new and random each time, so that no output is mistaken for it.
const guestInit = `#!/bin/sh
export PATH=/bin:/sbin HOME=/
/bin/busybox --install -s /bin
mount -t proc proc /proc
mount -t sysfs sysfs /sys
mount -t devtmpfs devtmpfs /dev
mount -t tmpfs tmpfs /tmp
while read -r module; do insmod "/lib/modules/$module.ko"; done < /etc/modules
stty -F /dev/ttyS1 raw -echo clocal
exec < /dev/ttyS1 > /dev/ttyS1 2> /dev/console
echo ` + guestReady + `
while read -r marker command; do
	printf %s "$command" | base64 -d > /tmp/.command
	sh /tmp/.command < /dev/null 2>&1
	printf '\n%s %d\n' "$marker" "$?"
done
`
