package peer

import (
	"context"
	"encoding/base64"
	"fmt"
	"strconv"
	"strings"
)

// commandLimit bounds a command, which in base64 has to fit into a terminal's input buffer of 4096 bytes.
const commandLimit = 2900

// Guest is the shell of the small Linux guest on its second serial port. It may be used by several
// goroutines; their commands run one after another.
type Guest struct {
	*link
	booted bool
}

// ExitError is returned by [Guest.Run] for a command with an exit status other than 0.
type ExitError struct {
	Command string
	Status  int
	Output  string
}

// Error names the command, its status and its output.
func (e *ExitError) Error() string {
	return fmt.Sprintf("guest: %q: exit status %d: %s", e.Command, e.Status, strings.TrimSpace(e.Output))
}

// dialGuest connects to the socket of the serial port. It must happen before the guest is ready: QEMU drops
// output while no client is connected.
func dialGuest(ctx context.Context, socket string) (*Guest, error) {
	l, err := dialLink(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	return &Guest{link: l}, nil
}

// WaitBoot returns when the guest accepts commands. Run calls it by itself.
func (g *Guest) WaitBoot(ctx context.Context) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.waitBoot(ctx)
}

// waitBoot is WaitBoot under the lock.
func (g *Guest) waitBoot(ctx context.Context) error {
	if g.booted {
		return nil
	}
	defer g.bound(ctx)()
	for {
		line, err := g.r.ReadString('\n')
		if err != nil {
			return g.failed(ctx, "wait for the guest to boot", err)
		}
		if strings.TrimSpace(line) == guestReady {
			g.booted = true
			return nil
		}
	}
}

// Run runs a shell command in the guest and returns its standard output and error. A status other than 0 is
// an *ExitError. If ctx ends first, the command continues in the guest, and a later Run waits for it.
func (g *Guest) Run(ctx context.Context, command string) (string, error) {
	if len(command) > commandLimit {
		return "", fmt.Errorf("guest: command of %d bytes is longer than %d", len(command), commandLimit)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if err := g.waitBoot(ctx); err != nil {
		return "", err
	}
	defer g.bound(ctx)()
	marker := randomText(markerPrefix)
	line := marker + " " + base64.StdEncoding.EncodeToString([]byte(command)) + "\n"
	if _, err := g.conn.Write([]byte(line)); err != nil {
		return "", g.failed(ctx, "send a command to the guest", err)
	}
	var out strings.Builder
	for {
		got, err := g.r.ReadString('\n')
		if err != nil {
			return out.String(), g.failed(ctx, fmt.Sprintf("run %q in the guest", command), err)
		}
		if got == guestReady+"\n" {
			return out.String(), fmt.Errorf("guest: restarted during %q", command)
		}
		if rest, ok := strings.CutPrefix(got, marker+" "); ok {
			return finish(command, out.String(), rest)
		}
		if strings.HasPrefix(got, markerPrefix) { // the end of a command that an earlier Run abandoned
			out.Reset()
			continue
		}
		out.WriteString(got)
	}
}

// finish makes the result of a command from its output and the status after the marker.
func finish(command, out, status string) (string, error) {
	out = strings.TrimSuffix(out, "\n") // init writes it before the marker
	code, err := strconv.Atoi(strings.TrimSpace(status))
	if err != nil {
		return out, fmt.Errorf("guest: unreadable exit status %q: %w", status, err)
	}
	if code != 0 {
		return out, &ExitError{Command: command, Status: code, Output: out}
	}
	return out, nil
}

// markerPrefix starts every marker, a line that ends a command's output.
const markerPrefix = "luksplug-done-"

// restarted marks the guest as not ready.
func (g *Guest) restarted() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.booted = false
}
