package access

import (
	"errors"
	"fmt"
	"os"
	"os/user"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug/daemon"
)

// User is as whom a QEMU opens files, and where.
type User struct {
	daemon.Credential
	// PID is QEMU's process, whose capabilities and mount namespace count; 0 for
	// one that is not there yet: it is taken to have no capabilities, unless it is
	// root, and our mount namespace.
	PID int
}

// UserOf is the user of a QEMU that is not there yet, with the groups that the
// system has for it.
func UserOf(c daemon.Credential) User {
	u := User{Credential: c}
	account, err := user.LookupId(strconv.FormatUint(uint64(c.UID), 10))
	if err != nil || len(c.Groups) > 0 {
		return u // a user needs no account
	}
	ids, _ := account.GroupIds() // without them the check is only stricter
	for _, id := range ids {
		if n, err := strconv.ParseUint(id, 10, 32); err == nil {
			u.Groups = append(u.Groups, uint32(n))
		}
	}
	return u
}

// String names the user for people.
func (u User) String() string {
	return fmt.Sprintf("%s (uid %d, gid %d)", userName(u.UID), u.UID, u.GID)
}

func userName(uid uint32) string {
	id := strconv.FormatUint(uint64(uid), 10)
	if account, err := user.LookupId(id); err == nil {
		return account.Username
	}
	return "user " + id
}

func groupName(gid uint32) string {
	id := strconv.FormatUint(uint64(gid), 10)
	if group, err := user.LookupGroupId(id); err == nil {
		return group.Name
	}
	return id
}

func (u User) member(gid uint32) bool { return gid == u.GID || slices.Contains(u.Groups, gid) }

// ErrUnknown: what another user may open cannot be found out by this one.
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
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", u.PID))
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(status)) {
		if text, found := strings.CutPrefix(line, "CapEff:"); found {
			set, err := strconv.ParseUint(strings.TrimSpace(text), 16, 64)
			return uint32(set) & overriding, err
		}
	}
	return 0, errors.New("/proc/PID/status is not as proc(5) has it")
}

// thread is what f of [User.as] runs on.
type thread struct {
	user         User
	capabilities uint32 // that the user has
}

// as runs f on a thread of its own, which sees the files that the user sees. From
// f's call of become on, the kernel takes the thread for the user. It is never used
// for anything else.
func (u User) as(f func(*thread) error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() != os.Getpid() {
			done <- u.on(f)
			return // without unlocking: the thread ends with the goroutine
		}
		// The first thread would not end, and stands for the process in /proc. While
		// it waits here, the next goroutine gets another.
		defer runtime.UnlockOSThread()
		done <- u.as(f)
	}()
	return <-done
}

// on is as, on the thread.
func (u User) on(f func(*thread) error) error {
	t := &thread{user: u}
	var err error
	if t.capabilities, err = u.capabilities(); err != nil { // by our /proc, not that of QEMU's namespace
		return unknown("QEMU's capabilities", err)
	}
	if err := t.enter(); err != nil {
		return err
	}
	return f(t)
}

// enter goes to the mount namespace and root folder of QEMU's process.
func (t *thread) enter() error {
	if t.user.PID == 0 {
		return nil
	}
	proc := fmt.Sprintf("/proc/%d/", t.user.PID)
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
		return unknown("QEMU's root folder", err)
	}
	defer func() { _ = unix.Close(root) }()
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return unknown("a thread's own root folder", err)
	}
	if err := unix.Setns(namespace, unix.CLONE_NEWNS); err != nil {
		return unknown("QEMU's mount namespace", err)
	}
	if err := errors.Join(unix.Fchdir(root), unix.Chroot(".")); err != nil {
		return unknown("QEMU's root folder", err)
	}
	return nil
}

func unknown(what string, err error) error { return fmt.Errorf("%w: %s: %w", ErrUnknown, what, err) }

// same tells whether two paths lead to the same place. One that cannot be looked at
// is another's process, of whom nothing more is known.
func same(a, b string) bool {
	var x, y unix.Stat_t
	return unix.Stat(a, &x) == nil && unix.Stat(b, &y) == nil && x.Dev == y.Dev && x.Ino == y.Ino
}

// become turns the thread into the user, as far as files go.
func (t *thread) become() error {
	u := t.user
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
	// These functions of x/sys concern the thread alone, as those of package
	// syscall do not.
	if err := unix.Setgroups(groups); err != nil {
		return unknown("the user's groups", err)
	}
	_ = unix.Setfsgid(int(u.GID)) // never tell of a failure: asked below
	_ = unix.Setfsuid(int(u.UID))
	const whatNobodyHas = -1
	gid, err1 := unix.SetfsgidRetGid(whatNobodyHas)
	uid, err2 := unix.SetfsuidRetUid(whatNobodyHas)
	if err := errors.Join(err1, err2); err != nil || gid != int(u.GID) || uid != int(u.UID) {
		return unknown("the user's identity", errors.Join(err, unix.EPERM))
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return unknown("this thread's capabilities", err)
	}
	sets[0].Effective = sets[0].Effective&^overriding | sets[0].Permitted&t.capabilities
	if err := unix.Capset(&header, &sets[0]); err != nil {
		return unknown("the user's capabilities", err)
	}
	return nil
}
