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
)

// background is a run of the program beside the test.
type background struct {
	cmd            *exec.Cmd
	stdout, stderr watched
	ended          chan struct{} // closed when the program has ended
	err            error         // of cmd.Wait, after ended
}

// start starts the program on the monitor at address. The test's end kills it.
func start(ctx context.Context, t *testing.T, address string, args ...string) *background {
	t.Helper()
	return startCommand(t, exec.CommandContext(ctx, luksplug, append([]string{"--qmp", address}, args...)...))
}

func startCommand(t *testing.T, cmd *exec.Cmd) *background {
	t.Helper()
	b := &background{cmd: cmd, ended: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = &b.stdout, &b.stderr
	check(t, cmd.Start())
	go func() {
		b.err = cmd.Wait()
		close(b.ended)
	}()
	t.Cleanup(func() {
		_ = cmd.Process.Kill() // it has ended, as a rule
		<-b.ended
	})
	return b
}

// waitStderr returns when text is on standard error.
func (b *background) waitStderr(ctx context.Context, t *testing.T, text string) {
	t.Helper()
	for {
		got, more := b.stderr.look()
		if strings.Contains(got, text) {
			return
		}
		select {
		case <-more:
		case <-b.ended:
			if got, _ := b.stderr.look(); !strings.Contains(got, text) {
				t.Fatalf("%v ended (%v) and has not said %q:\n%s", b.cmd.Args, b.err, text, got)
			}
			return
		case <-ctx.Done():
			t.Fatalf("%v has not said %q: %v\n%s", b.cmd.Args, text, ctx.Err(), got)
		}
	}
}

// end waits for the program's end.
func (b *background) end(ctx context.Context, t *testing.T) result {
	t.Helper()
	select {
	case <-b.ended:
	case <-ctx.Done():
		t.Fatalf("%v does not end: %v", b.cmd.Args, ctx.Err())
	}
	stdout, _ := b.stdout.look()
	stderr, _ := b.stderr.look()
	var exit *exec.ExitError
	if b.err != nil && (!errors.As(b.err, &exit) || exit.ExitCode() < 0) {
		t.Fatalf("%v: %v\n%s", b.cmd.Args, b.err, stderr)
	}
	return result{b.cmd.ProcessState.ExitCode(), stdout, stderr}
}

// watched is a buffer that tells when it has grown.
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

// look returns what has been written, and a channel that is closed when more
// comes.
func (w *watched) look() (string, <-chan struct{}) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.more == nil {
		w.more = make(chan struct{})
	}
	return w.buf.String(), w.more
}

// gate holds the commands of a proxy back, from the first that changes
// something, until it is opened.
type gate struct {
	reached chan struct{} // closed when the first command has come
	opened  chan struct{}
	once    sync.Once
	ctx     context.Context // its end drops what is held
	drop    func()
}

// gated starts a proxy with a closed gate in front of the monitor at socket.
// see is called for each command, before it is held.
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

// wait returns when the first command has come.
func (g *gate) wait(t *testing.T) {
	t.Helper()
	select {
	case <-g.reached:
	case <-g.ctx.Done():
		t.Fatalf("no command that changes something has come: %v", g.ctx.Err())
	}
}

func (g *gate) open() { close(g.opened) }
