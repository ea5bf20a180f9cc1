package daemon

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/qapi"
)

// Process identifies one process of this machine, also after its id is used again.
type Process = hostproc.Process

// Credential is the user and the groups that a process runs with.
type Credential = hostproc.Credential

// Info is what is known of a daemon without a query.
type Info struct {
	Process Process
	Program string // its path
	Dir     string
	Socket  string // of NBD, or where a helper listens
	Monitor string // the socket of QMP; a helper has none
	Kind    Kind
	// Owner is the process for which the daemon runs, such as the VM's QEMU; without a PID
	// if it is unknown.
	Owner Process
}

// Kind is the kind of a directory's process.
type Kind string

// The kinds.
const (
	KindStorage Kind = ""          // a qemu-storage-daemon
	KindHelper  Kind = "pr-helper" // a qemu-pr-helper
)

func (k Kind) name() string {
	if k == KindHelper {
		return "reservation helper"
	}
	return "storage daemon"
}

// state is the content of daemon.json.
type state struct {
	Process
	Program string  `json:"program"`
	Monitor string  `json:"monitor"` // names in the directory
	Socket  string  `json:"socket"`
	Kind    Kind    `json:"kind,omitempty"`
	Owner   Process `json:"owner,omitzero"`
}

const (
	maxState  = 64 << 10 // bytes
	maxStderr = 4 << 10  // bytes that are read, from the end
)

// Inspect returns what is known of the daemon of a directory, without a connection
// to its monitor. The error wraps [ErrNotRunning] if there is none, and [ErrDirectory] if
// the directory cannot be a daemon's.
func Inspect(dir string) (Info, error) {
	d, err := openDirectory(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("%w in %s: %w", ErrNotRunning, dir, err)
	}
	if err != nil {
		return Info{}, err
	}
	defer d.close()
	s, h, err := d.running()
	if err != nil {
		return Info{}, err
	}
	h.Close()
	return d.info(s), nil
}

func (d *directory) info(s state) Info {
	i := Info{Process: s.Process, Program: s.Program, Dir: d.path, Kind: s.Kind, Owner: s.Owner}
	if s.Kind == KindHelper {
		i.Socket = HelperSocket(d.path)
	} else {
		i.Socket, i.Monitor = filepath.Join(d.path, socketName), filepath.Join(d.path, monitorName)
	}
	return i
}

// running returns the state of the directory's daemon and a handle of its process, which
// the caller closes. The error wraps ErrNotRunning if there is none.
func (d *directory) running() (state, *hostproc.Handle, error) {
	s, err := d.readState()
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil, fmt.Errorf("%w in %s", ErrNotRunning, d.path)
	}
	if err != nil {
		return s, nil, err
	}
	h, err := s.open(d.owner)
	if errors.Is(err, hostproc.ErrEnded) {
		return s, nil, fmt.Errorf("%w in %s: %w", ErrNotRunning, d.path, err)
	}
	return s, h, err
}

// open returns a handle of the daemon's process, which has to run as owner. The error
// wraps hostproc.ErrEnded if it has ended.
func (s state) open(owner uint32) (*hostproc.Handle, error) {
	h, err := s.Open()
	if err != nil {
		return nil, err
	}
	ids, err := h.UserIDs()
	for _, id := range ids {
		if id != owner {
			err = fmt.Errorf("process %d runs as user %d, not as user %d: %w", s.PID, id, owner, ErrDirectory)
		}
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// readState reads daemon.json. The error wraps fs.ErrNotExist if there is none.
func (d *directory) readState() (state, error) {
	var s state
	data, err := d.readRegular(stateName)
	if err != nil {
		return s, err
	}
	if err := qapi.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s/%s: %w: %w", d.path, stateName, err, ErrDirectory)
	}
	// Some system calls take 0 and negative numbers for groups of processes, and a start
	// time of 0 would match any process.
	if s.PID <= 1 || s.Start == 0 {
		return s, fmt.Errorf("%s/%s names no process (remove the directory if nothing uses it): %w", d.path, stateName, ErrDirectory)
	}
	return s, nil
}

// readRegular reads a small file of the directory. It does not block on what another user
// may have put there: a pipe, or a file without an end.
func (d *directory) readRegular(name string) ([]byte, error) {
	file, err := fsutil.OpenRegular(d.file, name)
	var data []byte
	if err == nil {
		data, err = io.ReadAll(io.LimitReader(file, maxState+1))
		_ = file.Close() // only read
	}
	if errors.Is(err, fsutil.ErrNotRegular) || len(data) > maxState {
		return nil, fmt.Errorf("%s/%s is not a small regular file: %w", d.path, name, ErrDirectory)
	}
	return data, err
}

// writeState replaces daemon.json as a whole.
func (d *directory) writeState(s state, user *Credential) error {
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	o := fsutil.Options{Mode: 0o600, Temporary: newState}
	if user != nil {
		o.Owner = &fsutil.Owner{UID: int(user.UID), GID: int(user.GID)}
	}
	if err := fsutil.Replace(d.file, stateName, append(data, '\n'), o); err != nil {
		return fmt.Errorf("%s/%s: %w", d.path, stateName, err)
	}
	return nil
}

// lastWords returns the last line of the daemon's standard error.
func lastWords(stderr *os.File) string {
	info, err := stderr.Stat()
	if err != nil {
		return ""
	}
	from := max(0, info.Size()-maxStderr)
	data, err := io.ReadAll(io.NewSectionReader(stderr, from, maxStderr))
	if err != nil {
		return ""
	}
	lines := strings.Split(strings.TrimSpace(string(data)), "\n")
	return strings.TrimSpace(lines[len(lines)-1])
}
