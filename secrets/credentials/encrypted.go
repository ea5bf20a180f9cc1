package credentials

import (
	"cmp"
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

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/program"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Options configure the runs of systemd-creds. The zero value is valid.
type Options struct {
	// Timeout limits each run; 0 means 30 seconds.
	Timeout time.Duration
	// Stderr receives its messages; nil discards them.
	Stderr io.Writer
}

// Encrypted is a [secrets.Store] of a directory with encrypted credentials. Create it
// with [NewEncrypted].
type Encrypted struct {
	dir     string
	options Options
}

// NewEncrypted returns the store of the directory.
func NewEncrypted(dir string, o Options) *Encrypted {
	return &Encrypted{dir, o}
}

// String returns "credentials:" and the directory, percent-encoded as a URI requires.
func (s *Encrypted) String() string {
	return "credentials:" + (&url.URL{Path: s.dir}).EscapedPath()
}

// Lookup implements [secrets.Store]. If systemd-creds cannot decrypt the file, the error
// wraps ErrDenied: systemd-creds does not distinguish another host's key from a changed file.
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
		return nil, s.dirErrorOr(err)
	}
	// Absolute, so that systemd-creds cannot parse it as an option.
	path, err := filepath.Abs(filepath.Join(s.dir, name))
	if err != nil {
		return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	if err := s.probe(path, name); err != nil {
		return nil, err
	}
	return s.options.decrypt(ctx, name, path, nil)
}

// Encrypt returns the value as a credential of that name, which only this host can decrypt:
// systemd-creds encrypts it under the TPM and the host's key, or the one of them that the
// host has. The error wraps ErrUnreachable if systemd-creds is missing or does not answer,
// and ErrDenied if it cannot encrypt on this host or for this user.
func (o Options) Encrypt(ctx context.Context, name string, value *secrets.Secret) (*secrets.Secret, error) {
	run := o.program("encrypt", "--name="+name, "-", "-")
	run.Input = value
	sealed, err := run.Run(ctx)
	if is[*program.ExitError](err) {
		return nil, fmt.Errorf("%w: systemd-creds cannot encrypt for this host: it has neither a TPM nor a key, or this user may not use them: %w", secrets.ErrDenied, err)
	}
	return sealed, err
}

// Decrypt returns the value of a credential that [Options.Encrypt] or systemd-creds has
// encrypted under that name. Errors are those of [Encrypted.Lookup].
func (o Options) Decrypt(ctx context.Context, name string, sealed *secrets.Secret) (*secrets.Secret, error) {
	return o.decrypt(ctx, name, "-", sealed)
}

func (o Options) decrypt(ctx context.Context, name, path string, input *secrets.Secret) (*secrets.Secret, error) {
	run := o.program("decrypt", "--name="+name, path, "-")
	run.Input = input
	value, err := run.Run(ctx)
	if is[*program.ExitError](err) {
		return nil, fmt.Errorf("%w: credential %s was encrypted to another host or name, or has been changed, or this user may not use the host's key: %w",
			secrets.ErrDenied, name, err)
	}
	return value, err
}

// program returns a run of systemd-creds.
func (o Options) program(args ...string) program.Program {
	const enough = 30 * time.Second // TPMs are slow
	return program.Program{Args: append([]string{"systemd-creds"}, args...), Timeout: cmp.Or(o.Timeout, enough), Stderr: o.Stderr}
}

func is[T error](err error) bool {
	var target T
	return errors.As(err, &target)
}

// dirErrorOr returns the error of the directory if it is not accessible, and otherwise err.
func (s *Encrypted) dirErrorOr(err error) error {
	if _, statErr := os.Stat(s.dir); statErr != nil {
		return cannotOpen("the directory", statErr)
	}
	return err
}

// probe checks for failures that the exit status of systemd-creds does not
// distinguish: a missing file, denied access, content other than base64.
func (s *Encrypted) probe(path, name string) error {
	file, err := fsutil.OpenLinked(path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.dirErrorOr(fmt.Errorf("%w: there is no credential %s", secrets.ErrNotFound, name))
	}
	if errors.Is(err, fsutil.ErrNotRegular) {
		return fmt.Errorf("%w: credential %s is not a regular file", secrets.ErrDenied, name)
	}
	if err != nil {
		return cannotOpen("credential "+name, err)
	}
	defer func() { _ = file.Close() }()                 // only read
	text := base64.NewDecoder(base64.StdEncoding, file) // ignores line breaks
	if n, err := io.Copy(io.Discard, text); err != nil || n == 0 {
		return fmt.Errorf("%w: credential %s is not in the format of systemd-creds", secrets.ErrDamaged, name)
	}
	return nil
}
