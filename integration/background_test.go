package integration

import (
	"bytes"
	"context"
	"errors"
	"os/exec"
	"strings"
	"sync"
	"testing"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
)

// background is a run of the program in parallel to the test.
type background struct {
	cmd            *exec.Cmd
	started        chan struct{} // closed when cmd.Process may be used
	stdout, stderr watched
	ended          chan struct{} // closed when the program has ended
	err            error         // of cmd.Wait, after ended
}

// newBackground returns a run that is not started yet, so that a proxy's hooks can refer to it.
func newBackground() *background {
	return &background{started: make(chan struct{}), ended: make(chan struct{})}
}

// start starts the program on the monitor at address. It is killed when the test ends.
func start(ctx context.Context, t *testing.T, address string, args ...string) *background {
	t.Helper()
	return startCommand(t, program(ctx, address, args...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *background {
	t.Helper()
	b := newBackground()
	b.start(t, cmd)
	return b
}

func (b *background) start(t *testing.T, cmd *exec.Cmd) {
	t.Helper()
	b.cmd = cmd
	cmd.Stdout, cmd.Stderr = &b.stdout, &b.stderr
	must.OK(t, cmd.Start())
	close(b.started)
	go func() {
		b.err = cmd.Wait()
		close(b.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has usually ended
		<-b.ended
	})
}

// said waits for text on standard error, and reports whether it came before the program or ctx ended.
func (b *background) said(ctx context.Context, text string) bool {
	for over := false; ; {
		got, more := b.stderr.look()
		if over || strings.Contains(got, text) {
			return strings.Contains(got, text)
		}
		select {
		case <-more:
		case <-b.ended:
			over = true
		case <-ctx.Done():
			over = true
		}
	}
}

// waitStderr returns when text is on standard error.
func (b *background) waitStderr(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	if !b.said(ctx, text) {
		got, _ := b.stderr.look()
		t.Fatalf("%v has not said %q: %v\n%s", b.cmd.Args, text, ctx.Err(), got)
	}
}

// end waits for the program's end, which must not be a signal.
func (b *background) end(ctx context.Context, t *testing.T) result {
	t.Helper()
	select {
	case <-b.ended:
	case <-ctx.Done():
		t.Fatalf("%v does not end: %v", b.cmd.Args, ctx.Err())
	}
	r := b.result(t)
	if r.code < 0 {
		t.Fatalf("%v: %v\n%s", b.cmd.Args, b.err, r.stderr)
	}
	return r
}

// result waits for the program's end. The exit code of a killed program is -1.
func (b *background) result(t *testing.T) result {
	t.Helper()
	<-b.ended
	var exit *exec.ExitError
	if b.err != nil && !errors.As(b.err, &exit) {
		t.Fatal(b.err)
	}
	stdout, _ := b.stdout.look()
	stderr, _ := b.stderr.look()
	return result{b.cmd.ProcessState.ExitCode(), stdout, inText(t, stderr), stderr}
}

// isOver reports whether the program has ended.
func (b *background) isOver() bool {
	select {
	case <-b.ended:
		return true
	default:
		return false
	}
}

// kill is for a proxy's hook: it kills the program and cuts its connection before QEMU gets the command.
func (b *background) kill() peer.Verdict {
	<-b.started
	_ = b.cmd.Process.Kill()
	return peer.Verdict{Cut: peer.CutBeforeForward}
}

// wantKilled waits for the program's end, and ends the test unless it was killed.
func (b *background) wantKilled(t *testing.T) {
	t.Helper()
	if r := b.result(t); r.code != -1 {
		t.Fatalf("the program was not killed: exit code %d, %s", r.code, r.stderr)
	}
}

// watched is a buffer that reports when it has grown.
type watched struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	more chan struct{}
}

func (w *watched) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.more != nil {
		close(w.more)
		w.more = nil
	}
	return w.buf.Write(p)
}

// look returns the content, and a channel that is closed when there is more.
func (w *watched) look() (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.more == nil {
		w.more = make(chan struct{})
	}
	return w.buf.String(), w.more
}

// gate delays the commands of a proxy, from the first that changes something, until it is opened.
type gate struct {
	reached chan struct{} // closed when the first command has come
	opened  chan struct{}
	once    sync.Once
	ctx     context.Context // its end drops the delayed commands
	drop    func()
}

// gated starts a proxy with a closed gate in front of a monitor. see is called for each command before the
// gate.
func gated(ctx context.Context, t *testing.T, socket string, see func(peer.Command)) (*peer.Proxy, *gate) {
	t.Helper()
	g := &gate{reached: make(chan struct{}), opened: make(chan struct{})}
	g.ctx, g.drop = context.WithCancel(ctx)
	p := peer.NewProxy(t, socket, peer.ProxyHooks{Command: func(c peer.Command) peer.Verdict {
		see(c)
		return g.hold(c)
	}})
	// Before the proxy's own end, which waits for its hooks.
	t.Cleanup(g.drop)
	return p, g
}

func (g *gate) hold(c peer.Command) peer.Verdict {
	if c.Step == 0 {
		return peer.Verdict{}
	}
	g.once.Do(func() { close(g.reached) })
	select {
	case <-g.opened:
		return peer.Verdict{}
	case <-g.ctx.Done():
		return peer.Verdict{Cut: peer.CutBeforeForward}
	}
}

// wait returns when the first command of a run has reached the gate.
func (g *gate) wait(t *testing.T, b *background) {
	t.Helper()
	select {
	case <-g.reached:
	case <-b.ended:
		t.Fatalf("the program has ended before it changed anything: %s", b.result(t).stderr)
	case <-g.ctx.Done():
		t.Fatalf("no command that changes something has come: %v", g.ctx.Err())
	}
}

func (g *gate) open() { close(g.opened) }
