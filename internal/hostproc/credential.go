package hostproc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Credential is the user and the groups of a process.
type Credential struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // the supplementary groups
}

// CredentialOf returns the effective user and group of process pid, and its
// supplementary groups (proc(5), /proc/PID/status).
func CredentialOf(pid int) (*Credential, error) {
	status, err := readStatus(pid)
	var c *Credential
	if err == nil {
		c, err = parseCredential(status)
	}
	if err != nil {
		return nil, fmt.Errorf("user of process %d: %w", pid, err)
	}
	return c, nil
}

// Self returns the effective user and group of this process, without its supplementary groups.
func Self() *Credential {
	return &Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
}

func parseCredential(status string) (*Credential, error) {
	var ids [3][]uint32
	for i, name := range []string{"Uid:", "Gid:", "Groups:"} {
		var err error
		if ids[i], err = statusIDs(status, name); err != nil {
			return nil, err
		}
	}
	const effective = 1 // after the real one
	if len(ids[0]) <= effective || len(ids[1]) <= effective {
		return nil, fmt.Errorf("/proc/PID/status is not as proc(5) documents it")
	}
	return &Credential{UID: ids[0][effective], GID: ids[1][effective], Groups: ids[2]}, nil
}

func readStatus(pid int) (string, error) {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	return string(status), err
}

// ParentOf returns the parent of process pid.
func ParentOf(pid int) (int, error) {
	status, err := readStatus(pid)
	if err != nil {
		return 0, err
	}
	parent, err := statusLine(status, "PPid:")
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(parent)
}

// statusLine returns what follows name in /proc/PID/status.
func statusLine(status, name string) (string, error) {
	for line := range strings.Lines(status) {
		if rest, found := strings.CutPrefix(line, name); found {
			return strings.TrimSpace(rest), nil
		}
	}
	return "", fmt.Errorf("/proc/PID/status has no line %q", name)
}

// statusIDs returns the numbers of one line of /proc/PID/status.
func statusIDs(status, name string) ([]uint32, error) {
	line, err := statusLine(status, name)
	if err != nil {
		return nil, err
	}
	var ids []uint32
	for _, field := range strings.Fields(line) {
		id, err := strconv.ParseUint(field, 10, 32)
		if err != nil {
			return nil, fmt.Errorf("line %q of /proc/PID/status is not as proc(5) documents it", name)
		}
		ids = append(ids, uint32(id))
	}
	return ids, nil
}

// Needed returns c, or nil if a child of this process runs as c anyway. c may be nil. A
// process that is not root could not even set its own groups again.
func (c *Credential) Needed() *Credential {
	if c != nil && os.Geteuid() != 0 && int(c.UID) == os.Geteuid() && int(c.GID) == os.Getegid() {
		return nil
	}
	return c
}

// Owner returns the user and group that files of a process with c should have;
// those of this process if c is nil.
func (c *Credential) Owner() (uid, gid int) {
	if c == nil {
		return os.Geteuid(), os.Getegid()
	}
	return int(c.UID), int(c.GID)
}

// Syscall returns c as package syscall takes it, nil for nil.
func (c *Credential) Syscall() *syscall.Credential {
	if c == nil {
		return nil
	}
	return &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
}
