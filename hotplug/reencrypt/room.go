package reencrypt

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// Writer is a user and a group.
type Writer struct{ UID, GID int }

// Place is a file system or block device that is going to have the target, or a part of it.
type Place struct {
	// Path is that of the directory, or of the device.
	Path string
	// Need is what is expected to be written there, Most what can be, in bytes.
	Need, Most int64
	// Limits are what bounds it, as far as that is known.
	Limits []Limit
	// Reserved is the part of the file system's free space that only root may use, in bytes. It counts as free for root.
	Reserved int64
	// Unknown are the limits that could not be asked for, and the reasons.
	Unknown []string
	// InMemory is set for a file system in memory.
	InMemory bool
}

// Limit is a bound.
type Limit struct {
	Kind LimitKind
	// Free is how many bytes more are possible; of a device, how many it has.
	Free int64
}

// LimitKind is what bounds the room.
type LimitKind string

// The kinds. A quota of a project, or of a directory, is one of LimitFileSystem: statfs(2) shows it as a smaller file
// system, on ext4 and XFS where new files inherit the project.
const (
	LimitFileSystem LimitKind = "free space of the file system"
	LimitUser       LimitKind = "quota of the user"
	LimitGroup      LimitKind = "quota of the group"
	LimitDevice     LimitKind = "size of the device"
)

// Reasons in [Place.Unknown].
const (
	unknownDevice = "whether the storage behind the device has room for what is written, as a thin pool of LVM may not"
	unknownQuota  = "the quota of %s %d: %v"
	unknownServer = "quotas of the file system's server"
)

// tightest returns the smallest limit, false without any.
func (p Place) tightest() (out Limit, ok bool) {
	for _, l := range p.Limits {
		if !ok || l.Free < out.Free {
			out, ok = l, true
		}
	}
	return out, ok
}

// need is what a file is expected to take, what it can take at most, and how large a device in its place must be.
type need struct{ expected, most, device int64 }

// places returns where the target is going to be. Two files on one file system share its room.
func places(c Copying, payload, header need) ([]Place, error) {
	w := Writer{os.Geteuid(), os.Getegid()}
	if c.Writer != nil {
		w = *c.Writer
	}
	p, device, err := placeOf(c.Target.Path, payload, w)
	if err != nil || c.Target.Header == "" {
		return []Place{p}, err
	}
	h, other, err := placeOf(c.Target.Header, header, w)
	if err != nil {
		return []Place{p}, err
	}
	if device != other {
		return []Place{p, h}, nil
	}
	p.Need, p.Most = p.Need+header.expected, p.Most+header.most
	return []Place{p}, nil
}

// placeOf returns where a file is going to be, and the number of the file system; for a block device, that of the device.
func placeOf(path string, n need, w Writer) (p Place, device uint64, err error) {
	if block(path) {
		info, err := image.Inspect(path)
		if err != nil {
			return p, 0, err
		}
		var st unix.Stat_t
		if err := unix.Stat(path, &st); err != nil {
			return p, 0, &fs.PathError{Op: "stat", Path: path, Err: err}
		}
		p = Place{Path: path, Need: n.device, Most: n.device, Limits: []Limit{{LimitDevice, info.Size}}, Unknown: []string{unknownDevice}}
		return p, st.Rdev, nil
	}
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return p, 0, fmt.Errorf("find the room for the new volume: %w", err)
	}
	defer fsutil.CloseRead(dir)
	p = Place{Path: dir.Name(), Need: n.expected, Most: n.most, InMemory: fsutil.FileInMemory(dir)}
	var st unix.Stat_t
	var all unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(dir.Fd()), &st), unix.Fstatfs(int(dir.Fd()), &all)); err != nil {
		return p, 0, &fs.PathError{Op: "query the free space", Path: dir.Name(), Err: err}
	}
	unit := int64(all.Bsize) //nolint:unconvert // the types are those of the platform
	if all.Frsize > 0 {
		unit = int64(all.Frsize) //nolint:unconvert // the unit of the counts, which differs from Bsize on NFS
	}
	free := saturated(all.Bavail, unit)
	if p.Reserved = max(0, saturated(all.Bfree, unit)-free); w.UID == 0 {
		free += p.Reserved
	}
	p.Limits = []Limit{{LimitFileSystem, free}}
	p.addQuotas(dir, w, remote(uint32(all.Type)))
	return p, st.Dev, nil
}

// saturated returns n units in bytes, or the largest number.
func saturated(n uint64, unit int64) int64 {
	if n > uint64(maxSize/unit) {
		return maxSize
	}
	return int64(n) * unit
}

// remote reports whether a file system's quotas are those of a server.
func remote(magic uint32) bool {
	switch magic {
	case unix.NFS_SUPER_MAGIC, unix.SMB_SUPER_MAGIC, unix.SMB2_SUPER_MAGIC, unix.CIFS_SUPER_MAGIC, unix.CEPH_SUPER_MAGIC, unix.AFS_SUPER_MAGIC, unix.FUSE_SUPER_MAGIC:
		return true
	}
	return false
}

// addQuotas adds the quotas of the writer.
func (p *Place) addQuotas(dir *os.File, w Writer, remote bool) {
	if remote {
		p.Unknown = append(p.Unknown, unknownServer)
		return
	}
	for _, q := range []struct {
		kind LimitKind
		what string
		typ  uintptr
		id   int
	}{{LimitUser, "user", userQuota, w.UID}, {LimitGroup, "group", groupQuota, w.GID}} {
		usage, err := queryQuota(dir, q.typ, q.id)
		switch {
		case err == nil:
			if free, limited := usage.free(); limited {
				p.Limits = append(p.Limits, Limit{q.kind, free})
			}
		// No quotas are on, or neither the file system nor the kernel has any.
		case errors.Is(err, unix.ESRCH), errors.Is(err, unix.ENOSYS), errors.Is(err, unix.EOPNOTSUPP):
		default:
			p.Unknown = append(p.Unknown, fmt.Sprintf(unknownQuota, q.what, q.id, err))
		}
	}
}

// Numbers of quotactl(2) (Linux: linux/quota.h).
const (
	userQuota, groupQuota = 0, 1
	getQuota              = 0x800007
	quotaUnit             = 1024 // bytes, of the limits
	validLimits           = 1    // QIF_BLIMITS
	validSpace            = 2    // QIF_SPACE
)

// quota is struct if_dqblk: the limits of a user or group, and what it uses.
type quota struct {
	hard, soft, space               uint64
	inodesHard, inodesSoft, inodes  uint64
	blockExpiration, nodeExpiration uint64
	valid                           uint32
	_                               uint32
}

// free returns how many bytes more may be written, false without a limit. The soft limit may be exceeded for some days.
func (q quota) free() (int64, bool) {
	if q.valid&validLimits == 0 || q.valid&validSpace == 0 || q.hard == 0 {
		return 0, false
	}
	return max(0, saturated(q.hard, quotaUnit)-saturated(q.space, 1)), true
}

// queryQuota returns the quota of a user or group on the file system of a directory. It needs Linux 5.14. Only root may ask
// for those of others: EPERM.
func queryQuota(dir *os.File, typ uintptr, id int) (q quota, err error) {
	_, _, failed := unix.Syscall6(unix.SYS_QUOTACTL_FD, dir.Fd(), getQuota<<8|typ, uintptr(id), uintptr(unsafe.Pointer(&q)), 0, 0) //nolint:gosec // a system call that package unix does not have
	if failed != 0 {
		return quota{}, failed
	}
	return q, nil
}
