package access

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// QEMUUser determines the user of the QEMUs that this host's libvirt is going to start,
// from files that only root can write. The zero value has the usual paths.
type QEMUUser struct {
	// Noted is where luksplug writes down what libvirt has reported, Config libvirt's
	// configuration of QEMU, and State a directory that libvirt gives to the user.
	Noted, Config, State string
}

// withDefaults returns q with the usual paths for those that are empty.
func (q QEMUUser) withDefaults() QEMUUser {
	for path, usual := range map[*string]string{
		&q.Noted: "/var/lib/luksplug/qemu-user.json", &q.Config: "/etc/libvirt/qemu.conf", &q.State: "/var/lib/libvirt/qemu",
	} {
		if *path == "" {
			*path = usual
		}
	}
	return q
}

// notedUser is the content of the file Noted.
type notedUser struct {
	UID uint32 `json:"uid"`
	GID uint32 `json:"gid"`
}

// Note writes the user down, as libvirt has reported it.
func (q QEMUUser) Note(c hostproc.Credential) error {
	path := q.withDefaults().Noted
	if known, err := q.noted(path); err == nil && known.UID == c.UID && known.GID == c.GID {
		return nil
	}
	text, err := json.Marshal(notedUser{c.UID, c.GID})
	if err == nil {
		err = os.MkdirAll(filepath.Dir(path), 0o755)
	}
	if err == nil {
		err = fsutil.Replace(nil, path, append(text, '\n'), fsutil.Options{Mode: 0o644, Durable: true})
	}
	if err != nil {
		return fmt.Errorf("write down QEMU's user: %w", err)
	}
	return nil
}

// ErrNoQEMUUser reports that the user of the host's QEMUs cannot be determined.
var ErrNoQEMUUser = errors.New("the user that libvirt runs QEMU as cannot be determined")

// Find returns the user: what libvirt has reported, else that of its configuration, else
// the owner of its directory. For a process that is not root's it is its own user.
func (q QEMUUser) Find() (*hostproc.Credential, error) {
	if os.Geteuid() != 0 {
		return hostproc.Self(), nil
	}
	q = q.withDefaults()
	noted, err1 := q.noted(q.Noted)
	if err1 == nil {
		return noted, nil
	}
	configured, err2 := q.configured(q.Config)
	if err2 == nil {
		return configured, nil
	}
	var st unix.Stat_t
	err3 := unix.Lstat(q.State, &st)
	if err3 == nil && st.Mode&unix.S_IFMT == unix.S_IFDIR {
		return &hostproc.Credential{UID: st.Uid, GID: st.Gid}, nil
	}
	return nil, fmt.Errorf("%w: %w", ErrNoQEMUUser, errors.Join(err1, err2, err3))
}

// readRoots reads a short regular file that only root can write.
func readRoots(path string) ([]byte, error) {
	f, err := fsutil.OpenRegular(nil, path)
	if err != nil {
		return nil, err
	}
	defer fsutil.CloseRead(f)
	info, err := f.Stat()
	if err != nil {
		return nil, err
	}
	if st, ok := info.Sys().(*syscall.Stat_t); !ok || int(st.Uid) != os.Geteuid() && st.Uid != 0 || st.Mode&0o022 != 0 {
		return nil, fmt.Errorf("%s: other users can write to it", path)
	}
	const most = 1 << 20
	return io.ReadAll(io.LimitReader(f, most))
}

func (q QEMUUser) noted(path string) (*hostproc.Credential, error) {
	text, err := readRoots(path)
	if err != nil {
		return nil, err
	}
	var n struct{ UID, GID *uint32 }
	if err := json.Unmarshal(text, &n); err != nil || n.UID == nil || n.GID == nil {
		return nil, fmt.Errorf("%s: it does not name a user and a group", path)
	}
	return &hostproc.Credential{UID: *n.UID, GID: *n.GID}, nil
}

// configured reads the settings user and group of qemu.conf.
func (q QEMUUser) configured(path string) (*hostproc.Credential, error) {
	text, err := readRoots(path)
	if err != nil {
		return nil, err
	}
	values := map[string]string{}
	for lines := bufio.NewScanner(bytes.NewReader(text)); lines.Scan(); {
		name, value, ok := strings.Cut(lines.Text(), "=")
		if name = strings.TrimSpace(name); ok && (name == "user" || name == "group") {
			value, _, _ = strings.Cut(value, "#")
			values[name] = strings.Trim(strings.TrimSpace(value), `"'`)
		}
	}
	if values["user"] == "" {
		return nil, fmt.Errorf("%s: it sets no user", path)
	}
	account := lookUpUser(values["user"])
	if account == nil {
		return nil, fmt.Errorf("%s: there is no user %q", path, values["user"])
	}
	if values["group"] == "" {
		return account, nil
	}
	group, err := user.LookupGroup(values["group"])
	number := strings.TrimPrefix(values["group"], "+")
	if err == nil {
		number = group.Gid
	}
	gid, err := strconv.ParseUint(number, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("%s: there is no group %q", path, values["group"])
	}
	account.GID = uint32(gid)
	return account, nil
}

// lookUpUser finds a user by libvirt's rule: by name, and otherwise by number; with a plus
// sign by number only. It returns nil if there is none.
func lookUpUser(name string) *hostproc.Credential {
	account, err := user.Lookup(name)
	if err != nil {
		account, err = user.LookupId(strings.TrimPrefix(name, "+"))
	}
	number, gid := strings.TrimPrefix(name, "+"), "0"
	if err == nil {
		number, gid = account.Uid, account.Gid
	}
	u, err1 := strconv.ParseUint(number, 10, 32)
	g, err2 := strconv.ParseUint(gid, 10, 32)
	if err1 != nil || err2 != nil {
		return nil
	}
	return &hostproc.Credential{UID: uint32(u), GID: uint32(g)}
}
