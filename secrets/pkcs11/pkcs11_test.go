//go:build pkcs11 && cgo

package pkcs11_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

// pin returns an Options.PIN that returns text.
func pin(text string) func(context.Context, string) (*secrets.Secret, error) {
	return func(context.Context, string) (*secrets.Secret, error) { return secret(text), nil }
}

// fixture returns a fixture with the token's faults.
func fixture(t *testing.T, c *card, o pkcs11.Options) storetest.Fixture {
	if strings.HasSuffix(t.Name(), "/hanging") {
		o.Timeout = time.Second
	}
	return storetest.Fixture{
		Store:  open[secrets.Store](t, o),
		Lock:   func(t *testing.T) { c.set(t, "locked") },
		Break:  func(t *testing.T) { c.set(t, "gone") },
		Hang:   func(t *testing.T) { c.set(t, "hangs") },
		Reopen: func(t *testing.T) secrets.Store { return open[secrets.Store](t, o) },
	}
}

func TestData(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		c := newCard(t)
		f := fixture(t, c, c.options(t, ""))
		f.NoLocks, f.Persistent = true, true
		f.Damage = func(t *testing.T, ref secrets.Reference) {
			c.addData(t, "luksplug 99", "document "+ref.UUID.String(), "<secret")
		}
		return f
	})
}

func TestFinder(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		c := newCard(t)
		o := c.options(t, ";type=data;object={type}:{uuid}")
		f := fixture(t, c, o)
		byUsage := c.options(t, ";object={type}:{usage}")
		f.Store = both{f.Store, open[secrets.Store](t, byUsage)}
		f.Reopen = nil
		f.Put = func(t *testing.T, ref secrets.Reference, value []byte) {
			label := string(ref.Type) + ":" + ref.Usage
			if ref.UUID != uuid.Nil {
				label += ref.UUID.String()
			}
			c.addData(t, "other", label, string(value))
		}
		return f
	})
}

// both is a store that queries one finder by uuid and another by usage.
type both struct{ byUUID, byUsage secrets.Store }

func (b both) String() string { return b.byUUID.String() }

func (b both) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if ref.Usage == "" {
		return b.byUUID.Lookup(ctx, ref)
	}
	found, err := b.byUsage.Lookup(ctx, ref)
	var e *secrets.StoreError
	if errors.As(err, &e) {
		e.Store = b.String()
	}
	return found, err
}

func TestWrapped(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		c := newCard(t)
		c.addKey(t, "kek")
		o := c.options(t, ";type=secret-key;object=kek")
		o.Dir = t.TempDir()
		f := fixture(t, c, o)
		f.Persistent = !inMemory(t, o.Dir)
		if strings.Contains(t.Name(), "keeper") {
			f.Break = nil // changes to documents need no token
		}
		f.Damage = func(t *testing.T, ref secrets.Reference) {
			path := filepath.Join(o.Dir, ref.UUID.String())
			b := must.Get(os.ReadFile(path))(t)
			b[len(b)-1] ^= 1
			must.Write(t, path, b)
		}
		return f
	})
}

// TestKeyWrap checks that Lookup returns the exact value, or that Set refuses it before
// it writes anything: SoftHSM's aes-key-wrap-pad loses lengths.
func TestKeyWrap(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.addKey(t, "kek")
	for _, mechanism := range []pkcs11.Mechanism{pkcs11.AESKeyWrap, pkcs11.AESKeyWrapPad} {
		o := c.options(t, ";object=kek")
		o.Dir, o.Mechanism = t.TempDir(), mechanism
		store := open[*pkcs11.Wrapped](t, o)
		for _, value := range []string{
			"sixteen bytes!!!", "ends in zeros\x00\x00\x00", "\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", strings.Repeat("\xff\x00\n\r", 16),
			"seventeen bytes!!", "short", "\x00", "eight on",
		} {
			d := secrets.Document{UUID: uuid.New()}
			must.OK(t, store.Define(t.Context(), d))
			set := store.Set(t.Context(), d.Reference(), secret(value))
			found, err := store.Lookup(t.Context(), d.Reference())
			switch {
			case set == nil && (err != nil || !found.Equal(secret(value))):
				t.Errorf("%s: %q: Lookup returns another value, or %v", mechanism, value, err)
			case set != nil && !errors.Is(err, secrets.ErrNoValue):
				t.Errorf("%s: %q was refused, and then Lookup returns %v", mechanism, value, err)
			case set != nil && len(value)%8 == 0 && len(value) >= 16:
				t.Errorf("%s: %q: %v", mechanism, value, set)
			}
		}
	}
}

// TestWrongPIN checks that concurrent look-ups try a wrong PIN once, and never again.
func TestWrongPIN(t *testing.T) {
	t.Parallel()
	const wrongPIN = "not the PIN" // not contained in any uuid
	c := newCard(t)
	o := c.options(t, "")
	asked := 0
	o.PIN = func(context.Context, string) (*secrets.Secret, error) { asked++; return secret(wrongPIN), nil }
	store := open[*pkcs11.Store](t, o)
	var wg sync.WaitGroup
	errs := make([]error, 4)
	for i := range errs {
		wg.Go(func() { _, errs[i] = store.Lookup(t.Context(), storetest.ByUUID()) })
	}
	wg.Wait()
	tried := 0
	for _, err := range errs {
		if !errors.Is(err, secrets.ErrDenied) || strings.Contains(err.Error(), wrongPIN) {
			t.Error(err)
		}
		if strings.Contains(err.Error(), "CKR_PIN_INCORRECT") {
			tried++
		}
	}
	if tried != 1 || asked != len(errs) {
		t.Errorf("the wrong PIN was tried %d times, asked for %d times", tried, asked)
	}
	o.PIN = pin(rightPIN + "\n") // as in a file
	if _, err := open[*pkcs11.Store](t, o).List(t.Context()); err != nil {
		t.Error(err)
	}
	o.PIN = nil
	if _, err := open[*pkcs11.Store](t, o).List(t.Context()); !errors.Is(err, secrets.ErrLocked) || !strings.Contains(err.Error(), "pin-source") {
		t.Error(err)
	}
}

func TestTokens(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	module := "?module-path=" + c.module
	c.hsm.mu.Lock()
	info, err := c.hsm.module.GetTokenInfo(c.slot)
	c.hsm.mu.Unlock()
	must.OK(t, err)
	serial := strings.TrimSpace(info.SerialNumber)
	for uri, want := range map[string]string{
		"pkcs11:token=" + c.label + module: "",
		"pkcs11:serial=" + serial + module: "",
		"pkcs11:token=" + c.label + ";manufacturer=SoftHSM%20project;model=SoftHSM%20v2" + module:    "",
		"pkcs11:token=" + c.label + ";library-manufacturer=SoftHSM;library-version=2.6" + module:     "",
		"pkcs11:token=" + c.label + ";library-version=2" + module:                                    "no such token",
		"pkcs11:token=" + c.label + ";serial=x" + module:                                             "no such token",
		"pkcs11:token=nobody" + module:                                                               c.label,
		"pkcs11:slot-id=18446744073709551615" + module:                                               "no such token",
		"pkcs11:model=SoftHSM%20v2" + module:                                                         "tokens",
		"pkcs11:token=x?module-path=/nonexistent.so":                                                 "cannot be loaded",
		"pkcs11:token=x?module-path=/etc/passwd":                                                     "cannot be loaded",
		"pkcs11:token=x?module-name=nonexistent":                                                     "give module-path",
		"pkcs11:token=" + c.label + ";slot-description=SoftHSM%20slot%20ID%200x0;slot-id=7" + module: "no such token",
	} {
		if want == "tokens" {
			newCard(t) // so that at least two match
		}
		u := must.Get(pkcs11.ParseURI(uri))(t)
		_, err = open[*pkcs11.Store](t, pkcs11.Options{URI: u, PIN: pin(rightPIN)}).List(t.Context())
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", uri, err)
		case want != "" && (!errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q in it", uri, err, want)
		}
	}
}

// A hanging module blocks only its own callers.
func TestModuleHangs(t *testing.T) {
	t.Parallel()
	hung, other := newCard(t), newCard(t)
	o := hung.options(t, "")
	o.Timeout = time.Second
	hung.set(t, "hangs")
	for _, why := range []string{"has not answered", "another call holds its module"} {
		_, err := open[*pkcs11.Store](t, o).List(t.Context())
		if !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), why) {
			t.Errorf("%v, want %q in it", err, why)
		}
	}
	if _, err := open[*pkcs11.Store](t, other.options(t, "")).List(t.Context()); err != nil {
		t.Error(err)
	}
}

// TestModuleName finds a module by its name. Not parallel: it calls SoftHSM without
// the shim's lock.
func TestModuleName(t *testing.T) {
	c := newCard(t)
	u := must.Get(pkcs11.ParseURI("pkcs11:token=" + c.label + "?module-name=softhsm2"))(t)
	if _, err := open[*pkcs11.Store](t, pkcs11.Options{URI: u, PIN: pin(rightPIN)}).List(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestOthersObjects(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.addData(t, "disks", "one", "the value")
	c.addData(t, "mail", "one", "another")
	c.addData(t, "disks", "empty", "")
	for _, v := range []struct {
		object, application, value string
		err                        error
	}{
		{"one", "disks", "the value", nil},
		{"one", "", "", secrets.ErrDamaged},
		{"two", "disks", "", secrets.ErrNotFound},
		{"{usage}", "disks", "", secrets.ErrNotFound},
		{"empty", "disks", "", secrets.ErrNoValue},
	} {
		o := c.options(t, ";object="+v.object)
		o.Application = v.application
		found, err := open[secrets.Store](t, o).Lookup(t.Context(), storetest.ByUUID())
		if !errors.Is(err, v.err) || err == nil && !found.Equal(secret(v.value)) {
			t.Errorf("%+v: %v", v, err)
		}
	}
}

// Keys that are missing, ambiguous, or not the ones that wrapped the file.
func TestKeys(t *testing.T) {
	t.Parallel()
	c := newCard(t)
	c.addKey(t, "kek")
	c.addKey(t, "twin")
	c.addKey(t, "twin")
	o := c.options(t, ";object=kek")
	o.Dir = t.TempDir()
	store := open[*pkcs11.Wrapped](t, o)
	d := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secret("sixteen bytes!!!")))
	byID := c.options(t, ";id=kek%20id")
	byID.Dir = o.Dir
	storetest.Finds(t, open[*pkcs11.Wrapped](t, byID), d.Reference(), "sixteen bytes!!!")
	for object, want := range map[string]error{"nobody": secrets.ErrUnreachable, "twin": secrets.ErrUnreachable} {
		other := c.options(t, ";object="+object)
		other.Dir = o.Dir
		if _, err := open[*pkcs11.Wrapped](t, other).Lookup(t.Context(), d.Reference()); !errors.Is(err, want) || errors.Is(err, secrets.ErrNotFound) {
			t.Errorf("%s: %v", object, err)
		}
	}
	c.addKey(t, "other")
	other := c.options(t, ";object=other")
	other.Dir = o.Dir
	storetest.Fails(t, open[*pkcs11.Wrapped](t, other), d.Reference(), secrets.ErrDamaged, "")
	o.Mechanism = pkcs11.AESKeyWrap
	plain := open[*pkcs11.Wrapped](t, o)
	if err := plain.Set(t.Context(), d.Reference(), secret("short")); err == nil || !strings.Contains(err.Error(), "aes-key-wrap-pad") {
		t.Error(err)
	}
	must.OK(t, plain.Set(t.Context(), d.Reference(), secret("sixteen bytes!!!")))
	storetest.Finds(t, plain, d.Reference(), "sixteen bytes!!!")
}

func TestOptionsThatMakeNoSense(t *testing.T) {
	t.Parallel()
	for uri, change := range map[string]func(*pkcs11.Options){
		"pkcs11:token=a":                          func(o *pkcs11.Options) { o.Dir = "/x" },
		"pkcs11:token=a;type=data;object=kek":     func(o *pkcs11.Options) { o.Dir = "/x" },
		"pkcs11:token=a;type=secret-key":          func(*pkcs11.Options) {},
		"pkcs11:token=a;id=%01":                   func(*pkcs11.Options) {},
		"pkcs11:token=a;object=b":                 func(o *pkcs11.Options) { o.Application = "{user}" },
		"pkcs11:token=a;object=b;type=secret-key": func(*pkcs11.Options) {},
	} {
		u := must.Get(pkcs11.ParseURI(uri))(t)
		o := pkcs11.Options{URI: u}
		change(&o)
		if _, err := pkcs11.New(o); !errors.Is(err, pkcs11.ErrInvalidURI) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}
