package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/qmp"
)

// Program is the daemon's program, as it is found in PATH.
const Program = "qemu-storage-daemon"

// defaultTimeout is Options.Timeout where it is 0.
const defaultTimeout = 15 * time.Second

// The wait between two attempts to connect to a daemon that is coming up.
const (
	firstBackoff = 2 * time.Millisecond
	maxBackoff   = 50 * time.Millisecond
)

// Options say how to start a daemon.
type Options struct {
	// Dir is the daemon's folder, at most 98 bytes long. It is made with mode
	// 0700 if it is not there, its parent is not. One that is there must be
	// private and empty, except for what a dead daemon left.
	Dir string
	// Program is the daemon, qemu-storage-daemon from PATH if empty.
	Program string
	// User is as whom it runs, and whom the folder belongs to; nil is
	// ourselves. Only root can choose another.
	User *Credential
	// Env are variables of its environment, NAME=value, besides those that it
	// always gets: nothing of this process's environment reaches it.
	Env []string
	// Clients is how many NBD clients are served at once, 0 is 1: a VM's QEMU is
	// one, and who comes in second waits until it has left. A QEMU that
	// reconnects has left when the daemon has finished its last requests.
	Clients int
	// Timeout bounds the wait until the daemon answers; 0 is 15 s.
	Timeout time.Duration
}

// Daemon is a connection to a running qemu-storage-daemon. Its methods may be
// called from any number of goroutines at once.
type Daemon struct {
	info   Info
	client *qmp.Client
	child  *child // nil if another process, or another Daemon, started it
}

// Start starts a daemon and waits until its monitor answers. It exports nothing
// yet.
//
// The daemon goes on when ctx ends later, after Close, and when this process
// ends; while this process lives, one goroutine waits for the daemon's end. A
// daemon that does not come up is killed; the error is a [StartError] with its last
// words, and nothing is left. It is [ErrRunning] if the folder has a daemon
// already, [ErrFolder] or [ErrPathTooLong] if the folder is not fit for one.
func Start(ctx context.Context, o Options) (*Daemon, error) {
	program, err := lookUp(o.Program, Program, "qemu-utils")
	if err != nil {
		return nil, err
	}
	if o.Timeout <= 0 {
		o.Timeout = defaultTimeout
	}
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	o.User = o.User.Needed()
	f, err := makeFolder(ctx, o.Dir, o.User)
	if err != nil {
		return nil, err
	}
	defer f.close()
	d, err := f.start(ctx, program, o)
	if err == nil {
		return d, nil
	}
	return nil, errors.Join(err, f.undo())
}

// lookUp returns the absolute path of the program, or of the usual one, which
// Debian has in that package.
func lookUp(program, usual, debian string) (string, error) {
	if program == "" {
		program = usual
	}
	path, err := exec.LookPath(program)
	if err != nil {
		return "", fmt.Errorf("%w (it comes with QEMU; Debian has it in %s)", err, debian)
	}
	return filepath.Abs(path) // it is started in another working folder
}

// start starts the daemon in a folder that is ready and locked.
func (f *folder) start(ctx context.Context, program string, o Options) (*Daemon, error) {
	stderr, err := f.create(stderrName, os.O_RDWR|os.O_APPEND, o.User)
	if err != nil {
		return nil, fmt.Errorf("start %s: %w", program, err)
	}
	defer func() { _ = stderr.Close() }() // the daemon writes it, by its own descriptor
	c, err := spawn(program, f.arguments(o.Clients), stderr, o)
	if err != nil {
		return nil, &StartError{Program: program, Err: explain(err, o.User)}
	}
	d, err := f.await(ctx, program, c, o.User)
	if err != nil {
		c.kill()
		return nil, &StartError{Program: program, Stderr: lastWords(stderr), Err: err}
	}
	return d, nil
}

// arguments returns the daemon's. NBD is served from the start, so that an export
// is one command; nobody knows of it before there is one.
func (f *folder) arguments(clients int) []string {
	info := f.info(state{})
	return []string{
		"--chardev", "socket,id=monitor,server=on,wait=off,path=" + escape(info.Monitor),
		"--monitor", "chardev=monitor",
		"--nbd-server", "addr.type=unix,max-connections=" + strconv.Itoa(max(clients, 1)) + ",addr.path=" + escape(info.Socket),
	}
}

// escape writes a value for QEMU's option parser, to which a comma ends it.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// explain adds what to do to an error of spawn.
func explain(err error, user *Credential) error {
	if user != nil && errors.Is(err, fs.ErrPermission) {
		return fmt.Errorf("as user %d: %w: only root can start it as another user, and that user must be able to run it", user.UID, err)
	}
	return err
}

// await records the new daemon and waits until it answers.
func (f *folder) await(ctx context.Context, program string, c *child, user *Credential) (*Daemon, error) {
	process, err := hostproc.ProcessOf(c.process.Pid)
	if errors.Is(err, hostproc.ErrEnded) {
		<-c.done
		return nil, c.exit()
	}
	if err != nil {
		return nil, err
	}
	s := state{Process: process, Program: program, Monitor: monitorName, Socket: socketName}
	// Before the wait: if we die in it, others find the process all the same.
	if err := f.writeState(s, user); err != nil {
		return nil, err
	}
	info := f.info(s)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		client, err := firstConnect(ctx, info)
		if err == nil {
			return &Daemon{info: info, client: client, child: c}, nil
		}
		if errors.Is(err, ErrFolder) {
			return nil, err
		}
		select {
		case <-c.done:
			return nil, c.exit()
		case <-ctx.Done():
			return nil, fmt.Errorf("its monitor does not answer: %w: %w", ctx.Err(), err)
		case <-time.After(backoff):
		}
	}
}

// firstConnect connects to a daemon that is starting. QEMU 10.0 sets its monitor up in
// two threads: a client that came meanwhile has had it abort (qobject/json-parser.c),
// and once, on a busy host, was not answered. So the monitor is left alone until the
// NBD socket is there, which is made last, and a client that gets no answer is replaced
// by another.
func firstConnect(ctx context.Context, info Info) (*qmp.Client, error) {
	const patience = 3 * time.Second
	if _, err := os.Lstat(info.Socket); err != nil {
		return nil, fmt.Errorf("it is not ready: %w", err)
	}
	attempt, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	return connect(attempt, info)
}

// connect connects to a daemon's monitor and makes sure who it is that answers.
func connect(ctx context.Context, info Info) (*qmp.Client, error) {
	client, err := qmp.Dial(ctx, info.Monitor)
	if err != nil {
		return nil, err
	}
	if pid, ok := client.PeerPID(); !ok || pid != info.Process.PID {
		_ = client.Close() // nothing is under way
		return nil, fmt.Errorf("%s is answered by process %d, and the storage daemon is process %d: %w",
			info.Monitor, pid, info.Process.PID, ErrFolder)
	}
	return client, nil
}

// Open connects to the running daemon of a folder. ctx bounds the wait for its
// monitor, which is in vain (qmp.ErrNoGreeting) while another client has it.
//
// The error is [ErrNotRunning] if the folder has no daemon or is not there; [Stop]
// clears a stale one away.
func Open(ctx context.Context, dir string) (*Daemon, error) {
	info, err := Inspect(dir)
	if err != nil {
		return nil, err
	}
	client, err := connect(ctx, info)
	if err == nil {
		return &Daemon{info: info, client: client}, nil
	}
	if _, gone := Inspect(dir); errors.Is(gone, ErrNotRunning) {
		return nil, gone
	}
	return nil, fmt.Errorf("storage daemon in %s: %w", dir, err)
}

// Client is the connection to the daemon's monitor, for the objects and nodes that
// are the caller's affair. It ends with Close.
func (d *Daemon) Client() *qmp.Client { return d.client }

// Info is what is known of the daemon without asking it.
func (d *Daemon) Info() Info { return d.info }

// PID is the number of the daemon's process.
func (d *Daemon) PID() int { return d.info.Process.PID }

// Socket is the path of the socket at which the daemon serves NBD.
func (d *Daemon) Socket() string { return d.info.Socket }

// Close ends the connection to the monitor. The daemon and its exports go on.
func (d *Daemon) Close() error { return d.client.Close() }
