package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// prompter returns the function that prompts at the terminal for the passphrase of a key
// store, nil if there is no terminal.
func prompter() func(context.Context, string) (*secrets.Secret, error) {
	// Standard input may be a document or a value.
	open := func() (*os.File, error) { return os.OpenFile("/dev/tty", os.O_RDWR, 0) }
	tty, err := open()
	if err != nil {
		return nil
	}
	_ = tty.Close() // nothing is lost
	return func(ctx context.Context, question string) (*secrets.Secret, error) {
		tty, err := open()
		if err != nil {
			return nil, err
		}
		defer func() { _ = tty.Close() }() // nothing is lost
		return ask(ctx, tty, question)
	}
}

// askTwice asks for a new secret twice, without showing it.
func askTwice(ctx context.Context, tty *os.File, question string) (*secrets.Secret, error) {
	first, err := ask(ctx, tty, question)
	if err != nil {
		return nil, err
	}
	second, err := ask(ctx, tty, question+", again")
	if err != nil {
		first.Wipe()
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		first.Wipe()
		return nil, errors.New("the two values are not the same: nothing was changed")
	}
	return first, nil
}

// maxTyped is the longest line of a terminal, N_TTY_BUF_SIZE in Linux.
const maxTyped = 4096

// ask prints the question and reads a line without showing it, until ctx ends. The
// terminal is left as it was.
func ask(ctx context.Context, tty *os.File, question string) (*secrets.Secret, error) {
	fd := int(tty.Fd())
	before, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, fmt.Errorf("prompt at the terminal: %w", err)
	}
	quiet := *before
	quiet.Lflag &^= unix.ECHO
	quiet.Lflag |= unix.ICANON | unix.ISIG | unix.ECHONL
	quiet.Iflag |= unix.ICRNL
	// TCSETSF drops what was typed before the question.
	if err := unix.IoctlSetTermios(fd, unix.TCSETSF, &quiet); err != nil {
		return nil, fmt.Errorf("prompt at the terminal: %w", err)
	}
	defer func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, before) }() // best effort
	if _, err := fmt.Fprintf(tty, "%s: ", printable.Line(question)); err != nil {
		return nil, fmt.Errorf("prompt at the terminal: %w", err)
	}
	if err := readable(ctx, fd); err != nil {
		_, _ = io.WriteString(tty, "\n") // best effort, for the next prompt of the shell
		return nil, err
	}
	line := make([]byte, maxTyped)
	defer clear(line)
	n, err := unix.Read(fd, line)
	if err != nil {
		return nil, fmt.Errorf("read from the terminal: %w", err)
	}
	answer, whole := bytes.CutSuffix(line[:n], []byte("\n"))
	switch {
	case len(answer) == 0:
		return nil, passphrase.ErrEmpty
	case !whole && n == maxTyped:
		return nil, fmt.Errorf("%w: a line of a terminal has at most %d bytes: use a file", secrets.ErrTooLong, maxTyped-1)
	}
	return secrets.New(answer), nil
}

// readable waits until there is something to read.
func readable(ctx context.Context, fd int) error {
	const poll = 100 // milliseconds
	for {
		if err := ctx.Err(); err != nil {
			return err
		}
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(fd), Events: unix.POLLIN}}, poll)
		if n > 0 {
			return nil
		}
		if err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("read from the terminal: %w", err)
		}
	}
}

// confirm asks at the terminal whether to do what, and returns an error unless the answer
// is yes.
func confirm(a *app, what string) error {
	if !isTerminal(a.in) {
		return &usageError{errors.New("nothing was changed: there is no terminal to confirm at, so give --yes")}
	}
	if _, err := fmt.Fprintf(a.err, "luksplug: %s? [y/N] ", printable.Line(what)); err != nil {
		return err
	}
	var answer string
	if _, err := fmt.Fscanln(a.in, &answer); err != nil && !errors.Is(err, io.EOF) && answer != "" {
		return err
	}
	if answer = strings.ToLower(answer); answer != "y" && answer != "yes" {
		return errors.New("nothing was changed")
	}
	return nil
}
