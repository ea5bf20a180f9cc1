package keystore

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"unicode/utf8"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// encoding is a form in which a store holds values. Both functions return newly
// allocated memory, which the caller clears. Their errors contain no part of a value.
type encoding struct {
	name   string
	decode func(stored []byte) ([]byte, error)
	encode func(value []byte) ([]byte, error)
}

const raw = "raw"

// takeEncoding removes the parameter encoding and returns it; nil for raw.
func takeEncoding(l *storeuri.Location) (*encoding, error) {
	name, err := l.TakeOne("encoding", raw, "base64", "hex", "utf8", "to-hex")
	if err != nil {
		return nil, err
	}
	switch name {
	case "base64":
		return &encoding{name, decodeBase64, func(value []byte) ([]byte, error) {
			return base64.StdEncoding.AppendEncode(make([]byte, 0, base64.StdEncoding.EncodedLen(len(value))), value), nil
		}}, nil
	case "hex":
		return &encoding{name, decodeHex, encodeHex}, nil
	case "utf8":
		return &encoding{name, checkUTF8, checkUTF8}, nil
	case "to-hex":
		return &encoding{name, encodeHex, decodeDigits}, nil
	}
	return nil, nil
}

// withoutSpace returns stored without the line breaks and spaces that base64(1)
// and xxd(1) write. They are insignificant in these encodings.
func withoutSpace(stored []byte) []byte {
	out := make([]byte, 0, len(stored))
	for _, c := range stored {
		if c != '\n' && c != '\r' && c != ' ' && c != '\t' {
			out = append(out, c)
		}
	}
	return out
}

func decodeBase64(stored []byte) ([]byte, error) {
	text := withoutSpace(stored)
	defer clear(text)
	out := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Strict().Decode(out, text)
	if err != nil {
		clear(out)
		return nil, errors.New("the value is not base64")
	}
	return out[:n], nil
}

func decodeHex(stored []byte) ([]byte, error) {
	text := withoutSpace(stored)
	defer clear(text)
	out := make([]byte, hex.DecodedLen(len(text)))
	if _, err := hex.Decode(out, text); err != nil {
		clear(out)
		return nil, errors.New("the value is not hexadecimal digits")
	}
	return out, nil
}

func encodeHex(value []byte) ([]byte, error) {
	return hex.AppendEncode(make([]byte, 0, hex.EncodedLen(len(value))), value), nil
}

// decodeDigits decodes only values that encodeHex restores exactly: no spaces, and
// no upper case.
func decodeDigits(value []byte) ([]byte, error) {
	out := make([]byte, hex.DecodedLen(len(value)))
	if _, err := hex.Decode(out, value); err != nil || bytes.ContainsAny(value, "ABCDEF") {
		clear(out)
		return nil, errors.New("the value is not hexadecimal digits in lower case, as to-hex needs")
	}
	return out, nil
}

func checkUTF8(value []byte) ([]byte, error) {
	if !utf8.Valid(value) {
		return nil, errors.New("the value is not UTF-8")
	}
	return append(make([]byte, 0, len(value)), value...), nil
}

// encoded returns the store with its values decoded. The result implements the same
// interfaces as the store.
func encoded(store secrets.Store, e *encoding) secrets.Store {
	if e == nil {
		return store
	}
	s := encodedStore{store, e}
	describer, _ := store.(secrets.Describer) // all listers are
	switch inner := store.(type) {
	case secrets.Keeper:
		return encodedKeeper{encodedLister{s, inner, describer}, inner}
	case secrets.Lister:
		return encodedLister{s, inner, describer}
	}
	return s
}

// Unencoded returns the store below one with the parameter encoding, and other stores
// unchanged.
func Unencoded(store secrets.Store) secrets.Store {
	switch s := store.(type) {
	case encodedKeeper:
		return s.store
	case encodedLister:
		return s.store
	case encodedStore:
		return s.store
	}
	return store
}

type encodedStore struct {
	store    secrets.Store
	encoding *encoding
}

// String implements [secrets.Store].
func (s encodedStore) String() string { return s.store.String() + "?encoding=" + s.encoding.name }

// Unwrap returns the store with encoded values.
func (s encodedStore) Unwrap() secrets.Store { return s.store }

// Lookup implements [secrets.Store].
func (s encodedStore) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	stored, err := s.store.Lookup(ctx, ref)
	if err != nil {
		return nil, storecall.Fail(s, ref, err)
	}
	defer stored.Wipe()
	value, err := convert(stored, s.encoding.decode)
	if err != nil {
		err = fmt.Errorf("%w: %w: open the store with the ?encoding= that the value was stored with", secrets.ErrDamaged, err)
	}
	return value, storecall.Fail(s, ref, err)
}

func convert(from *secrets.Secret, f func([]byte) ([]byte, error)) (*secrets.Secret, error) {
	var to *secrets.Secret
	err := from.Use(func(b []byte) error {
		out, err := f(b)
		if err == nil {
			to = secrets.New(out) // clears it
		}
		return err
	})
	return to, err
}

type encodedLister struct {
	encodedStore
	lister    secrets.Lister
	describer secrets.Describer
}

// Describe implements [secrets.Describer].
func (s encodedLister) Describe(ctx context.Context, ref secrets.Reference) (secrets.Document, error) {
	d, err := s.describer.Describe(ctx, ref)
	return d, storecall.Fail(s, ref, err)
}

// List implements [secrets.Lister].
func (s encodedLister) List(ctx context.Context) ([]secrets.Document, error) {
	documents, err := s.lister.List(ctx)
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

type encodedKeeper struct {
	encodedLister
	keeper secrets.Keeper
}

// Define implements [secrets.Keeper].
func (s encodedKeeper) Define(ctx context.Context, d secrets.Document) error {
	return storecall.Fail(s, d.Reference(), s.keeper.Define(ctx, d))
}

// Set implements [secrets.Keeper].
func (s encodedKeeper) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	stored, err := convert(value, s.encoding.encode)
	if err != nil {
		return storecall.Fail(s, ref, err)
	}
	defer stored.Wipe()
	return storecall.Fail(s, ref, s.keeper.Set(ctx, ref, stored))
}

// Remove implements [secrets.Keeper].
func (s encodedKeeper) Remove(ctx context.Context, ref secrets.Reference) error {
	return storecall.Fail(s, ref, s.keeper.Remove(ctx, ref))
}
