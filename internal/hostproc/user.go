package hostproc

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"slices"
	"strconv"

	"golang.org/x/sys/unix"
)

// User is the identity under which a QEMU opens files.
type User struct {
	Credential
	// PID is QEMU's process, whose capabilities and mount namespace count. 0 is
	// a process that does not exist yet: it is assumed to have no capabilities,
	// unless its user is root, and the mount namespace of this process.
	PID int
}

// UserOf returns the user of a QEMU that does not run yet. If c has no
// supplementary groups, they are those of the system's user database.
func UserOf(c Credential) User {
	u := User{Credential: c}
	account, err := user.LookupId(strconv.FormatUint(uint64(c.UID), 10))
	if err != nil || len(c.Groups) > 0 {
		return u // a user needs no account
	}
	ids, _ := account.GroupIds() // with fewer groups a check is only stricter
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			u.Groups = append(u.Groups, uint32(n))
		}
	}
	return u
}

// String returns the user's name and ids, for messages.
func (u User) String() string {
	return fmt.Sprintf("%s (uid %d, gid %d)", UserName(u.UID), u.UID, u.GID)
}

// UserName returns the name of a user, for messages: "user " and the id if there is no account.
func UserName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if account, err := user.LookupId(id); err == nil {
		return account.Username
	}
	return "user " + id
}

// GroupName returns the name of a group, for messages: the id if it has no name.
func GroupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if group, err := user.LookupGroupId(id); err == nil {
		return group.Name
	}
	return id
}

// Member reports whether the user belongs to the group.
func (u User) Member(gid uint32) bool { return gid == u.GID || slices.Contains(u.Groups, gid) }

// ErrUnknown reports that this process cannot determine which files another user may open.
var ErrUnknown = errors.New("only root can find out what another user may open")

// Capabilities that override the permissions of files (capabilities(7)).
const overriding = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_DAC_READ_SEARCH

// capabilities returns which of the overriding capabilities the user has.
func (u User) capabilities() (uint32, error) {
	if u.PID == 0 {
		if u.UID == 0 {
			return overriding, nil
		}
		return 0, nil
	}
	status, err := readStatus(u.PID)
	if err != nil {
		return 0, err
	}
	text, err := statusLine(status, "CapEff:")
	if err != nil {
		return 0, err
	}
	set, err := strconv.ParseUint(text, 16, 64)
	return uint32(set) & overriding, err
}

// OnThread calls f on a thread of its own ([OnThread]) in the mount namespace and root directory of the
// user's process, still with the identity of this process. f switches to that of the user with become, which
// affects only the file access of the thread and cannot be undone. The error of OnThread and of become wraps
// [ErrUnknown] where this process may not do that.
func (u User) OnThread(f func(become func() error) error) error {
	return OnThread(func() error {
		capabilities, err := u.capabilities() // by our /proc, not that of QEMU's namespace
		if err != nil {
			return unknown("QEMU's capabilities", err)
		}
		if err := u.enter(); err != nil {
			return err
		}
		return f(func() error { return u.become(capabilities) })
	})
}

// enter moves the calling thread to the mount namespace and root directory of the user's process.
func (u User) enter() error {
	if u.PID == 0 {
		return nil
	}
	proc := fmt.Sprintf("/proc/%d/", u.PID)
	if same(proc+"ns/mnt", "/proc/self/ns/mnt") && same(proc+"root", "/") {
		return nil
	}
	namespace, err := unix.Open(proc+"ns/mnt", unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return unknown("QEMU's mount namespace", err)
	}
	defer func() { _ = unix.Close(namespace) }()
	root, err := unix.Open(proc+"root", unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return unknown("QEMU's root directory", err)
	}
	defer func() { _ = unix.Close(root) }()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return unknown("a thread's own root directory", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return unknown("QEMU's mount namespace", err)
	}
	if err := errors.Join(unix.Fchdir(root), unix.Chroot(".")); err != nil {
		return unknown("QEMU's root directory", err)
	}
	return nil
}

func unknown(what string, err error) error { return fmt.Errorf("%w: %s: %w", ErrUnknown, what, err) }

// same reports whether two paths lead to the same file. It returns false if one
// cannot be examined, as with another user's process.
func same(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// become gives the calling thread the user's file access, with those of the
// overriding capabilities that are given.
func (u User) become(capabilities uint32) error {
	if os.Geteuid() != 0 {
		if int(u.UID) == os.Geteuid() {
			return nil
		}
		return ErrUnknown
	}
	groups := make([]int, len(u.Groups))
	for i, g := range u.Groups {
		groups[i] = int(g)
	}
	// These functions of x/sys change the calling thread only, those of package syscall change all threads.
	if err := unix.Setgroups(groups); err != nil {
		return unknown("the user's groups", err)
	}
	_ = unix.Setfsgid(int(u.GID)) // these never report a failure: queried below
	_ = unix.Setfsuid(int(u.UID))
	const invalid = -1 // changes nothing and returns the id
	gid, err1 := unix.SetfsgidRetGid(invalid)
	uid, err2 := unix.SetfsuidRetUid(invalid)
	if err := errors.Join(err1, err2); err != nil || gid != int(u.GID) || uid != int(u.UID) {
		return unknown("the user's identity", errors.Join(err, unix.EPERM))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return unknown("this thread's capabilities", err)
	}
	sets[0].Effective = sets[0].Effective&^overriding | sets[0].Permitted&capabilities
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return unknown("the user's capabilities", err)
	}
	return nil
}
