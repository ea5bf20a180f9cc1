// Package host is the host's side of one VM: its process, its identity on this host, and
// its run directory. A running VM has a host and a monitor; a VM that is about to start
// has only a host.
package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/rundir"
	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// Host is what is known of a VM without its monitor. It is not safe for concurrent use:
// [Host.ID] and [Host.Process] cache their results.
type Host struct {
	// Name names the VM in messages, notes and overlays; "" for none.
	Name string
	// Local is true if the paths in a disk's XML are paths of this machine.
	Local bool
	// Log takes log entries.
	Log logrus.FieldLogger
	// Run and Lock are the directories of the options; "" for the defaults.
	Run, Lock string
	// Recovery bounds the recovery after a failure.
	Recovery time.Duration
	// FindID returns the VM's identity, see [Identify].
	FindID func(ctx context.Context) (string, error)
	// FindProcess returns the VM's process.
	FindProcess func(ctx context.Context) (*Process, error)

	id      string
	process *Process
}

// New returns the host of a VM with that name, "" for none. log takes log entries, nil
// discards them.
func New(name string, log logrus.FieldLogger) *Host {
	if log == nil {
		silent := logrus.New()
		silent.SetOutput(io.Discard)
		log = silent
	}
	if name != "" {
		log = log.WithField("vm", name)
	}
	return &Host{Name: name, Log: log, Recovery: defaultRecovery}
}

const defaultRecovery = 30 * time.Second

// ErrOtherHost reports that the VM does not run on this machine.
var ErrOtherHost = errors.New("the VM does not run on this machine")

// ID returns an identity of the VM that is the same for every address of its monitor on
// this host.
func (h *Host) ID(ctx context.Context) (string, error) {
	if h.id == "" {
		id, err := h.FindID(ctx)
		if err != nil {
			return "", err
		}
		h.id = id
	}
	return h.id, nil
}

// Process returns the VM's process. The error is [ErrOtherHost] for a VM on another
// machine.
func (h *Host) Process(ctx context.Context) (*Process, error) {
	if h.process != nil {
		return h.process, nil
	}
	if !h.Local {
		return nil, ErrOtherHost
	}
	p, err := h.FindProcess(ctx)
	if err == nil {
		h.process = p
	}
	return p, err
}

// Labels returns the security labels of the VM's process; none if they are unknown.
func (h *Host) Labels(ctx context.Context) Labels {
	p, err := h.Process(ctx)
	if err != nil {
		return Labels{}
	}
	return p.Labels
}

// Dir returns the VM's run directory.
func (h *Host) Dir(ctx context.Context) (rundir.VM, error) {
	base, err := rundir.BaseOf(h.Run)
	if err != nil {
		return rundir.VM{}, err
	}
	id, err := h.ID(ctx)
	if err != nil {
		return rundir.VM{}, err
	}
	dir := rundir.VM{Base: base, ID: id, Process: h.ProcessID(ctx)}
	return dir, dir.Check()
}

// ProcessID identifies the VM's process; without a PID if it is unknown.
func (h *Host) ProcessID(ctx context.Context) hostproc.Process {
	p, err := h.Process(ctx)
	if err != nil || p.PID == 0 {
		return hostproc.Process{}
	}
	id, _ := ProcessIdentity(p.PID) // the zero value for a process that has ended
	return id
}

// Own refuses a VM under whose identity this host has something of another process, with
// [outcome.ErrIdentity]. It changes nothing.
func (h *Host) Own(ctx context.Context) error {
	if !h.Local {
		return nil
	}
	dir, err := h.Dir(ctx)
	if err == nil {
		err = dir.Own()
	}
	if err != nil {
		return err
	}
	registry, err := h.Owners()
	if err != nil {
		return err
	}
	uses, err := registry.Uses(dir.ID)
	if err != nil {
		return err
	}
	for _, u := range uses {
		if dir.Foreign(u.Process) {
			return outcome.NotThatVM("the images of the disk %s were given to another VM, process %d, under the same identity %s: use the monitor of that VM", u.Target, u.Process.PID, dir.ID)
		}
	}
	return nil
}

// Disk returns what belongs to one disk in the VM's run directory.
func (h *Host) Disk(ctx context.Context, target string) (rundir.Disk, error) {
	dir, err := h.Dir(ctx)
	return dir.Disk(target), err
}

// Contents returns the contents of the VM's run directory; nothing for a VM on another
// machine.
func (h *Host) Contents(ctx context.Context) (rundir.Contents, error) {
	if !h.Local {
		return rundir.Contents{}, nil
	}
	dir, err := h.Dir(ctx)
	if err != nil {
		return rundir.Contents{}, err
	}
	return dir.Read()
}

// LockFile returns the VM's lock file, and creates its directory.
func (h *Host) LockFile(ctx context.Context) (rundir.LockFile, error) {
	id, err := h.ID(ctx)
	if err != nil {
		return rundir.LockFile{}, err
	}
	return rundir.LockFileOf(h.Lock, id)
}

// Owners returns the registry of the images that were given to QEMUs on this host. The error
// wraps [fsutil.ErrUntrusted] if another user can change it.
func (h *Host) Owners() (access.Registry, error) {
	dir := access.DefaultDir
	if h.Run != "" || os.Geteuid() != 0 {
		base, err := rundir.BaseOf(h.Run)
		if err != nil {
			return access.Registry{}, err
		}
		dir = filepath.Join(string(base), rundir.OwnersDir)
	}
	if err := fsutil.CheckDir(dir); err != nil {
		return access.Registry{}, fmt.Errorf("directory for the owners of files: %w", err)
	}
	return access.Registry{Dir: dir}, nil
}

// OverlayName returns the name of the VM in the names of its disks' overlays.
func (h *Host) OverlayName(ctx context.Context) (string, error) {
	if h.Name != "" && !strings.Contains(h.Name, "/") { // a monitor's address has a slash
		return h.Name, nil
	}
	return h.ID(ctx)
}

// Recovering returns the context for the recovery after ctx has failed.
func (h *Host) Recovering(ctx context.Context) (context.Context, context.CancelFunc) {
	return ending.After(context.WithoutCancel(ctx), h.Recovery)
}

// Entry returns the log entry of a disk.
func (h *Host) Entry(target string) logrus.FieldLogger { return h.Log.WithField("disk", target) }

// Note returns the note of a disk of this VM, with the VM's name and, if it is known, its
// process.
func (h *Host) Note(ctx context.Context, disk *blockgraph.Disk, way blockgraph.Method, uuid string) (rundir.Note, error) {
	n := rundir.Note{
		Target: disk.Target, VM: h.Name, Method: way, UUID: uuid,
		Payload: disk.Image.Source.String(), Secrets: disk.Secrets(), Recovery: disk.Recovery(),
	}
	if !disk.Encrypted() {
		n.Method = ""
	}
	if header := disk.Header(); header != nil {
		n.Header = header.Source.String()
	}
	p, err := h.Process(ctx)
	if err != nil || p.PID == 0 {
		return n, nil
	}
	n.Process, err = ProcessIdentity(p.PID)
	return n, err
}

// User returns the user that the VM's process runs as.
func (h *Host) User(ctx context.Context) (hostproc.Credential, error) {
	p, err := h.Process(ctx)
	if err != nil {
		return hostproc.Credential{}, err
	}
	if p.User == nil {
		return hostproc.Credential{}, errUserUnknown
	}
	return *p.User, nil
}

var errUserUnknown = errors.New("the user of the VM's process is unknown")
