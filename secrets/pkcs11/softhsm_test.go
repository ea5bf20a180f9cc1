//go:build pkcs11 && cgo

package pkcs11_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"testing"

	"github.com/google/uuid"
	p11 "github.com/miekg/pkcs11"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/memtest"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/pkcs11"
)

const (
	softhsm  = "/usr/lib/softhsm/libsofthsm2.so"
	rightPIN = "1234"
	soPIN    = "5678"
)

// hsm is the SoftHSM of the process, with its tokens in a temporary directory.
type hsm struct {
	shim   []byte
	mu     sync.Mutex // held during calls of module
	module *p11.Ctx
}

var theHSM = sync.OnceValues(startHSM) // by the standard, a process has one state

// TestMain configures the directory of SoftHSM's tokens, which SoftHSM reads once.
func TestMain(m *testing.M) {
	if memtest.Child() != nil {
		os.Exit(m.Run()) // with the tokens of the process that has started this one
	}
	dir, err := os.MkdirTemp("", "luksplug-softhsm-")
	if err == nil {
		err = errors.Join(os.Mkdir(filepath.Join(dir, "tokens"), 0o700),
			os.WriteFile(filepath.Join(dir, "conf"), []byte("directories.tokendir = "+dir+"/tokens\nlog.level = ERROR\n"), 0o600),
			os.Setenv("SOFTHSM2_CONF", filepath.Join(dir, "conf")), os.Setenv("LUKSPLUG_SOFTHSM_DIR", dir))
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	code := m.Run()
	_ = os.RemoveAll(dir)
	os.Exit(code)
}

func startHSM() (*hsm, error) {
	dir := os.Getenv("LUKSPLUG_SOFTHSM_DIR")
	out := filepath.Join(dir, "shim.so")
	if text, err := exec.Command("gcc", "-shared", "-fPIC", "-O1", "-Wall", "-DSOFTHSM=\""+softhsm+"\"", "-o", out, "testdata/shim.c", "-ldl").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("gcc: %w: %s", err, text)
	}
	shim, err := os.ReadFile(out)
	if err != nil {
		return nil, err
	}
	module := p11.New(out)
	if module == nil {
		return nil, errors.New("SoftHSM cannot be loaded")
	}
	// The code under test may have initialized it.
	if err := module.Initialize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		return nil, err
	}
	return &hsm{module: module, shim: shim}, nil
}

// card is the token of a test, with its own copy of the shim.
type card struct {
	hsm    *hsm
	label  string
	slot   uint
	module string // the path of the shim
}

// newCard creates an empty token.
func newCard(t *testing.T) *card {
	t.Helper()
	if _, err := os.Stat(softhsm); err != nil {
		t.Skip("SoftHSM is not installed (make setup installs it: softhsm2)")
	}
	h := must.Get(theHSM())(t)
	c := &card{hsm: h, label: uuid.NewString()[:30], module: filepath.Join(t.TempDir(), "shim.so")}
	must.OK(t, os.WriteFile(c.module, h.shim, 0o700))
	h.mu.Lock()
	defer h.mu.Unlock()
	slots, err := h.module.GetSlotList(true) // SoftHSM adds a free slot
	must.OK(t, err)
	for _, slot := range slots {
		info := must.Get(h.module.GetTokenInfo(slot))(t)
		if info.Flags&p11.CKF_TOKEN_INITIALIZED == 0 {
			c.slot = slot
			must.OK(t, h.module.InitToken(slot, soPIN, c.label))
			s := must.Get(h.module.OpenSession(slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION))(t)
			must.OK(t, h.module.Login(s, p11.CKU_SO, soPIN), h.module.InitPIN(s, rightPIN), h.module.Logout(s), h.module.CloseSession(s))
			return c
		}
	}
	t.Fatal("SoftHSM has no free slot")
	return nil
}

// set sets the fault of the token; see testdata/shim.c.
func (c *card) set(t *testing.T, state string) {
	t.Helper()
	must.Write(t, c.module+".state", state)
}

// inside runs f in a logged-in session of the test.
func (c *card) inside(t *testing.T, f func(m *p11.Ctx, s p11.SessionHandle) error) {
	t.Helper()
	c.hsm.mu.Lock()
	defer c.hsm.mu.Unlock()
	s := must.Get(c.hsm.module.OpenSession(c.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION))(t)
	if err := c.hsm.module.Login(s, p11.CKU_USER, rightPIN); !errors.Is(err, p11.Error(p11.CKR_USER_ALREADY_LOGGED_IN)) {
		must.OK(t, err)
	}
	must.OK(t, f(c.hsm.module, s), c.hsm.module.CloseSession(s))
}

// addData creates a data object as another program would.
func (c *card) addData(t *testing.T, application, label, value string) {
	t.Helper()
	c.inside(t, func(m *p11.Ctx, s p11.SessionHandle) error {
		_, err := m.CreateObject(s, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA), p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, true),
			p11.NewAttribute(p11.CKA_APPLICATION, application), p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_VALUE, value),
		})
		return err
	})
}

// addKey creates a key that cannot leave the token.
func (c *card) addKey(t *testing.T, label string) {
	t.Helper()
	c.inside(t, func(m *p11.Ctx, s p11.SessionHandle) error {
		attributes := []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_SECRET_KEY), p11.NewAttribute(p11.CKA_KEY_TYPE, p11.CKK_AES), p11.NewAttribute(p11.CKA_VALUE_LEN, 32),
			p11.NewAttribute(p11.CKA_LABEL, label), p11.NewAttribute(p11.CKA_ID, label+" id"), p11.NewAttribute(p11.CKA_EXTRACTABLE, false),
		}
		for _, yes := range []uint{p11.CKA_TOKEN, p11.CKA_PRIVATE, p11.CKA_SENSITIVE, p11.CKA_WRAP, p11.CKA_UNWRAP, p11.CKA_ENCRYPT, p11.CKA_DECRYPT} {
			attributes = append(attributes, p11.NewAttribute(yes, true))
		}
		_, err := m.GenerateKey(s, []*p11.Mechanism{p11.NewMechanism(p11.CKM_AES_KEY_GEN, nil)}, attributes)
		return err
	})
}

// options returns options of a store on the token, and appends more to the URI's path.
func (c *card) options(t *testing.T, more string) pkcs11.Options {
	t.Helper()
	u := must.Get(pkcs11.ParseURI("pkcs11:token=" + c.label + more + "?module-path=" + c.module))(t)
	return pkcs11.Options{URI: u, PIN: pin(rightPIN)}
}

// open returns the store that New makes of o.
func open[S secrets.Store](t *testing.T, o pkcs11.Options) S {
	t.Helper()
	store := must.Get(pkcs11.New(o))(t)
	s, ok := store.(S)
	if !ok {
		t.Fatalf("it is a %T", store)
	}
	return s
}

func secret(text string) *secrets.Secret { return secrets.New(bytes.Clone([]byte(text))) }

// inMemory reports whether path is on a tmpfs.
func inMemory(t *testing.T, path string) bool {
	t.Helper()
	var st unix.Statfs_t
	must.OK(t, unix.Statfs(path, &st))
	return st.Type == unix.TMPFS_MAGIC
}

// changePIN gives the token another PIN.
func (c *card) changePIN(t *testing.T, from, to string) {
	t.Helper()
	c.hsm.mu.Lock()
	defer c.hsm.mu.Unlock()
	s := must.Get(c.hsm.module.OpenSession(c.slot, p11.CKF_SERIAL_SESSION|p11.CKF_RW_SESSION))(t)
	must.OK(t, c.hsm.module.SetPIN(s, from, to), c.hsm.module.CloseSession(s))
}
