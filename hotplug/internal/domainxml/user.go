package domainxml

import (
	"errors"
	"fmt"
	"os/user"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/hostproc"
)

// ParseUser reads libvirt's label of a user and group: "+64055:+994", or "qemu:kvm" in a
// definition. By libvirt's rule a name precedes a number without a plus sign.
func ParseUser(label string) (*hostproc.Credential, error) {
	uid, gid, _ := strings.Cut(label, ":")
	if account, err := user.Lookup(uid); err == nil {
		uid = account.Uid
	}
	if group, err := user.LookupGroup(gid); err == nil {
		gid = group.Gid
	}
	u, err1 := strconv.ParseUint(strings.TrimPrefix(uid, "+"), 10, 32)
	g, err2 := strconv.ParseUint(strings.TrimPrefix(gid, "+"), 10, 32)
	if err := errors.Join(err1, err2); err != nil {
		return nil, fmt.Errorf("the security label %q names no user and group of this host", label)
	}
	return &hostproc.Credential{UID: uint32(u), GID: uint32(g)}, nil
}
