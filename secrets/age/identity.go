package age

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"strings"

	"filippo.io/age"
	"filippo.io/age/armor"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
	"github.com/luksplug/luksplug/secrets/internal/privdir"
)

const (
	recipientsName = "recipients.txt"
	identityName   = "identity.txt"
)

// key is an identity that has a recipient: X25519 or hybrid.
type key interface {
	age.Identity
	String() string
}

// identity is the file with the decryption keys, and the keys once it has been opened.
type identity struct {
	path    string // of the file
	inside  bool   // the file is in the store's own directory
	options Options
	turn    chan struct{} // holds one element: the goroutine that takes it may use opened
	opened  []age.Identity
}

func newIdentity(dir string, o Options) *identity {
	i := &identity{path: o.Identity, options: o, turn: make(chan struct{}, 1)}
	if i.path == "" {
		i.path = filepath.Join(dir, identityName)
	}
	i.inside = filepath.Dir(i.path) == filepath.Clean(dir)
	i.turn <- struct{}{}
	return i
}

// open returns the keys. It asks for the passphrase once: concurrent callers wait for
// the first.
func (i *identity) open(ctx context.Context) ([]age.Identity, error) {
	select {
	case <-i.turn:
		defer func() { i.turn <- struct{}{} }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if i.opened != nil {
		return i.opened, nil
	}
	content, err := i.existing()
	if err != nil {
		return nil, err
	}
	defer content.Wipe()
	if i.options.Unseal != nil {
		clear, err := i.options.Unseal(ctx, content)
		if err != nil {
			return nil, fmt.Errorf("the identity %s: %w", i.path, err)
		}
		defer clear.Wipe()
		content = clear
	}
	if !isProtected(content) {
		if i.opened, err = i.parseClear(content); err != nil {
			return nil, err
		}
		return i.opened, nil
	}
	kept, state := opened.Find(i.name(), opened.Bind(content))
	if kept != nil {
		// Not remembered: after Lock, another process's as well, it must not be used.
		defer kept.Wipe()
		return i.parse(kept)
	}
	clear, err := i.decrypt(ctx, content, state.Ended)
	if err != nil {
		return nil, err
	}
	defer clear.Wipe()
	i.opened, err = i.parse(clear)
	return i.opened, err
}

// name is the name under which the kernel keeps the identity.
func (i *identity) name() string {
	path, err := filepath.Abs(i.path)
	if err != nil { // there is no working directory
		path = i.path
	}
	return "age:" + path
}

// existing is read for an identity that is needed.
func (i *identity) existing() (*secrets.Secret, error) {
	content, err := i.read()
	if errors.Is(err, secrets.ErrNotFound) {
		return nil, fmt.Errorf("%w: there is no identity %s to decrypt with", secrets.ErrLocked, i.path)
	}
	return content, err
}

func (i *identity) read() (*secrets.Secret, error) {
	f, err := privdir.Open(filepath.Dir(i.path))
	if err != nil {
		return nil, fmt.Errorf("the identity: %w", err)
	}
	defer f.Close()
	content, err := f.Read(filepath.Base(i.path))
	if err != nil {
		return nil, fmt.Errorf("the identity: %w", err)
	}
	return content, nil
}

// isProtected reports whether a passphrase protects an identity file with this content.
func isProtected(content *secrets.Secret) bool {
	protected := false
	// Use fails only for a wiped secret.
	_ = content.Use(func(b []byte) error { protected = isEncrypted(b); return nil })
	return protected
}

// parseClear returns the keys of an identity file in clear, if it may be one.
func (i *identity) parseClear(content *secrets.Secret) ([]age.Identity, error) {
	if i.options.Protect {
		return nil, fmt.Errorf("%w: the identity %s is not protected by a passphrase, which is required: encrypt it with age --passphrase", secrets.ErrDenied, i.path)
	}
	return i.parse(content)
}

// parse returns the keys of an identity in clear.
func (i *identity) parse(content *secrets.Secret) ([]age.Identity, error) {
	var keys []age.Identity
	err := content.Use(func(b []byte) error {
		var err error
		keys, err = age.ParseIdentities(bytes.NewReader(b))
		return err
	})
	if err != nil {
		// The library's error could quote a line of the file.
		return nil, fmt.Errorf("%w: the identity %s does not contain age identities", secrets.ErrDamaged, i.path)
	}
	return keys, nil
}

// decrypt asks for the passphrase of a protected identity, and returns the identity in
// clear. ended says why a key that was unlocked is not used, "" for none.
func (i *identity) decrypt(ctx context.Context, content *secrets.Secret, ended string) (*secrets.Secret, error) {
	if i.options.Passphrase == nil {
		why := ""
		if ended != "" {
			why = "; it was unlocked, but " + ended
		}
		return nil, fmt.Errorf("%w: luksplug cannot prompt here for that of %s: unlock the store, run this in a terminal, or name a file with the passphrase%s", secrets.ErrPassphrase, i.path, why)
	}
	passphrase, err := i.ask(ctx, "passphrase of "+i.path)
	if err != nil {
		return nil, err
	}
	defer passphrase.Wipe()
	var clear *secrets.Secret
	err = content.Use(func(b []byte) error {
		return passphrase.Use(func(p []byte) error {
			var err error
			clear, err = open(b, passphraseIdentity(p))
			return err
		})
	})
	var wrong *age.NoIdentityMatchError
	switch {
	case errors.As(err, &wrong):
		return nil, fmt.Errorf("%w: that of the identity %s", secrets.ErrWrongPassphrase, i.path)
	case err != nil:
		return nil, fmt.Errorf("%w: the identity %s: %w", secrets.ErrDamaged, i.path, err)
	}
	return clear, nil
}

func (i *identity) ask(ctx context.Context, question string) (*secrets.Secret, error) {
	passphrase, err := i.options.Passphrase(ctx, question)
	if err != nil {
		if errors.Is(err, ctx.Err()) {
			return nil, err
		}
		return nil, fmt.Errorf("%w: %s: %w", secrets.ErrLocked, question, err)
	}
	if passphrase.Len() == 0 {
		passphrase.Wipe()
		return nil, fmt.Errorf("%w: %s: it is empty", secrets.ErrDenied, question)
	}
	return passphrase, nil
}

// recipients returns the recipients of values. If their file is missing, it writes it,
// and creates the identity if that is missing too.
func (s *Store) recipients(ctx context.Context, f *privdir.Dir, w *privdir.Writer) ([]age.Recipient, error) {
	content, err := f.Read(recipientsName)
	if errors.Is(err, secrets.ErrNotFound) {
		return s.firstRecipients(ctx, f, w)
	}
	if err != nil {
		return nil, err
	}
	defer content.Wipe()
	var recipients []age.Recipient
	err = content.Use(func(b []byte) error {
		var err error
		recipients, err = age.ParseRecipients(bytes.NewReader(b))
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: file %s: %w", secrets.ErrDamaged, recipientsName, err)
	}
	return recipients, nil
}

func (s *Store) firstRecipients(ctx context.Context, f *privdir.Dir, w *privdir.Writer) ([]age.Recipient, error) {
	has, err := s.keys.exists()
	if err != nil {
		return nil, err
	}
	var keys []age.Identity
	if has {
		keys, err = s.keys.open(ctx)
	} else {
		keys, err = s.makeIdentity(ctx, f, w)
	}
	if err != nil {
		return nil, err
	}
	var recipients []age.Recipient
	var text strings.Builder
	for _, k := range keys {
		var r age.Recipient
		switch k := k.(type) {
		case *age.X25519Identity:
			r = k.Recipient()
		case *age.HybridIdentity:
			r = k.Recipient()
		default:
			return nil, fmt.Errorf("%w: the identity %s is of a kind whose recipient luksplug cannot derive: write the recipients to %s",
				secrets.ErrDenied, s.keys.path, recipientsName)
		}
		recipients = append(recipients, r)
		_, _ = fmt.Fprintln(&text, r) // into memory
	}
	return recipients, w.Write(recipientsName, []byte(text.String()))
}

// exists reports whether there is a file of any kind at the identity's path.
func (i *identity) exists() (bool, error) {
	f, err := privdir.Open(filepath.Dir(i.path))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("the identity: %w", err)
	}
	defer f.Close()
	return f.Has(filepath.Base(i.path))
}

// makeIdentity creates the identity. It fails if there are values already: their
// identity has been lost, and a new one could not decrypt them.
func (s *Store) makeIdentity(ctx context.Context, f *privdir.Dir, w *privdir.Writer) ([]age.Identity, error) {
	names, err := f.Names()
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if _, ok := idOf(name); ok && strings.HasSuffix(name, ValueSuffix) {
			return nil, fmt.Errorf("%w: there are values, but neither %s nor the identity %s exists: restore them", secrets.ErrDamaged, recipientsName, s.keys.path)
		}
	}
	k, err := s.newKey()
	if err != nil {
		return nil, fmt.Errorf("make an identity: %w", err)
	}
	content := []byte(k.String() + "\n")
	defer clear(content)
	switch {
	case s.options.Seal != nil:
		content, err = s.seal(ctx, content)
	case s.options.Protect:
		content, err = s.protect(ctx, content)
	}
	if err != nil {
		return nil, err
	}
	if s.keys.inside {
		return []age.Identity{k}, w.Write(filepath.Base(s.keys.path), content)
	}
	other, err := privdir.Make(filepath.Dir(s.keys.path))
	if err != nil {
		return nil, fmt.Errorf("the identity: %w", err)
	}
	defer other.Close()
	return []age.Identity{k}, locked(ctx, other, func(w *privdir.Writer) error {
		switch has, err := other.Has(filepath.Base(s.keys.path)); {
		case err != nil:
			return err
		case has:
			return fmt.Errorf("%w: another process has just made the identity: try again", secrets.ErrUnreachable)
		}
		return w.Write(filepath.Base(s.keys.path), content)
	})
}

func (s *Store) newKey() (key, error) {
	if s.options.PostQuantum {
		return age.GenerateHybridIdentity()
	}
	return age.GenerateX25519Identity()
}

// seal encrypts a new identity by the option Seal. It clears content.
func (s *Store) seal(ctx context.Context, content []byte) ([]byte, error) {
	plain := secrets.New(content)
	defer plain.Wipe()
	sealed, err := s.options.Seal(ctx, plain)
	if err != nil {
		return nil, fmt.Errorf("encrypt the identity: %w", err)
	}
	defer sealed.Wipe()
	var out []byte
	err = sealed.Use(func(b []byte) error { out = bytes.Clone(b); return nil })
	return out, err
}

// protect encrypts a new identity with a new passphrase.
func (s *Store) protect(ctx context.Context, content []byte) ([]byte, error) {
	if s.options.Passphrase == nil {
		return nil, fmt.Errorf("%w: the new identity needs a passphrase, and luksplug cannot prompt for it: run this in a terminal, or name a file with the passphrase", secrets.ErrLocked)
	}
	first, err := s.keys.ask(ctx, "new passphrase for "+s.keys.path)
	if err != nil {
		return nil, err
	}
	defer first.Wipe()
	second, err := s.keys.ask(ctx, "the same passphrase again")
	if err != nil {
		return nil, err
	}
	defer second.Wipe()
	if !first.Equal(second) {
		return nil, fmt.Errorf("%w: the two passphrases differ: try again", secrets.ErrDenied)
	}
	var out bytes.Buffer
	err = first.Use(func(p []byte) error {
		sealed, err := seal(content, []age.Recipient{passphraseRecipient{p, cmp.Or(s.options.WorkFactor, defaultWorkFactor)}})
		if err != nil {
			return err
		}
		text := armor.NewWriter(&out)
		_, err = text.Write(sealed)
		return errors.Join(err, text.Close())
	})
	if err != nil {
		return nil, fmt.Errorf("encrypt the identity: %w", err)
	}
	return out.Bytes(), nil
}

// isEncrypted reports whether b is an age file, armored or not.
func isEncrypted(b []byte) bool {
	return isArmored(b) || bytes.HasPrefix(b, []byte("age-encryption.org/"))
}

func isArmored(b []byte) bool { return bytes.HasPrefix(b, []byte(armor.Header)) }

// unarmored returns a reader of an age file, which may be armored, without the armor.
func unarmored(b []byte) io.Reader {
	if isArmored(b) {
		return armor.NewReader(bytes.NewReader(b))
	}
	return bytes.NewReader(b)
}
