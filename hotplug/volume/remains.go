package volume

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets/luks"
)

// keepers are file systems that may keep what was overwritten, by their magic numbers (statfs(2)).
var keepers = map[int64]string{
	unix.BTRFS_SUPER_MAGIC:     "btrfs writes new data elsewhere: its snapshots keep the old header, and free space may",
	0x2fc12fc1:                 "ZFS writes new data elsewhere: its snapshots keep the old header, and free space may",
	0xca451a4e:                 "bcachefs writes new data elsewhere: its snapshots keep the old header, and free space may",
	unix.NILFS_SUPER_MAGIC:     "NILFS writes new data elsewhere: its checkpoints keep the old header",
	unix.F2FS_SUPER_MAGIC:      "F2FS writes new data elsewhere: free space may keep the old header",
	unix.OVERLAYFS_SUPER_MAGIC: "on an overlay file system the layers below may have the old file",
	unix.NFS_SUPER_MAGIC:       "the file is on an NFS server, which may keep snapshots or copies",
	unix.CIFS_SUPER_MAGIC:      "the file is on an SMB server, which may keep snapshots or copies",
	unix.SMB2_SUPER_MAGIC:      "the file is on an SMB server, which may keep snapshots or copies",
	0xc36400:                   "the file is on Ceph, which may keep snapshots",
	unix.FUSE_SUPER_MAGIC:      "the file is on a FUSE file system, which may keep what was overwritten",
}

// remains returns where the header or the data may still exist, as far as this host can see that. f is the file with the
// header, before it is wiped.
func (d Destroying) remains(out *Destroyed, f *os.File) ([]string, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(f.Fd()), &stat); err != nil {
		return nil, err
	}
	var found []string
	device := stat.Rdev
	if stat.Mode&unix.S_IFMT == unix.S_IFREG {
		device = stat.Dev
		var system unix.Statfs_t
		if err := unix.Fstatfs(int(f.Fd()), &system); err != nil {
			return nil, err
		}
		if why := keepers[system.Type]; why != "" {
			found = append(found, why)
		}
		if image.Shared(f, out.Offset, out.Length) {
			found = append(found, fmt.Sprintf("another file or a snapshot shares blocks of %s (a copy by cp --reflink, for example), and keeps the old header", out.Wiped))
		}
		if stat.Nlink > 1 {
			found = append(found, fmt.Sprintf("%s has %d names, and the others keep the file, with its header wiped", out.Wiped, stat.Nlink))
		}
	}
	found = append(found, ofDevice(fmt.Sprintf("/sys/dev/block/%d:%d", unix.Major(device), unix.Minor(device)))...)
	return append(found, d.copies(out)...), nil
}

// ofDevice returns what a block device may keep.
func ofDevice(sys string) []string {
	read := func(name string) string {
		text, err := os.ReadFile(filepath.Join(sys, name))
		if err != nil {
			return ""
		}
		return strings.TrimSpace(string(text))
	}
	var found []string
	name := "the device"
	if link, err := os.Readlink(sys); err == nil {
		name = "/dev/" + filepath.Base(link)
	}
	rotational := read("queue/rotational")
	if rotational == "" {
		rotational = read("../queue/rotational") // of the disk that a partition is on
	}
	if rotational == "0" {
		found = append(found, name+" does not report a rotating disk: flash keeps overwritten blocks until it erases them")
	}
	if strings.HasPrefix(read("dm/uuid"), "LVM-") {
		found = append(found, name+" is a logical volume: its snapshots and its thin pool may keep the old header")
	}
	if file := read("loop/backing_file"); file != "" {
		found = append(found, fmt.Sprintf("%s is a loop device over %s, whose own file system may keep the old header", name, file))
	}
	return found
}

// mostSearched bounds the files of a directory that are searched for copies of the header.
const mostSearched = 4096

// copies names copies of the header beside the volume, such as backups: with one, an old passphrase opens a payload that is
// kept.
func (d Destroying) copies(out *Destroyed) []string {
	var found []string
	searched := map[string]bool{}
	for _, path := range []string{d.Path, d.Header} {
		dir := filepath.Dir(path)
		if path == "" || searched[dir] {
			continue
		}
		searched[dir] = true
		entries, err := os.ReadDir(dir)
		if err != nil {
			continue
		}
		for _, e := range entries[:min(len(entries), mostSearched)] {
			other := filepath.Join(dir, e.Name())
			if e.Type().IsRegular() && !image.SameFile(other, d.Path) && !image.SameFile(other, out.Wiped) && hasHeader(other, out.UUID) {
				found = append(found, fmt.Sprintf("%s has a header of the same volume, and stays", other))
			}
		}
	}
	return found
}

// hasHeader reports whether a file begins with a LUKS header with that UUID, also one of an incomplete volume.
func hasHeader(path, uuid string) bool {
	f, err := fsutil.OpenRegular(nil, path)
	if errors.Is(err, fs.ErrPermission) || err != nil {
		return false
	}
	defer fsutil.CloseRead(f)
	h, err := luks.ReadIncomplete(f)
	return err == nil && strings.EqualFold(h.UUID, uuid)
}
