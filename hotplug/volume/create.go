package volume

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// Request describes a volume to be made.
type Request struct {
	// Path is that of the image, absolute, and Header that of its LUKS header; "" is a header in the image. There must
	// be no file with these names.
	Path, Header string
	// Format is raw, the default, or qcow2.
	Format blockgraph.Format
	// Size is that of the guest's disk, in bytes, a multiple of 512.
	Size int64
	// LUKS is the header's format. Its PayloadOffset and Birth are chosen here.
	LUKS luks.Format
	// Mode is that of the image and, without access for the group and others, of the header; 0 is 0600.
	Mode fs.FileMode
	// Secret is the document of the volume's secret. Its zero UUID is a random one, and a document without usage gets
	// the volume's path as such.
	Secret secrets.Document
	// Existing is the store of a secret that exists, in whose document the birth of the data key is recorded; nil if the
	// store cannot be changed, or the secret is new.
	Existing secrets.Keeper
	// Passphrase is one that a person has chosen, so that it is worth a slow derivation; nil makes a random one. Create
	// does not wipe it.
	Passphrase *secrets.Secret
	// Unlock is how long deriving the key from Passphrase is to take on this host; 0 is two seconds.
	Unlock time.Duration
}

// Keys defines a secret in a key store, and returns the store. The secret must be new: Create sets its value.
type Keys func(ctx context.Context, d secrets.Document) (secrets.Keeper, error)

// Volume is a volume that has been made.
type Volume struct {
	Path, Header string
	Format       blockgraph.Format
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

// complete fills in the defaults and checks the request.
func (r Request) complete() (Request, error) {
	refuse := func(format string, args ...any) (Request, error) {
		return r, fmt.Errorf("%w: %s", ErrRequest, fmt.Sprintf(format, args...))
	}
	if r.Format == "" {
		r.Format = blockgraph.FormatRaw
	}
	if r.Mode == 0 {
		r.Mode = defaultMode
	}
	if r.Unlock == 0 {
		r.Unlock = defaultUnlock
	}
	switch {
	case !filepath.IsAbs(r.Path) || r.Header != "" && !filepath.IsAbs(r.Header):
		return refuse("the paths are not absolute")
	case filepath.Clean(r.Path) == filepath.Clean(r.Header):
		return refuse("the image and its header have the same path, %s", r.Path)
	case r.Format != blockgraph.FormatRaw && r.Format != blockgraph.FormatQcow2:
		return refuse("the format %s: raw and qcow2 are possible", r.Format)
	case r.Size <= 0 || r.Size%luks.SectorSize != 0:
		return refuse("a disk of %d bytes: the size is a multiple of %d", r.Size, luks.SectorSize)
	case r.LUKS.Version == 2 && r.Format == blockgraph.FormatQcow2 && r.Header == "":
		return refuse("a qcow2 image with a LUKS2 header inside: QEMU opens LUKS1 only")
	case r.Mode&^0o777 != 0 || r.Mode&0o600 != 0o600:
		return refuse("the mode %#o: the owner has to read and write the image", r.Mode)
	}
	if r.Secret.UUID == uuid.Nil {
		r.Secret.UUID = uuid.New()
	}
	if r.Secret.UsageType == secrets.UsageNone {
		r.Secret.UsageType, r.Secret.Usage = secrets.UsageVolume, r.Path
	}
	if err := r.Secret.Validate(); err != nil {
		return r, err
	}
	r.LUKS.UUID = cmp.Or(r.LUKS.UUID, uuid.NewString())
	switch {
	case r.Header != "":
		r.LUKS.PayloadOffset = 0
	case r.Format == blockgraph.FormatQcow2:
		r.LUKS.PayloadOffset = luks.FreshSize // QEMU does not use it
	default:
		r.LUKS.PayloadOffset = r.LUKS.DefaultPayloadOffset()
	}
	if _, err := r.LUKS.HeaderSize(); err != nil {
		return r, fmt.Errorf("%w: %w", ErrUnsupported, err)
	}
	if r.Format == blockgraph.FormatQcow2 && r.Header == "" {
		if err := r.LUKS.QEMUOpens(); err != nil { // nothing else opens a header inside a qcow2 image
			return r, fmt.Errorf("%w inside a qcow2 image: %w", ErrUnsupported, err)
		}
	}
	return r, nil
}

// Create makes a volume. Errors before the first change wrap [ErrRequest], [ErrExists], [ErrUnsupported] or
// secrets.ErrInvalidDocument; later ones are those of keys, of the file system and of qemu-img. A [*LeftError] tells what
// is left, which is nothing otherwise. ctx also bounds the derivation of the key.
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

// creation is one run of Create, with what it has made so far.
type creation struct {
	Request
	named  bool // the caller has chosen the secret's UUID
	born   time.Time
	begin  beginning
	files  []newFile
	keeper secrets.Keeper // has the secret; nil before
	// recording is true from before the birth was recorded in the document of a secret that exists.
	recording bool
}

func (c *creation) run(ctx context.Context, keys Keys) (*Volume, error) {
	for _, path := range []string{c.Path, c.Header} {
		if path == "" {
			continue
		}
		if _, err := os.Lstat(path); err == nil {
			return nil, fmt.Errorf("%s %w", path, ErrExists)
		} else if !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
	}
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
	for _, f := range c.files {
		if err := f.publish(); err != nil {
			return nil, err
		}
	}
	return &Volume{Path: c.Path, Header: c.Header, Format: c.Format, Size: c.Size, UUID: h.UUID, Secret: c.Secret, Store: c.keeper,
		Born: c.born, Unrecorded: unrecorded, LUKS: h}, nil
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

// write makes all files, under names of their own.
func (c *creation) write(ctx context.Context, header []byte) error {
	size, err := c.LUKS.HeaderSize()
	if err != nil {
		return err
	}
	if c.Header != "" {
		f, err := c.file(c.Header, c.Mode&0o700)
		if err == nil {
			err = fill(f, header, size)
		}
		if err != nil {
			return err
		}
		header = nil
	}
	f, err := c.file(c.Path, c.Mode)
	if err != nil {
		return err
	}
	if c.Format == blockgraph.FormatQcow2 {
		return f.qcow2(ctx, c.Size, header)
	}
	return fill(f, header, c.LUKS.PayloadOffset+c.Size)
}

// file begins a file, and remembers it for undo.
func (c *creation) file(path string, mode fs.FileMode) (newFile, error) {
	f, err := c.begin(path, mode)
	if err == nil {
		c.files = append(c.files, f)
	}
	return f, err
}

// undo removes what was made, and returns what could not be removed.
func (c *creation) undo(ctx context.Context) (left []string) {
	ctx, cancel := context.WithTimeout(ctx, undoWait)
	defer cancel()
	for _, f := range c.files {
		left = append(left, f.remove()...)
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
	err = c.files[0].read(func(r io.ReaderAt) error { // the one with the header is the first
		if c.Format == blockgraph.FormatQcow2 && c.Header == "" {
			q, err := image.ReadQcow2(r)
			if err != nil {
				return err
			}
			h = q.LUKS
		} else if h, err = luks.ReadHeader(r); err != nil {
			return err
		}
		return opens(ctx, h, passphrase)
	})
	return h, err
}

// undoWait bounds the removal of the secret, which may be on a server.
const undoWait = 30 * time.Second
