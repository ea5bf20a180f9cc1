package keystore_test

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/dir"
	"github.com/luksplug/luksplug/secrets/keystore"
)

func open(t *testing.T, uri string) secrets.Store {
	t.Helper()
	store := must.Get(keystore.Open(uri, keystore.Options{}))(t)
	return store
}

// A store with an encoding passes the suite for all stores.
func TestEncodedStore(t *testing.T) {
	t.Parallel()
	for _, encoding := range []string{"base64", "hex"} {
		t.Run(encoding, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				path := must.Dir(t, "/dev/shm")
				uri := "dir:" + path + "?encoding=" + encoding
				return storetest.Fixture{
					Store:  open(t, uri),
					Reopen: func(t *testing.T) secrets.Store { return open(t, uri) },
					Break: func(t *testing.T) {
						must.OK(t, os.RemoveAll(path))
					},
					Damage: func(t *testing.T, ref secrets.Reference) {
						must.Write(t, filepath.Join(path, dir.FileName(ref)), "confidential!")
					},
				}
			})
		})
	}
}

func TestEncodings(t *testing.T) {
	t.Parallel()
	ref := storetest.ByUUID()
	for _, c := range []struct {
		encoding, stored, value string
		err                     error
	}{
		{"raw", "c2VjcmV0\n", "c2VjcmV0\n", nil},
		{"base64", "c2VjcmV0", "secret", nil},
		{"base64", " c2Vj\r\ncmV0\n", "secret", nil},
		{"base64", "/+8=", "\xff\xef", nil},
		{"base64", "_-8=", "", secrets.ErrDamaged},
		{"base64", "/+8", "", secrets.ErrDamaged},
		{"base64", "/+9=", "", secrets.ErrDamaged}, // bits that would be lost
		{"base64", "confidential?", "", secrets.ErrDamaged},
		{"hex", "00ffFF\n", "\x00\xff\xff", nil},
		{"hex", "00 ff", "\x00\xff", nil},
		{"hex", "00f", "", secrets.ErrDamaged},
		{"hex", "0x00", "", secrets.ErrDamaged},
		{"hex", "", "", nil},
		{"to-hex", "\x00\xfe\n", "00fe0a", nil},
		{"utf8", "käse\n", "käse\n", nil},
		{"utf8", "k\xe4se", "", secrets.ErrDamaged},
	} {
		path := t.TempDir()
		file := filepath.Join(path, dir.FileName(ref))
		must.Write(t, file, c.stored)
		store := open(t, "dir:"+path+"?encoding="+c.encoding)
		found, err := store.Lookup(context.Background(), ref)
		if !errors.Is(err, c.err) || err != nil && strings.Contains(err.Error(), "confidential") {
			t.Errorf("%s of %q: %v", c.encoding, c.stored, err)
		}
		if err != nil {
			continue
		}
		var value []byte
		if err := found.Use(func(b []byte) error { value = bytes.Clone(b); return nil }); err != nil || string(value) != c.value {
			t.Errorf("%s of %q: %q, %v", c.encoding, c.stored, value, err)
		}
		// Storing it again gives the canonical form.
		must.OK(t, store.(secrets.Keeper).Set(context.Background(), ref, found))
		again, err := store.Lookup(context.Background(), ref)
		if err != nil || !again.Equal(found) {
			t.Errorf("%s of %q: written and read again: %v", c.encoding, c.stored, err)
		}
	}
}

func TestSetOfWhatIsNoText(t *testing.T) {
	t.Parallel()
	path, ref := t.TempDir(), storetest.ByUUID()
	must.Write(t, filepath.Join(path, dir.FileName(ref)), "old")
	err := open(t, "dir:"+path+"?encoding=utf8").(secrets.Keeper).Set(context.Background(), ref, secrets.New([]byte("\xff")))
	var storeError *secrets.StoreError
	if !errors.As(err, &storeError) || storeError.Ref != ref {
		t.Error(err)
	}
	if content, err := os.ReadFile(filepath.Join(path, dir.FileName(ref))); err != nil || string(content) != "old" {
		t.Errorf("%q, %v", content, err)
	}
}
