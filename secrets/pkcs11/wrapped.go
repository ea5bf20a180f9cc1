//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"

	p11 "github.com/miekg/pkcs11"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
)

// Wrapped is a [secrets.Keeper] on a directory, with values that a key of the token
// wraps. [New] creates it.
type Wrapped struct {
	*token
	dir *dir.Store
}

func newWrapped(t *token) *Wrapped { return &Wrapped{t, dir.New(t.options.Dir)} }

// Lookup implements [secrets.Store].
func (w *Wrapped) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	stored, err := w.dir.Lookup(ctx, ref)
	if err != nil {
		return nil, w.fail(ref, err)
	}
	defer stored.Wipe()
	value, err := w.convert(ctx, stored, w.unwrap)
	return value, w.fail(ref, err)
}

// Describe implements [secrets.Describer]. It needs no token.
func (w *Wrapped) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	d, err := w.dir.Describe(ctx, ref)
	return d, w.fail(ref, err)
}

// List implements [secrets.Lister]. It needs no token.
func (w *Wrapped) List(ctx context.Context) ([]secrets.Document, error) {
	documents, err := w.dir.List(ctx)
	return documents, w.fail(secrets.Reference{}, err)
}

// Define implements [secrets.Keeper]. It needs no token.
func (w *Wrapped) Define(ctx context.Context, d secrets.Document) error {
	return w.fail(d.Reference(), w.dir.Define(ctx, d))
}

// Set implements [secrets.Keeper].
func (w *Wrapped) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	if err := ref.Validate(); err != nil {
		return w.fail(ref, err)
	}
	stored, err := w.convert(ctx, value, w.wrap)
	if err != nil {
		return w.fail(ref, err)
	}
	defer stored.Wipe()
	return w.fail(ref, w.dir.Set(ctx, ref, stored))
}

// Remove implements [secrets.Keeper]. It needs no token.
func (w *Wrapped) Remove(ctx context.Context, ref secrets.Reference) error {
	return w.fail(ref, w.dir.Remove(ctx, ref))
}

// convert returns the result of f, which wraps or unwraps a copy of from with the token's key.
func (w *Wrapped) convert(ctx context.Context, from *secrets.Secret, f func(*session, p11.ObjectHandle, []byte) ([]byte, error)) (*secrets.Secret, error) {
	var own []byte // a copy: the module may still run after this method has returned
	if err := from.Use(func(b []byte) error { own = bytes.Clone(b); return nil }); err != nil {
		return nil, err
	}
	return within(ctx, w.token, func(s *session) (*secrets.Secret, error) {
		defer clear(own)
		key, err := w.key(s)
		if err != nil {
			return nil, err
		}
		out, err := f(s, key, own)
		if err != nil {
			return nil, err
		}
		return secrets.New(out), nil
	})
}

// key returns the one secret key that the URI names.
func (w *Wrapped) key(s *session) (p11.ObjectHandle, error) {
	attributes := []*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY)}
	if label, given := w.options.URI.path["object"]; given {
		attributes = append(attributes, p11.NewAttribute(p11.CKA_LABEL, label))
	}
	if id, given := w.options.URI.path["id"]; given {
		attributes = append(attributes, p11.NewAttribute(p11.CKA_ID, id))
	}
	found, err := s.objects(attributes...)
	switch {
	case err != nil:
		return 0, err
	case len(found) == 1:
		return found[0], nil
	}
	// Not ErrNotFound, which would continue the search in another store: the
	// secret may be in this one.
	return 0, fmt.Errorf("%w: the token has %d secret keys with that name: exactly one is needed", secrets.ErrUnreachable, len(found))
}

// The sizes in the aes-gcm format, in bytes.
const (
	gcmIV  = 12
	gcmTag = 16
)

func (m Mechanism) wrapping() []*p11.Mechanism {
	if m == AESKeyWrap {
		return []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP, nil)}
	}
	return []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_WRAP_PAD, nil)}
}

func generic(value []byte) []*p11.Attribute {
	out := []*p11.Attribute{
		p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_GENERIC_SECRET),
		p11.NewAttribute(p11.CKA_TOKEN, false), p11.NewAttribute(p11.CKA_PRIVATE, true),
		p11.NewAttribute(p11.CKA_SENSITIVE, false), p11.NewAttribute(p11.CKA_EXTRACTABLE, true),
	}
	if value != nil {
		out = append(out, p11.NewAttribute(p11.CKA_VALUE, value))
	}
	return out
}

func (w *Wrapped) wrap(s *session, key p11.ObjectHandle, value []byte) ([]byte, error) {
	const block, least = 8, 16 // RFC 3394 section 2.2.1
	switch {
	case len(value) == 0:
		return nil, errors.New("a token cannot wrap an empty value")
	case w.options.Mechanism == AESKeyWrap && (len(value) < least || len(value)%block != 0):
		return nil, fmt.Errorf("%s takes a multiple of %d bytes, %d at least: use %s", AESKeyWrap, block, least, AESKeyWrapPad)
	case w.options.Mechanism == AESGCM:
		return encryptGCM(s, key, value)
	}
	wrapped, err := w.wrapKey(s, key, value)
	if err != nil || len(value)%block == 0 {
		return wrapped, err
	}
	// RFC 5649 includes the length, but some modules, such as SoftHSM 2.6, pad the
	// value first and lose it: the volume could never be opened again.
	padded := append(bytes.Clone(value), make([]byte, block-len(value)%block)...)
	defer clear(padded)
	same, err := w.wrapKey(s, key, padded)
	if err == nil && bytes.Equal(wrapped, same) {
		err = fmt.Errorf("the module loses the length of a value with %s, so that the value could not be read again: use %s", AESKeyWrapPad, AESGCM)
	}
	return wrapped, err
}

// wrapKey wraps value by the mechanism of RFC 3394 or 5649.
func (w *Wrapped) wrapKey(s *session, key p11.ObjectHandle, value []byte) ([]byte, error) {
	object, err := s.module.CreateObject(s.handle, generic(value))
	overwriteFreed(len(value))
	if err != nil {
		return nil, err
	}
	defer func() { _ = s.module.DestroyObject(s.handle, object) }() // closing the session destroys it, too
	return s.module.WrapKey(s.handle, w.options.Mechanism.wrapping(), key, object)
}

func encryptGCM(s *session, key p11.ObjectHandle, value []byte) ([]byte, error) {
	iv := make([]byte, gcmIV)
	_, _ = rand.Read(iv) // never fails
	params := p11.NewGCMParams(iv, nil, 8*gcmTag)
	defer params.Free()
	if err := s.module.EncryptInit(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, err
	}
	sealed, err := s.module.Encrypt(s.handle, value)
	if err != nil {
		return nil, err
	}
	if used := params.IV(); len(used) == gcmIV {
		iv = used // some tokens generate the IV
	}
	return append(iv, sealed...), nil
}

func (w *Wrapped) unwrap(s *session, key p11.ObjectHandle, stored []byte) ([]byte, error) {
	if w.options.Mechanism == AESGCM {
		return decryptGCM(s, key, stored)
	}
	object, err := s.module.UnwrapKey(s.handle, w.options.Mechanism.wrapping(), key, stored, generic(nil))
	if err != nil {
		return nil, notOurs(err)
	}
	defer func() { _ = s.module.DestroyObject(s.handle, object) }() // closing the session destroys it, too
	value, err := s.read(object, p11.CKA_VALUE)
	if err != nil || w.options.Mechanism != AESKeyWrapPad {
		return value, err
	}
	return w.withoutPadding(s, key, stored, value)
}

// withoutPadding removes padding that the module left in value. Zeros of the padding and of the value look
// the same, but wrapping is deterministic: only the right length wraps to stored.
func (w *Wrapped) withoutPadding(s *session, key p11.ObjectHandle, stored, value []byte) ([]byte, error) {
	const block = 8 // RFC 5649 section 3: there are up to 7 bytes of padding
	n := len(value)
	if n == 0 || value[n-1] != 0 {
		return value, nil
	}
	for padding := 0; padding < block && padding < n; padding++ {
		if padding > 0 && value[n-padding] != 0 {
			break
		}
		wrapped, err := w.wrapKey(s, key, value[:n-padding])
		if err != nil {
			return nil, fmt.Errorf("check the padding of the value, which requires a key that can wrap: %w", err)
		}
		if bytes.Equal(wrapped, stored) {
			return value[:n-padding], nil
		}
	}
	return nil, fmt.Errorf("%w: the value that the token unwraps does not wrap to the content of the file", secrets.ErrDamaged)
}

func decryptGCM(s *session, key p11.ObjectHandle, stored []byte) ([]byte, error) {
	if len(stored) < gcmIV+gcmTag {
		return nil, fmt.Errorf("%w: the file is shorter than an IV and a tag", secrets.ErrDamaged)
	}
	params := p11.NewGCMParams(stored[:gcmIV], nil, 8*gcmTag)
	defer params.Free()
	if err := s.module.DecryptInit(s.handle, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_GCM, params)}, key); err != nil {
		return nil, err
	}
	value, err := s.module.Decrypt(s.handle, stored[gcmIV:])
	if err != nil {
		return nil, notOurs(err)
	}
	overwriteFreed(len(value), len(stored)-gcmIV)
	return value, nil
}

// notOurs makes an error wrap [secrets.ErrDamaged] if it means that the key cannot
// unwrap the file. SoftHSM returns a general error then.
func notOurs(err error) error {
	for _, code := range []uint{
		p11.CKR_WRAPPED_KEY_INVALID, p11.CKR_WRAPPED_KEY_LEN_RANGE, p11.CKR_ENCRYPTED_DATA_INVALID, p11.CKR_ENCRYPTED_DATA_LEN_RANGE,
		p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED,
	} {
		if errors.Is(err, p11.Error(code)) {
			return fmt.Errorf("%w: the token's key does not unwrap the file: it is damaged, or wrapped by another key or mechanism (%s)", secrets.ErrDamaged, err.Error())
		}
	}
	return err
}
