package daemon

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/qmp"
)

// Program is the daemon's program, which is looked up in PATH.
const Program = "qemu-storage-daemon"

// Options are the options of a daemon.
type Options struct {
	// Dir is the daemon's directory, at most 98 bytes long. It is created with mode 0700
	// if it does not exist; its parent has to exist. An existing one must be private, and
	// empty except for the remains of a dead daemon.
	Dir string
	// Program is the daemon, qemu-storage-daemon from PATH if empty.
	Program string
	// User runs the daemon and owns the directory; nil is this process's user. Only root
	// can choose another.
	User *Credential
	// Env are variables of its environment, NAME=value, in addition to the fixed ones:
	// the daemon inherits nothing of this process's environment.
	Env []string
	// Timeout bounds the wait until the daemon answers; 0 is 15 s.
	Timeout time.Duration
	// Owner is the process for which the daemon runs, see [Info]; the zero value if it is
	// unknown.
	Owner Process
	// Tied has the daemon killed (SIGKILL) when this process ends, however it ends. Its
	// directory then stays until [Stop] removes it.
	Tied bool
}

// Daemon is a connection to a running qemu-storage-daemon. Its methods may be called
// concurrently.
type Daemon struct {
	info   Info
	client *qmp.Client
	child  *child // nil if another process, or another Daemon, started it
}

// Start starts a daemon and waits until its monitor answers. The daemon exports nothing
// yet, and serves one NBD client at a time: the next one waits until the first has left.
//
// The daemon outlives ctx, Close and, unless it is Tied, this process; while this process lives, one goroutine
// waits for the daemon's end. If it does not come up it is killed, nothing of it is left,
// and the error is a [*StartError]. Other errors wrap [ErrRunning], [ErrDirectory] and
// [ErrPathTooLong].
func Start(ctx context.Context, o Options) (*Daemon, error) {
	d := &Daemon{}
	var err error
	d.info, d.child, err = launch{
		dir: o.Dir, program: o.Program, usual: Program, debian: "qemu-utils", user: o.User.Needed(), env: o.Env, timeout: o.Timeout, owner: o.Owner, tied: o.Tied,
		arguments: func(info Info) []string {
			// NBD is served from the start, so that an export is one command.
			return []string{
				"--chardev", "socket,id=monitor,server=on,wait=off,path=" + escape(info.Monitor),
				"--monitor", "chardev=monitor",
				"--nbd-server", "addr.type=unix,max-connections=1,addr.path=" + escape(info.Socket),
			}
		},
		connect: func(ctx context.Context, info Info) (err error) {
			d.client, err = firstConnect(ctx, info)
			return err
		},
	}.start(ctx)
	if err != nil {
		return nil, err
	}
	return d, nil
}

// escape writes a value for QEMU's option parser, to which a comma ends it.
func escape(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// firstConnect connects to a daemon that is starting. QEMU 10.0 sets its monitor up in two
// threads: it aborted when a client connected meanwhile (qobject/json-parser.c), and once,
// on a busy host, did not answer. So firstConnect waits for the NBD socket, which is created
// last, and gives up early on a client that gets no answer.
func firstConnect(ctx context.Context, info Info) (*qmp.Client, error) {
	const patience = 3 * time.Second
	if _, err := os.Lstat(info.Socket); err != nil {
		return nil, fmt.Errorf("it is not ready: %w", err)
	}
	attempt, cancel := ending.After(ctx, patience)
	defer cancel()
	return connect(attempt, info)
}

// connect connects to a daemon's monitor and checks that the daemon answers it.
func connect(ctx context.Context, info Info) (*qmp.Client, error) {
	client, err := qmp.Dial(ctx, info.Monitor)
	if err != nil {
		return nil, err
	}
	if pid, ok := client.PeerPID(); !ok || pid != info.Process.PID {
		_ = client.Close() // nothing was sent
		return nil, fmt.Errorf("%s is answered by process %d, and the storage daemon is process %d: %w",
			info.Monitor, pid, info.Process.PID, ErrDirectory)
	}
	return client, nil
}

// Open connects to the running daemon of a directory. ctx bounds the wait for its monitor:
// the error wraps qmp.ErrNoGreeting if another client uses it.
//
// The error wraps [ErrNotRunning] if the directory has no daemon or does not exist; [Stop]
// removes a stale one.
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

// Client returns the connection to the daemon's monitor, for the caller's objects and
// nodes. It ends with Close.
func (d *Daemon) Client() *qmp.Client { return d.client }

// Info returns what is known of the daemon without a query.
func (d *Daemon) Info() Info { return d.info }

// Socket returns the path of the daemon's NBD socket.
func (d *Daemon) Socket() string { return d.info.Socket }

// Close ends the connection to the monitor. The daemon and its exports stay.
func (d *Daemon) Close() error { return d.client.Close() }

// Export is a block node of the daemon that is served over NBD.
type Export struct {
	Node string // the node-name
	// Name is the name that clients ask for, and the export's id in the daemon: letters,
	// digits and "-._", a letter first.
	Name     string
	Writable bool
}

// Export serves a node at [Daemon.Socket] until the daemon ends. The error is that of
// block-export-add.
func (d *Daemon) Export(ctx context.Context, e Export) error {
	_, err := d.client.Execute(ctx, qmp.Command{Execute: "block-export-add", Arguments: qmp.Object{
		{Name: "type", Value: "nbd"}, {Name: "id", Value: e.Name}, {Name: "node-name", Value: e.Node},
		{Name: "name", Value: e.Name}, {Name: "writable", Value: e.Writable},
	}})
	return err
}
