package volume

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Keys defines a secret in a key store, and returns the store. The secret must be new: Create sets its value.
type Keys func(ctx context.Context, d secrets.Document) (secrets.Keeper, error)

// Volume is a volume that has been made.
type Volume struct {
	Path, Header string
	Format       blockgraph.Format
	Block        bool  // Path is a block device
	Size         int64 // of the guest's disk
	UUID         string
	Secret       secrets.Document
	// Store has the secret that was made.
	Store secrets.Keeper // nil if Create was called without Keys
	// Born is when the data key was made, in seconds and UTC. A LUKS2 header has it, and the document of the secret, unless
	// Unrecorded is why not.
	Born       time.Time
	Unrecorded error
	// LUKS is the header as it was written.
	LUKS *luks.Header
	// Backing are the images below the image, the upper one first.
	Backing []diskxml.LocalLayer
	// Warnings are what the user has to know about the volume.
	Warnings []string
}

// ErrRequest reports that a request contradicts itself or asks for what no volume has.
var ErrRequest = errors.New("such a volume cannot be made")

// ErrUnsupported reports that this program cannot make a header as requested.
var ErrUnsupported = errors.New("such a LUKS header cannot be made")

// ErrExists reports that there is a file with the name of the volume or its header already, or a secret with its UUID.
// It was not changed.
var ErrExists = errors.New("exists already, and may hold data")

// LeftError reports what a failed [Create] could not remove.
type LeftError struct {
	Err  error
	Left []string
}

func (e *LeftError) Error() string { return fmt.Sprintf("%v; left behind: %q", e.Err, e.Left) }

// Unwrap returns the first error.
func (e *LeftError) Unwrap() error { return e.Err }

// Defaults of a request.
const (
	defaultUnlock = 2 * time.Second
	defaultMode   = 0o600
	// passphraseBytes is the entropy of a random passphrase.
	passphraseBytes = 32
	// argon2Limit is the memory of a derivation by Argon2id, in bytes. cryptsetup takes up to 1 GiB, which every unlocking
	// takes as well.
	argon2Limit = 256 << 20
)

// Create makes a volume. Errors before the first change wrap [ErrRequest], [ErrExists], [ErrInUse], [ErrSignature],
// [ErrAttached], [ErrBacking], [ErrNoRoom], [ErrUnsupported] or secrets.ErrInvalidDocument; later ones are those of keys, of
// the file system, which wrap [ErrLabel] for a label, and of qemu-img. A [*LeftError] tells what is left, which is nothing
// otherwise. ctx also bounds the derivation of the key, and a preallocation.
//
// keys stores the passphrase. It is nil for a secret that exists, whose value is r.Passphrase. The birth of the data key is
// recorded in the document of the secret before a header is written, and stays unknown with LUKS1 if that is not possible.
func Create(ctx context.Context, r Request, keys Keys) (_ *Volume, err error) {
	named := r.Secret.UUID != uuid.Nil
	if r, err = r.complete(); err == nil && keys == nil && r.Passphrase == nil {
		err = fmt.Errorf("%w: there is neither a passphrase nor a key store for a new one", ErrRequest)
	}
	if err != nil {
		return nil, fmt.Errorf("make the volume: %w", err)
	}
	c := &creation{Request: r, named: named, begin: begin, born: time.Now().UTC().Truncate(time.Second)}
	defer func() { c.place.close() }()
	if r.LUKS.Version == 2 {
		c.LUKS.Birth = c.born
	}
	v, err := c.run(ctx, keys)
	if err != nil {
		err = fmt.Errorf("make the volume: %w", err)
		if left := c.undo(context.WithoutCancel(ctx)); len(left) > 0 {
			err = &LeftError{err, left}
		}
		return nil, err
	}
	return v, nil
}

// Check makes the checks that [Create] makes before its first change, and returns the volume as it would be, without UUID
// and LUKS header. It changes nothing, and asks no key store.
func Check(ctx context.Context, r Request) (*Volume, error) {
	r, err := r.complete()
	if err != nil {
		return nil, fmt.Errorf("check the volume: %w", err)
	}
	p, err := r.examine(ctx)
	defer p.close()
	if err != nil {
		return nil, fmt.Errorf("check the volume: %w", err)
	}
	for _, path := range []string{r.Path, r.Header} {
		if path == "" || path == r.Path && p.device != nil {
			continue
		}
		if err := unix.Faccessat(unix.AT_FDCWD, filepath.Dir(path), unix.W_OK, unix.AT_EACCESS); err != nil {
			return nil, fmt.Errorf("check the volume: %w", &fs.PathError{Op: "write to the directory", Path: filepath.Dir(path), Err: err})
		}
	}
	return p.volume(r), nil
}

// volume returns what is known of the volume before it is made.
func (p place) volume(r Request) *Volume {
	return &Volume{Path: r.Path, Header: r.Header, Format: r.Format, Block: p.device != nil, Size: p.size, Secret: r.Secret, Backing: p.backing, Warnings: p.warnings}
}

// creation is one run of Create, with what it has made so far.
type creation struct {
	Request
	place   place
	named   bool // the caller has chosen the secret's UUID
	born    time.Time
	begin   beginning
	outputs []output
	keeper  secrets.Keeper // has the secret; nil before
	// recording is true from before the birth was recorded in the document of a secret that exists.
	recording bool
}

func (c *creation) run(ctx context.Context, keys Keys) (_ *Volume, err error) {
	if c.place, err = c.examine(ctx); err != nil {
		return nil, err
	}
	c.Size = c.place.size
	passphrase, cost, err := c.passphrase(ctx)
	if err != nil {
		return nil, err
	}
	if c.Passphrase == nil {
		defer passphrase.Wipe()
	}
	unrecorded, err := c.keep(ctx, keys, passphrase)
	if err != nil {
		return nil, err
	}
	header, err := c.header(ctx, passphrase, cost)
	if err == nil && c.Incomplete {
		header, err = luks.Incomplete(header)
	}
	if err != nil {
		return nil, err
	}
	if err := c.write(ctx, header); err != nil {
		return nil, err
	}
	h, err := c.readBack(ctx, passphrase)
	if err != nil {
		return nil, fmt.Errorf("read the header back: %w", err)
	}
	for _, o := range c.outputs {
		if err := o.publish(); err != nil {
			return nil, err
		}
	}
	v := c.place.volume(c.Request)
	v.UUID, v.Store, v.LUKS, v.Born, v.Unrecorded = h.UUID, c.keeper, h, c.born, unrecorded
	return v, nil
}

// store keeps the passphrase. A secret that has a value already is another volume's.
func (c *creation) store(ctx context.Context, keys Keys, passphrase *secrets.Secret) error {
	keeper, err := keys(ctx, c.Secret)
	if err != nil {
		return err
	}
	if c.named { // a random UUID has no value yet, and a store need not show values here
		switch value, err := keeper.Lookup(ctx, c.Secret.Reference()); {
		case err == nil:
			value.Wipe()
			return fmt.Errorf("the secret %s in %s %w", c.Secret.UUID, keeper, ErrExists)
		case !errors.Is(err, secrets.ErrNoValue) && !errors.Is(err, secrets.ErrNotFound):
			return err
		}
	}
	c.keeper = keeper // undo removes the secret from now on
	return keeper.Set(ctx, c.Secret.Reference(), passphrase)
}

// passphrase returns the passphrase and what deriving a key from it is to cost.
func (c *creation) passphrase(ctx context.Context) (*secrets.Secret, luks.KDF, error) {
	if c.Passphrase == nil {
		return randomPassphrase(), c.LUKS.MinimumCost(), nil
	}
	cost, err := c.LUKS.Cost(ctx, c.Unlock, argon2Limit)
	return c.Passphrase, cost, err
}

// randomPassphrase returns a passphrase that QEMU and cryptsetup take: text without a newline.
func randomPassphrase() *secrets.Secret {
	random := make([]byte, passphraseBytes)
	_, _ = rand.Read(random) // never returns an error: it crashes the program instead
	text := base64.StdEncoding.AppendEncode(nil, random)
	clear(random)
	return secrets.New(text)
}

// header returns the LUKS header with a new volume key.
func (c *creation) header(ctx context.Context, passphrase *secrets.Secret, cost luks.KDF) ([]byte, error) {
	key, err := c.LUKS.NewKey()
	if err != nil {
		return nil, err
	}
	defer key.Wipe()
	return c.LUKS.Header(ctx, key, passphrase, cost)
}

// write makes all files, under names of their own, and writes the header to a block device.
func (c *creation) write(ctx context.Context, header []byte) error {
	size, err := c.LUKS.HeaderSize()
	if err != nil {
		return err
	}
	if c.Header != "" {
		f, err := c.file(c.Header, c.Mode&0o700, nil)
		if err == nil {
			err = fill(f, header, size)
		}
		if err != nil {
			return err
		}
		header = nil
	}
	if d := c.place.device; d != nil {
		if header == nil { // it is in a file of its own
			return nil
		}
		c.outputs = append(c.outputs, d)
		return d.fill(header, c.LUKS.PayloadOffset)
	}
	f, err := c.file(c.Path, c.Mode, c.place.replaces)
	if err != nil {
		return err
	}
	if c.Format == blockgraph.FormatQcow2 {
		err = f.qcow2(ctx, c.Request, header)
	} else {
		err = fill(f, header, c.LUKS.PayloadOffset+c.Size)
	}
	if err != nil {
		return err
	}
	return f.preallocate(ctx, c.Preallocation, c.Progress)
}

// file begins a file, and remembers it for undo.
func (c *creation) file(path string, mode fs.FileMode, replaces fs.FileInfo) (newFile, error) {
	f, err := c.begin(path, c.attributes(mode, replaces), replaces)
	if f != nil {
		c.outputs = append(c.outputs, f)
	}
	if err != nil || !c.NoCOW {
		return f, err
	}
	if err = f.noCOW(); errors.Is(err, errNoCOW) {
		c.place.warnings = append(c.place.warnings, fmt.Sprintf("%s: %v", path, err))
		err = nil
	}
	return f, err
}

// undo removes what was made, and returns what could not be removed.
func (c *creation) undo(ctx context.Context) (left []string) {
	ctx, cancel := context.WithTimeout(ctx, undoWait)
	defer cancel()
	for _, o := range c.outputs {
		left = append(left, o.remove()...)
	}
	if c.recording {
		left = append(left, c.unrecord(ctx)...)
	}
	if c.keeper == nil {
		return left
	}
	if err := c.keeper.Remove(ctx, c.Secret.Reference()); err != nil && !errors.Is(err, secrets.ErrNotFound) {
		left = append(left, fmt.Sprintf("the secret %s in %s (%v)", c.Secret.UUID, c.keeper, err))
	}
	return left
}

// readBack opens the volume by what is stored, before its files get their names.
func (c *creation) readBack(ctx context.Context, passphrase *secrets.Secret) (h *luks.Header, err error) {
	reading := complete()
	if c.Incomplete {
		reading = incomplete()
	}
	err = c.outputs[0].read(func(r io.ReaderAt) error { // the one with the header is the first
		if c.Format == blockgraph.FormatQcow2 && c.Header == "" {
			q, err := reading.qcow2(r)
			if err != nil {
				return err
			}
			h = q.LUKS
		} else if h, err = reading.read(r); err != nil {
			return err
		}
		return opens(ctx, h, passphrase)
	})
	return h, err
}

// undoWait bounds the removal of the secret, which may be on a server.
const undoWait = 30 * time.Second
