//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/luksplug/luksplug/internal/ending"
	"github.com/luksplug/luksplug/internal/wipe"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/opened"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// New returns the store that the options select. The store's first call loads the
// module and finds the token. The error wraps [ErrInvalidURI] if the URI does not fit
// the options, and [ErrNotBuilt] in a program built without PKCS#11.
func New(o Options) (secrets.Store, error) {
	const enough = 30 * time.Second
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	if o.Mechanism == "" {
		o.Mechanism = AESGCM
	}
	if err := checkTemplate(o.Application); err != nil {
		return nil, err
	}
	t := &token{options: o, name: o.name()}
	kind := o.URI.path["type"]
	switch {
	case o.Dir != "" && !o.URI.Names():
		return nil, fmt.Errorf("%w: name the wrapping key by object= or id=", ErrInvalidURI)
	case o.Dir != "" && kind == "data", o.Dir == "" && kind == "secret-key":
		return nil, fmt.Errorf("%w: type must be secret-key with a directory of wrapped files, and data without one", ErrInvalidURI)
	case o.Dir != "":
		return newWrapped(t), nil
	case o.URI.path["id"] != "":
		return nil, fmt.Errorf("%w: data objects have no id: name them by object=", ErrInvalidURI)
	case o.URI.Names() || o.Application != "":
		return &finder{t}, nil
	}
	return &Store{t}, nil
}

// token finds and logs in to the token of one store.
type token struct {
	options   Options
	name      string
	unlocking bool // the PIN that the kernel keeps is not used

	// Only the caller that has entered the module uses these, so that concurrent calls try
	// a wrong PIN once: a token locks itself after three.
	pin     *secrets.Secret // accepted by the token, and not the one that the kernel keeps
	refused []byte          // the fingerprint of the PIN that the token has refused
	salt    [sha256.BlockSize]byte
}

// String returns the URI without its query, except for the directory.
func (t *token) String() string { return t.name }

func (t *token) fail(ref secrets.Reference, err error) error { return storecall.Fail(t, ref, err) }

// session is a logged-in session on the token.
type session struct {
	module *module
	handle p11.SessionHandle
}

// within runs f in a session, with the lock of the module. It returns when ctx or the
// token's time-out ends, even if the module has not returned.
func within[T any](ctx context.Context, t *token, f func(s *session) (T, error)) (T, error) {
	var none T
	if err := ctx.Err(); err != nil {
		return none, err
	}
	bounded, cancel := ending.After(ctx, t.options.Timeout)
	defer cancel()
	m, err := moduleOf(t.options.URI)
	if err != nil {
		return none, err
	}
	if err := m.enter(bounded); err != nil {
		if ctx.Err() != nil {
			return none, ctx.Err()
		}
		return none, err
	}
	type result struct {
		value T
		err   error
	}
	done := make(chan result, 1)
	go func() {
		defer m.leave()
		runtime.LockOSThread() // for overwriteFreed
		defer runtime.UnlockOSThread()
		var r result
		r.value, r.err = inSession(bounded, t, m, f)
		done <- r
	}()
	select {
	case r := <-done:
		switch {
		case r.err == nil:
			return r.value, nil
		case ctx.Err() != nil && !errors.Is(r.err, ctx.Err()):
			return none, fmt.Errorf("%w: %w", ctx.Err(), r.err)
		}
		return none, answer(r.err)
	case <-bounded.Done():
		if ctx.Err() != nil {
			return none, fmt.Errorf("the token does not answer: %w", ctx.Err())
		}
		return none, fmt.Errorf("%w: the token has not answered after %s", secrets.ErrUnreachable, t.options.Timeout)
	}
}

// inSession runs f in a session. The caller has entered the module.
func inSession[T any](ctx context.Context, t *token, m *module, f func(s *session) (T, error)) (T, error) {
	var none T
	if err := m.load(); err != nil {
		return none, err
	}
	s, err := t.open(ctx, m)
	if err != nil {
		return none, err
	}
	// No logout: it would affect all sessions of the process. Closing the last
	// session logs out.
	defer func() { _ = m.CloseSession(s.handle) }()
	return f(s)
}

// open opens a session on the token.
func (t *token) open(ctx context.Context, module *module) (*session, error) {
	slot, info, err := t.find(module)
	if err != nil {
		return nil, err
	}
	handle, err := module.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION)
	if errors.Is(err, p11.Error(p11.CKR_TOKEN_WRITE_PROTECTED)) {
		handle, err = module.OpenSession(slot, p11.CKF_SERIAL_SESSION)
	}
	if err != nil {
		return nil, err
	}
	s := &session{module, handle}
	if err := t.login(ctx, s, info); err != nil {
		_ = module.CloseSession(handle)
		return nil, err
	}
	return s, nil
}

// find returns the slot of the one token that the URI matches.
func (t *token) find(module *module) (uint, p11.TokenInfo, error) {
	none := p11.TokenInfo{}
	library, err := module.GetInfo()
	if err != nil {
		return 0, none, err
	}
	slots, err := module.GetSlotList(true)
	if err != nil {
		return 0, none, err
	}
	var slot uint
	var token p11.TokenInfo
	var matching, others []string
	for _, id := range slots {
		slotInfo, err := module.GetSlotInfo(id)
		if err != nil {
			continue // the token was removed
		}
		info, err := module.GetTokenInfo(id)
		if err != nil || info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			continue
		}
		label := strconv.Quote(trim(info.Label))
		if t.matches(library, slotInfo, id, info) {
			slot, token = id, info
			matching = append(matching, label+" (serial "+trim(info.SerialNumber)+")")
		} else {
			others = append(others, label)
		}
	}
	switch {
	case len(matching) == 1:
		return slot, token, nil
	case len(matching) > 1:
		return 0, none, fmt.Errorf("%w: the URI matches %d tokens: %s: add attributes that match only one", secrets.ErrUnreachable, len(matching), strings.Join(matching, ", "))
	case len(others) > 0:
		slices.Sort(others)
		return 0, none, fmt.Errorf("%w: there is no such token; the module has %s", secrets.ErrUnreachable, strings.Join(others, ", "))
	}
	return 0, none, fmt.Errorf("%w: there is no token: is it plugged in?", secrets.ErrUnreachable)
}

// trim removes the padding of the standard's fields.
func trim(s string) string { return strings.TrimRight(s, " \x00") }

func (t *token) matches(library p11.Info, slotInfo p11.SlotInfo, slot uint, info p11.TokenInfo) bool {
	version := fmt.Sprintf("%d.%d", library.LibraryVersion.Major, library.LibraryVersion.Minor)
	for name, actual := range map[string]string{
		"library-manufacturer": library.ManufacturerID, "library-description": library.LibraryDescription,
		"slot-manufacturer": slotInfo.ManufacturerID, "slot-description": slotInfo.SlotDescription, "slot-id": strconv.FormatUint(uint64(slot), 10),
		"manufacturer": info.ManufacturerID, "model": info.Model, "serial": info.SerialNumber, "token": info.Label,
	} {
		if want, given := t.options.URI.path[name]; given && want != trim(actual) {
			return false
		}
	}
	want, given := t.options.URI.path["library-version"]
	if given && !strings.Contains(want, ".") {
		want += ".0" // section 2.3
	}
	return !given || want == version
}

// login logs in if the token requires it.
func (t *token) login(ctx context.Context, s *session, info p11.TokenInfo) error {
	switch {
	case info.Flags&p11.CKF_LOGIN_REQUIRED == 0:
		return nil
	case info.Flags&p11.CKF_USER_PIN_LOCKED != 0:
		return p11.Error(p11.CKR_PIN_LOCKED)
	case info.Flags&p11.CKF_PROTECTED_AUTHENTICATION_PATH != 0 && t.options.PIN == nil:
		return s.login("") // the user types the PIN on the token's keypad
	}
	pin, kept, err := t.ask(ctx, trim(info.Label))
	if err != nil {
		return err
	}
	if kept {
		return t.loginKept(s, pin)
	}
	return pin.Use(func(b []byte) error {
		err := s.login(wipe.String(b))
		overwriteFreed(len(b) + 1)
		t.remember(pin, err)
		return err
	})
}

// loginKept logs in by the PIN that the kernel keeps, and wipes it. A PIN that the token
// refuses is forgotten: with some more tries the token would lock itself.
func (t *token) loginKept(s *session, pin *secrets.Secret) error {
	defer pin.Wipe()
	return pin.Use(func(b []byte) error {
		err := s.login(wipe.String(b))
		overwriteFreed(len(b) + 1)
		if errors.Is(err, p11.Error(p11.CKR_PIN_INCORRECT)) {
			_, forgetErr := opened.Forget(t.options.URI.keptName())
			return errors.Join(err, forgetErr)
		}
		return err
	})
}

func (s *session) login(pin string) error {
	err := s.module.Login(s.handle, p11.CKU_USER, pin)
	if errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		return nil // by another session of the process
	}
	return err
}

// ask returns the PIN that the token accepted before, that which the kernel keeps, or a new
// one from options.PIN. kept reports whether it is the kernel's.
func (t *token) ask(ctx context.Context, label string) (pin *secrets.Secret, kept bool, err error) {
	if t.pin != nil {
		return t.pin, false, nil
	}
	if !t.unlocking {
		if pin, _ := opened.Find(t.options.URI.keptName(), opened.Binding{}); pin != nil {
			return pin, true, nil
		}
	}
	if t.options.PIN == nil {
		return nil, false, fmt.Errorf("%w: the token %q requires a PIN: unlock the store, or give pin-source=file:PATH", secrets.ErrPassphrase, label)
	}
	given, err := t.options.PIN(ctx, "PIN of the token "+label)
	if err != nil {
		return nil, false, fmt.Errorf("%w: the PIN of the token %q: %w", pinError(err), label, err)
	}
	defer given.Wipe()
	if pin, err = withoutNewline(given); err != nil {
		return nil, false, err
	}
	if t.refused != nil && bytes.Equal(t.refused, t.fingerprint(pin)) {
		pin.Wipe()
		return nil, false, fmt.Errorf("%w: the token has refused this PIN before: it is not tried again, because the token would lock itself", secrets.ErrDenied)
	}
	return pin, false, nil
}

// pinError returns the store's error for an error of options.PIN.
func pinError(err error) error {
	if errors.Is(err, os.ErrPermission) {
		return secrets.ErrDenied
	}
	return secrets.ErrLocked
}

// withoutNewline returns a copy without a final line feed, which text files have and
// PINs do not.
func withoutNewline(given *secrets.Secret) (*secrets.Secret, error) {
	var pin *secrets.Secret
	err := given.Use(func(b []byte) error {
		if n := len(b); n > 0 && b[n-1] == '\n' {
			b = b[:n-1]
		}
		pin = secrets.New(slices.Clone(b))
		return nil
	})
	return pin, err
}

// remember records whether the token accepted or refused the PIN.
func (t *token) remember(pin *secrets.Secret, err error) {
	switch {
	case err == nil:
		t.pin = pin
	case errors.Is(err, p11.Error(p11.CKR_PIN_INCORRECT)):
		t.pin, t.refused = nil, t.fingerprint(pin)
	}
	if t.pin != pin {
		pin.Wipe()
	}
}

// fingerprint returns a hash by which a PIN can be recognised in this process.
func (t *token) fingerprint(pin *secrets.Secret) []byte {
	if t.salt == ([sha256.BlockSize]byte{}) {
		_, _ = rand.Read(t.salt[:]) // never fails
	}
	var out []byte
	_ = pin.Use(func(b []byte) error { // fails only for a wiped secret
		wipe.Stack(func() {
			h := sha256.New()
			defer wipe.Value(h)
			_, _ = h.Write(t.salt[:]) // never fails
			_, _ = h.Write(b)
			out = h.Sum(nil)
		})
		return nil
	})
	return out
}

// answer converts an error of the module to one of package secrets.
func answer(err error) error {
	var code p11.Error
	if !errors.As(err, &code) {
		return err
	}
	kind, hint := secrets.ErrUnreachable, ""
	switch uint(code) {
	case p11.CKR_PIN_INCORRECT, p11.CKR_PIN_INVALID, p11.CKR_PIN_LEN_RANGE:
		kind, hint = secrets.ErrWrongPassphrase, ": the PIN is wrong"
	case p11.CKR_PIN_LOCKED:
		kind, hint = secrets.ErrLocked, ": too many wrong PINs: the security officer must set a new one (pkcs11-tool --init-pin)"
	case p11.CKR_PIN_EXPIRED, p11.CKR_USER_PIN_NOT_INITIALIZED, p11.CKR_USER_NOT_LOGGED_IN:
		kind, hint = secrets.ErrLocked, ": set its PIN (pkcs11-tool --init-pin, --change-pin)"
	case p11.CKR_ATTRIBUTE_SENSITIVE, p11.CKR_KEY_UNEXTRACTABLE, p11.CKR_KEY_FUNCTION_NOT_PERMITTED, p11.CKR_ACTION_PROHIBITED,
		p11.CKR_TOKEN_WRITE_PROTECTED, p11.CKR_SESSION_READ_ONLY, p11.CKR_USER_ANOTHER_ALREADY_LOGGED_IN:
		kind = secrets.ErrDenied
	}
	return fmt.Errorf("%w: the token returned %w%s", kind, err, hint)
}

// objects returns the objects that have the attributes.
func (s *session) objects(attributes ...*p11.Attribute) (found []p11.ObjectHandle, err error) {
	if err := s.module.FindObjectsInit(s.handle, attributes); err != nil {
		return nil, err
	}
	const some = 64
	for {
		more, _, err := s.module.FindObjects(s.handle, some)
		if err != nil || len(more) == 0 {
			return found, errors.Join(err, s.module.FindObjectsFinal(s.handle))
		}
		found = append(found, more...)
	}
}

// read returns one attribute of an object.
func (s *session) read(object p11.ObjectHandle, attribute uint) ([]byte, error) {
	got, err := s.module.GetAttributeValue(s.handle, object, []*p11.Attribute{p11.NewAttribute(attribute, nil)})
	if err != nil {
		return nil, err
	}
	overwriteFreed(len(got[0].Value))
	return got[0].Value, nil
}
