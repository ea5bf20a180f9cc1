package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// types answers each prompt with the next line. screen waits for the end and returns
// what was shown.
func types(t *testing.T, person *os.File, lines ...string) (screen func() string) {
	t.Helper()
	seen := make(chan string, 1)
	go func() {
		var all bytes.Buffer
		buf := make([]byte, 256)
		for len(lines) > 0 {
			n, err := person.Read(buf)
			if err != nil {
				break
			}
			all.Write(buf[:n])
			if strings.HasSuffix(all.String(), ": ") {
				_, _ = person.WriteString(lines[0]) // missing lines fail the test
				lines = lines[1:]
				all.WriteByte('\n') // so that it is not taken for a new prompt
			}
		}
		seen <- all.String()
	}()
	return func() string { return <-seen }
}

func TestAskTwice(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		lines []string
		want  string
		err   string
	}{
		{[]string{"käse sätze\n", "käse sätze\n"}, "käse sätze", ""},
		{[]string{"one\n", "two\n"}, "", "not the same"},
		{[]string{"\n"}, "", passphrase.ErrEmpty.Error()},
		{[]string{"\x04"}, "", passphrase.ErrEmpty.Error()}, // the end of the input
	} {
		tty, person := must.Terminal(t)
		before, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil {
			t.Fatal(err)
		}
		screen := types(t, person, c.lines...)
		value, err := askTwice(t.Context(), tty, "value of the secret")
		if c.err != "" {
			if err == nil || !strings.Contains(err.Error(), c.err) || value != nil {
				t.Errorf("%q: %v", c.lines, err)
			}
		} else if want := secrets.New([]byte(c.want)); err != nil || !value.Equal(want) {
			t.Errorf("%q: %v", c.lines, err)
		}
		if text := screen(); !strings.Contains(text, "value of the secret: ") || strings.Contains(text, "käse") || strings.Contains(text, "one") {
			t.Errorf("the screen shows %q", text)
		}
		after, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
		if err != nil || *after != *before {
			t.Errorf("the terminal is not as it was: %v", err)
		}
	}
}

func TestAskEndsWithContext(t *testing.T) {
	t.Parallel()
	tty, person := must.Terminal(t)
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		buf := make([]byte, 256)
		_, _ = person.Read(buf) // the prompt
		cancel()
	}()
	if value, err := passphrase.Ask(ctx, tty, "value"); !errors.Is(err, context.Canceled) || value != nil {
		t.Errorf("%v, %v", value, err)
	}
	state, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil || state.Lflag&unix.ECHO == 0 {
		t.Errorf("what is typed stays unseen: %v", err)
	}
}

func TestAskWhereThereIsNoTerminal(t *testing.T) {
	t.Parallel()
	f, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = f.Close() }() // only read
	if _, err := passphrase.Ask(t.Context(), f, "value"); !errors.Is(err, unix.ENOTTY) {
		t.Error(err)
	}
}
