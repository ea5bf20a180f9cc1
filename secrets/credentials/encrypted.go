package credentials

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/program"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Options are the circumstances of systemd-creds. The zero value is of use.
type Options struct {
	// Timeout bounds each look-up; 0 for 30 seconds.
	Timeout time.Duration
	// Stderr is where its messages go; nil for nowhere.
	Stderr io.Writer
}

// Encrypted is a [secrets.Store] of a directory with encrypted credentials. Make one
// with [NewEncrypted].
type Encrypted struct {
	folder  string
	options Options
}

// NewEncrypted returns the store of the directory.
func NewEncrypted(folder string, o Options) *Encrypted {
	const enough = 30 * time.Second // a TPM takes its time
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	return &Encrypted{folder, o}
}

// String returns "credentials:" and the directory, percent-encoded where a URI needs
// that.
func (s *Encrypted) String() string {
	return "credentials:" + (&url.URL{Path: s.folder}).EscapedPath()
}

// Lookup implements [secrets.Store]. What systemd-creds does not decrypt is
// denied: it does not distinguish a key of another host from a changed file.
func (s *Encrypted) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	value, err := s.lookup(ctx, ref)
	return value, storecall.Fail(s, ref, err)
}

func (s *Encrypted) lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := errors.Join(ctx.Err(), ref.Validate()); err != nil {
		return nil, err
	}
	name, err := nameOf(ref)
	if err != nil {
		return nil, s.unless(err)
	}
	// An absolute path is none that systemd-creds takes for an option.
	path, err := filepath.Abs(filepath.Join(s.folder, name))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	if err := s.probe(path, name); err != nil {
		return nil, err
	}
	run := program.Program{
		Args:    []string{"systemd-creds", "decrypt", "--name=" + name, path, "-"},
		Timeout: s.options.Timeout,
		Stderr:  s.options.Stderr,
	}
	value, err := run.Run(ctx)
	var exit *program.ExitError
	if errors.As(err, &exit) {
		return nil, fmt.Errorf("%w: credential %s was encrypted to another host or name, or has been changed, or this user may not use the host's key: %w",
			secrets.ErrDenied, name, err)
	}
	return value, err
}

// unless returns err, unless there is not even a directory.
func (s *Encrypted) unless(err error) error {
	if _, statErr := os.Stat(s.folder); statErr != nil {
		return cannotOpen("the directory", statErr)
	}
	return err
}

// probe returns the reason for which systemd-creds would fail, which its messages
// do not tell.
func (s *Encrypted) probe(path, name string) error {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return s.unless(fmt.Errorf("%w: there is no credential %s", secrets.ErrNotFound, name))
	}
	if err != nil {
		return cannotOpen("credential "+name, err)
	}
	defer func() { _ = file.Close() }() // only read
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("%w: credential %s: %w", secrets.ErrUnreachable, name, err)
	}
	if !info.Mode().IsRegular() {
		return fmt.Errorf("%w: credential %s is not a regular file", secrets.ErrDenied, name)
	}
	text := base64.NewDecoder(base64.StdEncoding, file) // passes over line breaks
	if n, err := io.Copy(io.Discard, text); err != nil || n == 0 {
		return fmt.Errorf("%w: credential %s is not what systemd-creds writes", secrets.ErrDamaged, name)
	}
	return nil
}
