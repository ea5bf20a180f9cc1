package hook

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// ErrNoUser reports that the user that the domain's QEMU is going to run as is unknown.
var ErrNoUser = errors.New("neither the domain's XML nor luksplug's record in it says as whom its QEMU runs: attach the disk again with this luksplug, or add a <seclabel model='dac'> with the user")

// user returns the user that the domain's QEMU runs as: that of libvirt's label, which
// is usually there once QEMU runs, or else the recorded one.
func (d *domain) user() (*hostproc.Credential, error) {
	for _, label := range []string{d.doc.Label("dac"), d.record.User} {
		if label != "" {
			return ParseUser(label)
		}
	}
	return nil, ErrNoUser
}

// ParseUser reads libvirt's label of a user and group, by number: "+64055:+994".
func ParseUser(label string) (*hostproc.Credential, error) {
	uid, gid, _ := strings.Cut(label, ":")
	u, err1 := strconv.ParseUint(strings.TrimPrefix(uid, "+"), 10, 32)
	g, err2 := strconv.ParseUint(strings.TrimPrefix(gid, "+"), 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the security label %q names no user and group by number", label)
	}
	return &hostproc.Credential{UID: uint32(u), GID: uint32(g)}, nil
}
