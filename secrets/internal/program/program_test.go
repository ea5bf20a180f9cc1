package program_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/program"
)

func Example() {
	p := program.Program{Args: []string{"/bin/sh", "-c", `printf %s "$WHO"; cat`}, Env: []string{"WHO=world"}, Timeout: time.Minute}
	value, err := p.Run(context.Background())
	fmt.Println(value.Len(), err)
	p.Args[2] = "exit 7"
	_, err = p.Run(context.Background())
	fmt.Println(err)
	// Output:
	// 5 <nil>
	// /bin/sh ended with status 7 (its messages are on standard error)
}

// Cancellation by the caller gives another error than the program's own
// time-out.
func TestContext(t *testing.T) {
	t.Parallel()
	p := program.Program{Args: []string{"/bin/sleep", "3600"}, Timeout: time.Hour}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if _, err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) || errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
	if _, err := p.Run(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("cancelled before the start: %v", err)
	}
}

// A child that outlives the program and keeps standard error open delays Run only
// briefly.
func TestChildThatIsLeft(t *testing.T) {
	t.Parallel()
	var messages bytes.Buffer
	p := program.Program{Args: []string{"/bin/sh", "-c", "echo said >&2; sleep 3600 >/dev/null & echo $! >&2; printf value"}, Timeout: time.Minute, Stderr: &messages}
	value, err := p.Run(t.Context())
	if err != nil || value.Len() != len("value") {
		t.Fatal(err)
	}
	said, pid, _ := strings.Cut(messages.String(), "\n")
	child, err := strconv.Atoi(strings.TrimSpace(pid))
	if err != nil || said != "said" {
		t.Fatalf("the messages are %q", messages.String())
	}
	if err := syscall.Kill(child, syscall.SIGKILL); err != nil {
		t.Errorf("the child has ended: %v", err)
	}
}
