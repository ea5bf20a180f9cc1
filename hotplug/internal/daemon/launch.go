package daemon

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/hostproc"
)

const defaultTimeout = 15 * time.Second

// The wait between two attempts to connect to a process that is starting.
const (
	firstBackoff = 2 * time.Millisecond
	maxBackoff   = 50 * time.Millisecond
)

// launch starts a storage daemon or a helper in a directory.
type launch struct {
	dir, program  string
	usual, debian string // the program if it is not given, and Debian's package with it
	kind          Kind
	user          *Credential // that it runs as; nil is this process's user
	client        *Credential // may connect to the socket; nil changes nothing
	env           []string
	timeout       time.Duration
	owner         Process
	tied          bool // it is killed when this process ends
	arguments     func(Info) []string
	connect       func(context.Context, Info) error // returns nil once the process answers
}

func (l launch) start(ctx context.Context) (Info, *child, error) {
	if l.program == "" {
		l.program = l.usual
	}
	path, err := exec.LookPath(l.program)
	if err != nil {
		return Info{}, nil, fmt.Errorf("%w (it comes with QEMU; Debian has it in %s)", err, l.debian)
	}
	if l.program, err = filepath.Abs(path); err != nil { // it is started in another directory
		return Info{}, nil, err
	}
	if l.timeout <= 0 {
		l.timeout = defaultTimeout
	}
	ctx, cancel := ending.After(ctx, l.timeout)
	defer cancel()
	d, err := makeDirectory(ctx, l.dir, l.user)
	if err != nil {
		return Info{}, nil, err
	}
	defer d.close()
	info, c, err := l.startIn(ctx, d)
	if err != nil {
		return Info{}, nil, errors.Join(err, d.undo())
	}
	return info, c, nil
}

// startIn starts the process in a directory that is ready and locked.
func (l launch) startIn(ctx context.Context, d *directory) (Info, *child, error) {
	if l.kind == KindHelper {
		if err := d.removeHelperSocket(); err != nil {
			return Info{}, nil, err
		}
	}
	stderr, err := d.create(stderrName, os.O_RDWR|os.O_APPEND, l.user)
	if err != nil {
		return Info{}, nil, fmt.Errorf("start %s: %w", l.program, err)
	}
	defer func() { _ = stderr.Close() }() // the process has a descriptor of its own
	c, err := spawn(program{path: l.program, args: l.arguments(d.info(state{Kind: l.kind})), env: l.env, user: l.user, tied: l.tied}, stderr)
	if l.user != nil && errors.Is(err, fs.ErrPermission) {
		err = fmt.Errorf("as user %d: %w: only root can start it as another user, and that user must be able to run it", l.user.UID, err)
	}
	if err != nil {
		return Info{}, nil, &StartError{Program: l.program, Err: err}
	}
	info, err := l.await(ctx, d, c)
	if err != nil {
		c.kill()
		return Info{}, nil, &StartError{Program: l.program, Stderr: lastWords(stderr), Err: err}
	}
	return info, c, nil
}

// await records the new process and waits until it answers.
func (l launch) await(ctx context.Context, d *directory, c *child) (Info, error) {
	process, err := hostproc.ProcessOf(c.process.Pid)
	if errors.Is(err, hostproc.ErrEnded) {
		<-c.done
		return Info{}, c.exit()
	}
	if err != nil {
		return Info{}, err
	}
	s := state{Process: process, Program: l.program, Kind: l.kind, Owner: l.owner}
	if l.kind == KindStorage {
		s.Monitor, s.Socket = monitorName, socketName
	}
	// Before the wait, so that others find the process if this one is killed meanwhile.
	if err := d.writeState(s, l.user); err != nil {
		return Info{}, err
	}
	info := d.info(s)
	for backoff := firstBackoff; ; backoff = min(2*backoff, maxBackoff) {
		err := l.connect(ctx, info)
		if err == nil {
			break
		}
		if errors.Is(err, ErrDirectory) {
			return info, err
		}
		select {
		case <-c.done:
			return info, c.exit()
		case <-ctx.Done():
			return info, fmt.Errorf("it does not answer: %w: %w", ctx.Err(), err)
		case <-time.After(backoff):
		}
	}
	if l.client != nil {
		if err := os.Lchown(info.Socket, int(l.client.UID), int(l.client.GID)); err != nil {
			return info, fmt.Errorf("let user %d connect (only root can): %w", l.client.UID, err)
		}
	}
	return info, nil
}
