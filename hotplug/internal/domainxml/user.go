package domainxml

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/internal/hostproc"
)

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
