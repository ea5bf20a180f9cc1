package passphrase

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/internal/printable"
	"github.com/luksplug/luksplug/secrets"
)

// maxTyped is the longest line of a terminal, N_TTY_BUF_SIZE in Linux.
const maxTyped = 4096

// isTerminal reports whether f is a terminal.
func isTerminal(f *os.File) bool {
	_, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	return err == nil
}

// Ask prints the question at a terminal and reads a line without showing it, until ctx
// ends. The newline is not part of the answer. The terminal is left as it was.
func Ask(ctx context.Context, tty *os.File, question string) (*secrets.Secret, error) {
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
	if err := say(tty, printable.Line(question)+": "); err != nil {
		return nil, fmt.Errorf("prompt at the terminal: %w", err)
	}
	if err := fsutil.WaitReadable(ctx, fd); err != nil {
		_ = say(tty, "\n") // best effort, for the next prompt of the shell
		return nil, fmt.Errorf("read from the terminal: %w", err)
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
		return nil, ErrEmpty
	case !whole && n == maxTyped:
		return nil, fmt.Errorf("%w: a line of a terminal has at most %d bytes: use a file", secrets.ErrTooLong, maxTyped-1)
	}
	return secrets.New(answer), nil
}

// say writes to a terminal, which may be open for reading only.
func say(tty *os.File, text string) error {
	_, err := tty.WriteString(text)
	if !errors.Is(err, unix.EBADF) {
		return err
	}
	fd, err := unix.Open(fmt.Sprintf("/proc/self/fd/%d", tty.Fd()), unix.O_WRONLY|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { _ = unix.Close(fd) }() // nothing is lost
	_, err = unix.Write(fd, []byte(text))
	return err
}
