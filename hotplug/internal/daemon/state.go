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
)

// Process identifies one process of this machine, also after its id is used
// again.
type Process = hostproc.Process

// Credential is the user and the groups that a process runs with.
type Credential = hostproc.Credential

// Info is what is known of a daemon without asking it.
type Info struct {
	Process Process
	Program string // its path
	Dir     string
	Socket  string // of NBD, or where a helper listens
	Monitor string // the socket of QMP; a helper has none
	Kind    Kind
}

// Kind is what a process in a folder is there for.
type Kind string

// The kinds.
const (
	KindStorage Kind = ""          // a qemu-storage-daemon
	KindHelper  Kind = "pr-helper" // a qemu-pr-helper
)

// name is what errors call it.
func (k Kind) name() string {
	if k == KindHelper {
		return "reservation helper"
	}
	return "storage daemon"
}

// state is the content of daemon.json.
type state struct {
	Process
	Program string `json:"program"`
	Monitor string `json:"monitor"` // names within the folder
	Socket  string `json:"socket"`
	Kind    Kind   `json:"kind,omitempty"`
}

const (
	maxState  = 64 << 10 // bytes; what is larger is not ours
	maxStderr = 4 << 10  // bytes from the end that are looked at
)

// Inspect returns what is known of the daemon of a folder, without a connection
// to its monitor. The error is ErrNotRunning if there is none, ErrFolder if the
// folder is not fit to be a daemon's.
func Inspect(dir string) (Info, error) {
	f, err := openFolder(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return Info{}, fmt.Errorf("%w in %s: %w", ErrNotRunning, dir, err)
	}
	if err != nil {
		return Info{}, err
	}
	defer f.close()
	s, h, err := f.running()
	if err != nil {
		return Info{}, err
	}
	h.Close()
	return f.info(s), nil
}

func (f *folder) info(s state) Info {
	if s.Kind == KindHelper {
		return Info{Process: s.Process, Program: s.Program, Dir: f.path, Socket: HelperSocket(f.path), Kind: s.Kind}
	}
	return Info{
		Process: s.Process,
		Program: s.Program,
		Dir:     f.path,
		Socket:  filepath.Join(f.path, socketName),
		Monitor: filepath.Join(f.path, monitorName),
	}
}

// running returns the state of the folder's daemon and a handle of its process,
// which the caller closes. The error is ErrNotRunning if there is none.
func (f *folder) running() (state, *hostproc.Handle, error) {
	s, err := f.readState()
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil, fmt.Errorf("%w in %s", ErrNotRunning, f.path)
	}
	if err != nil {
		return s, nil, err
	}
	h, err := s.open(f.owner)
	if errors.Is(err, hostproc.ErrEnded) {
		return s, nil, fmt.Errorf("%w in %s: %w", ErrNotRunning, f.path, err)
	}
	return s, h, err
}

// open returns a handle of the daemon's process, which runs as owner. The error is
// hostproc.ErrEnded if it has ended.
func (s state) open(owner uint32) (*hostproc.Handle, error) {
	h, err := s.Process.Open()
	if err != nil {
		return nil, err
	}
	ids, err := h.UserIDs()
	for _, id := range ids {
		if id != owner {
			err = fmt.Errorf("process %d runs as user %d, not as user %d: %w", s.PID, id, owner, ErrFolder)
		}
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// readState reads daemon.json. The error wraps fs.ErrNotExist if there is none.
func (f *folder) readState() (state, error) {
	var s state
	data, err := f.readRegular(stateName)
	if err != nil {
		return s, err
	}
	if err := json.Unmarshal(data, &s); err != nil {
		return s, fmt.Errorf("%s/%s: %w: %w", f.path, stateName, err, ErrFolder)
	}
	// 0 and negative numbers are groups of processes to some system calls, and
	// a start time of 0 would take any process.
	if s.PID <= 1 || s.Start == 0 {
		return s, fmt.Errorf("%s/%s names no process (remove the folder if nothing uses it): %w", f.path, stateName, ErrFolder)
	}
	return s, nil
}

// readRegular reads a small file of the folder. The folder may be another user's,
// so neither a pipe nor a file without an end may hold us up.
func (f *folder) readRegular(name string) ([]byte, error) {
	file, err := fsutil.OpenRegular(f.file, name)
	if errors.Is(err, fsutil.ErrNotRegular) {
		return nil, fmt.Errorf("%s/%s is not a small regular file: %w", f.path, name, ErrFolder)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }() // read only
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if info.Size() > maxState {
		return nil, fmt.Errorf("%s/%s is not a small regular file: %w", f.path, name, ErrFolder)
	}
	return io.ReadAll(io.LimitReader(file, maxState))
}

// writeState writes daemon.json, so that whoever reads it finds all or nothing.
func (f *folder) writeState(s state, user *Credential) error {
	data, err := json.MarshalIndent(s, "", "\t")
	if err != nil {
		return err
	}
	o := fsutil.Options{Mode: 0o600, Temporary: newState}
	if user != nil {
		o.Owner = &fsutil.Owner{UID: int(user.UID), GID: int(user.GID)}
	}
	if err := fsutil.Replace(f.file, stateName, append(data, '\n'), o); err != nil {
		return fmt.Errorf("%s/%s: %w", f.path, stateName, err)
	}
	return nil
}

// create makes a new file that belongs to the daemon's user. O_EXCL keeps it from
// following a link that this user has put there.
func (f *folder) create(name string, flag int, user *Credential) (*os.File, error) {
	file, err := f.root.OpenFile(name, flag|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	if user != nil {
		uid, gid := user.Owner()
		if err := file.Chown(uid, gid); err != nil {
			_ = file.Close() // empty
			return nil, err
		}
	}
	return file, nil
}

// lastWords returns the last line of what the daemon wrote to its standard error.
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
