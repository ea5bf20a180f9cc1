package keyring_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keyring"
)

func Example() {
	store := keyring.New(keyring.Options{Address: "unix:path=/nonexistent"})
	_, err := store.Lookup(context.Background(), secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"})
	fmt.Println(errors.Is(err, secrets.ErrUnreachable))
	// Output: true
}

func TestStore(t *testing.T) {
	t.Parallel()
	for _, collection := range []string{"default", "session"} {
		t.Run(collection, func(t *testing.T) {
			t.Parallel()
			storetest.Run(t, func(t *testing.T) storetest.Fixture {
				d := newDesktop(t)
				o := keyring.Options{Address: d.address, Collection: collection}
				if strings.HasSuffix(t.Name(), "/hanging") {
					o.Timeout = time.Second
				}
				f := storetest.Fixture{
					Store: keyring.New(o),
					Break: func(*testing.T) { end(d.daemon) },
					Hang: func(t *testing.T) {
						must.OK(t, d.daemon.Process.Signal(syscall.SIGSTOP))
					},
					Reopen:     func(*testing.T) secrets.Store { return keyring.New(o) },
					NoLocks:    true,
					Persistent: collection != "session",
				}
				if collection == "default" {
					f.Lock = d.lock
				}
				return f
			})
		})
	}
}

func TestOtherToolsMakeItems(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	const tool = "secret-tool"
	must.Have(t, tool)
	id := uuid.New()
	d.run(t, "from a tool", tool, "store", "--label=vm1", "application", "luksplug", "uuid", id.String())
	d.run(t, "for a usage", tool, "store", "--label=vm2", "application", "luksplug", "usage-type", "volume", "usage", "/x y")
	d.run(t, "another's", tool, "store", "--label=other", "application", "mail", "uuid", id.String())
	store := keyring.New(keyring.Options{Address: d.address})
	for ref, want := range map[secrets.Reference]string{
		{Type: secrets.Passphrase, UUID: id}:         "from a tool",
		{Type: secrets.Passphrase, Usage: "/x y"}:    "for a usage",
		{Type: secrets.Ceph, UUID: id}:               "from a tool", // it has no usage
		{Type: secrets.Passphrase, Usage: "/x"}:      "",
		{Type: secrets.Ceph, Usage: "/x y"}:          "",
		{Type: secrets.Passphrase, UUID: uuid.New()}: "",
	} {
		found, err := store.Lookup(t.Context(), ref)
		if want == "" {
			if !errors.Is(err, secrets.ErrNotFound) {
				t.Errorf("%s: %v", ref, err)
			}
			continue
		}
		if err != nil || !found.Equal(secrets.New([]byte(want))) {
			t.Errorf("%s: %v", ref, err)
		}
	}
	if documents, err := store.List(t.Context()); err != nil || len(documents) != 2 {
		t.Errorf("%+v, %v", documents, err)
	}
	// The tool finds luksplug's secret.
	ours := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), ours), store.Set(t.Context(), ours.Reference(), secrets.New([]byte("ours"))))
	if got := d.run(t, "", tool, "lookup", "application", "luksplug", "uuid", ours.UUID.String()); got != "ours" {
		t.Errorf("secret-tool finds %q", got)
	}
	// Two items with the same uuid.
	d.run(t, "twice", tool, "store", "--label=vm1", "application", "luksplug", "uuid", id.String(), "more", "x")
	storetest.Fails(t, store, secrets.Reference{Type: secrets.Passphrase, UUID: id}, secrets.ErrDamaged, "2 items")
	// An invalid item does not affect others.
	d.run(t, "bad", tool, "store", "--label=bad", "application", "luksplug", "uuid", "not-a-uuid")
	documents, err := store.List(t.Context())
	if !errors.Is(err, secrets.ErrDamaged) || !strings.Contains(err.Error(), "not-a-uuid") || len(documents) != 4 {
		t.Errorf("%+v, %v", documents, err)
	}
}

// run runs a program of the desktop.
func (d *desktop) run(t *testing.T, stdin, name string, args ...string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), name, args...)
	cmd.Env = append(cmd.Environ(), "DBUS_SESSION_BUS_ADDRESS="+d.address, "HOME="+d.dir)
	cmd.Stdin = strings.NewReader(stdin)
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v", cmd.Args, err)
	}
	return string(out)
}

// A locked keyring stays locked if no prompt is possible, and the errors of all
// methods say how to unlock it.
func TestLocked(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	store := keyring.New(keyring.Options{Address: d.address})
	known, other := secrets.Document{UUID: uuid.New()}, secrets.Document{UUID: uuid.New()}
	value := secrets.New([]byte("confidential"))
	must.OK(t, store.Define(t.Context(), known), store.Set(t.Context(), known.Reference(), value))
	d.lock(t)
	_, lookup := store.Lookup(t.Context(), known.Reference())
	_, list := store.List(t.Context())
	for what, err := range map[string]error{
		"look-up": lookup, "list": list, "define": store.Define(t.Context(), other),
		"set": store.Set(t.Context(), known.Reference(), value), "remove": store.Remove(t.Context(), known.Reference()),
	} {
		if !errors.Is(err, secrets.ErrLocked) || !strings.Contains(err.Error(), "unlock the keyring") {
			t.Errorf("%s: %v", what, err)
		}
	}
	// After the next login all secrets are available.
	must.OK(t, d.daemon.Process.Kill())
	_ = d.daemon.Wait() // reports that it was killed
	d.startKeyring(t)
	found, err := store.Lookup(t.Context(), known.Reference())
	if err != nil || !found.Equal(value) {
		t.Error(err)
	}
}

func TestCollections(t *testing.T) {
	t.Parallel()
	d := newDesktop(t)
	err := keyring.New(keyring.Options{Address: d.address, Collection: "nowhere"}).Define(t.Context(), secrets.Document{UUID: uuid.New()})
	if !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), "nowhere") {
		t.Error(err)
	}
}

// No bus configured, a missing bus, and a bus that accepts and never replies.
func TestBuses(t *testing.T) {
	t.Parallel()
	dir := must.Dir(t, "")
	listener := must.Get(net.Listen("unix", filepath.Join(dir, "s")))(t)
	t.Cleanup(func() { _ = listener.Close() }) // the test is over
	for address, text := range map[string]string{
		"":                                      "DBUS_SESSION_BUS_ADDRESS",
		"unix:path=/nonexistent":                "no such file",
		"nonsense":                              "session bus",
		"unix:path=" + listener.Addr().String(): "200ms",
	} {
		begin := time.Now()
		_, err := keyring.New(keyring.Options{Address: address, Timeout: 200 * time.Millisecond}).Lookup(t.Context(), storetest.ByUUID())
		if !errors.Is(err, secrets.ErrUnreachable) || !strings.Contains(err.Error(), text) {
			t.Errorf("%q: %v", address, err)
		}
		if took := time.Since(begin); took > 10*time.Second {
			t.Errorf("%q: it took %s", address, took)
		}
	}
}
