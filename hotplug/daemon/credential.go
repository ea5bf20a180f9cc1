package daemon

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
)

// Credential says as whom a process runs.
type Credential struct {
	UID    uint32
	GID    uint32
	Groups []uint32 // the supplementary groups
}

// CredentialOf returns as whom the process pid runs: its effective user and
// group, and its supplementary groups (proc(5), /proc/PID/status).
func CredentialOf(pid int) (*Credential, error) {
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	if err != nil {
		return nil, fmt.Errorf("user of process %d: %w", pid, err)
	}
	c, err := parseCredential(string(data))
	if err != nil {
		return nil, fmt.Errorf("user of process %d: %w", pid, err)
	}
	return c, nil
}

func parseCredential(status string) (*Credential, error) {
	uids, err := statusIDs(status, "Uid:")
	if err != nil {
		return nil, err
	}
	gids, err := statusIDs(status, "Gid:")
	if err != nil {
		return nil, err
	}
	groups, err := statusIDs(status, "Groups:")
	if err != nil {
		return nil, err
	}
	const effective = 1 // after the real one
	if len(uids) <= effective || len(gids) <= effective {
		return nil, fmt.Errorf("/proc/PID/status is not as proc(5) has it")
	}
	return &Credential{UID: uids[effective], GID: gids[effective], Groups: groups}, nil
}

// statusIDs returns the numbers of one line of /proc/PID/status.
func statusIDs(status, name string) ([]uint32, error) {
	for line := range strings.Lines(status) {
		rest, found := strings.CutPrefix(line, name)
		if !found {
			continue
		}
		var ids []uint32
		for _, field := range strings.Fields(rest) {
			id, err := strconv.ParseUint(field, 10, 32)
			if err != nil {
				return nil, fmt.Errorf("line %q of /proc/PID/status: %w", name, err)
			}
			ids = append(ids, uint32(id))
		}
		return ids, nil
	}
	return nil, fmt.Errorf("/proc/PID/status has no line %q", name)
}

// needed returns nil if c is what this process is anyway. A process that is not
// root could not even set the groups that it has.
func (c *Credential) needed() *Credential {
	if c != nil && os.Geteuid() != 0 && int(c.UID) == os.Geteuid() && int(c.GID) == os.Getegid() {
		return nil
	}
	return c
}

// owner is whom files of a process that runs as c should belong to.
func (c *Credential) owner() (uid, gid int) {
	if c == nil {
		return os.Geteuid(), os.Getegid()
	}
	return int(c.UID), int(c.GID)
}

func (c *Credential) syscall() *syscall.Credential {
	if c == nil {
		return nil
	}
	return &syscall.Credential{Uid: c.UID, Gid: c.GID, Groups: c.Groups}
}
