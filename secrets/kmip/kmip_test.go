package kmip_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	kmipgo "github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/kmipserver"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/internal/testserver/kmiptest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/kmip"
)

func TestMain(m *testing.M) {
	kmiptest.Silence()
	os.Exit(m.Run())
}

func Example() {
	store := kmip.New(kmip.Options{Address: "127.0.0.1:1", Certificate: "/nonexistent/client.crt", Key: "/nonexistent/client.key"})
	_, err := store.Lookup(context.Background(), secrets.Reference{Type: secrets.Passphrase, Usage: "/var/lib/images/vm1.img"})
	fmt.Println(store, errors.Is(err, secrets.ErrUnreachable))
	// Output: kmip://127.0.0.1:1 true
}

// options returns the options of a client with that name.
func options(t *testing.T, a *kmiptest.Authority, address, client string) kmip.Options {
	t.Helper()
	pair := a.Client(t, client)
	o := kmip.Options{Address: address, Certificate: pair.Certificate, Key: pair.Key, CA: a.File, Timeout: time.Minute}
	if strings.HasSuffix(t.Name(), "/hanging") {
		o.Timeout = time.Second
	}
	return o
}

func TestStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		a := kmiptest.NewAuthority(t)
		server := kmiptest.NewServer(t, a)
		proxy := kmiptest.NewProxy(t, server.Address)
		o := options(t, a, proxy.Address, "client")
		return storetest.Fixture{
			Store:      kmip.New(o),
			Break:      func(*testing.T) { proxy.Break() },
			Hang:       func(*testing.T) { proxy.Hang() },
			Reopen:     func(*testing.T) secrets.Store { return kmip.New(o) },
			Deny:       func(*testing.T, secrets.Reference) { denyValues(server) },
			Damage:     func(_ *testing.T, ref secrets.Reference) { damage(server, ref) },
			NoLocks:    true,
			Persistent: true,
		}
	})
}

// Objects of one style are not found with the other style.
func TestStyles(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	server := kmiptest.NewServer(t, a)
	application := options(t, a, server.Address, "client")
	custom := application
	custom.Style = kmip.Custom
	testLife(t, custom, application)
	testLife(t, application, custom)
}

// denyValues makes the server refuse to return values, but not documents.
func denyValues(server *kmiptest.Server) {
	denied := map[string]bool{}
	server.Each(func(id string, o *kmiptest.Object) {
		if _, ok := o.Object.(*kmipgo.SecretData); ok {
			denied[id] = true
		}
	})
	server.Refuse = func(op kmipgo.Operation, id string) error {
		if op == kmipgo.OperationGet && denied[id] {
			return kmipserver.ErrPermissionDenied
		}
		return nil
	}
}

// damage corrupts the document of a secret.
func damage(server *kmiptest.Server, ref secrets.Reference) {
	server.Each(func(_ string, o *kmiptest.Object) {
		if d, ok := o.Object.(*kmipgo.OpaqueObject); ok && strings.Contains(string(d.OpaqueDataValue), ref.UUID.String()) {
			d.OpaqueDataValue = d.OpaqueDataValue[1:]
		}
	})
}

// The suite with a server that shares no code with the client. It takes half a
// minute, so without LUKSPLUG_LONG only testLife runs.
func TestPyKMIP(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	address := kmiptest.PyKMIP(t, a)
	t.Run("life", func(t *testing.T) {
		t.Parallel()
		testLife(t, options(t, a, address, "mine"), options(t, a, address, "other"))
	})
	t.Run("credentials", func(t *testing.T) { testCredentials(t, a, address) })
	if os.Getenv("LUKSPLUG_LONG") == "" {
		return
	}
	storetest.Run(t, func(t *testing.T) storetest.Fixture {
		proxy := kmiptest.NewProxy(t, address)
		o := options(t, a, proxy.Address, uuid.NewString()) // a client sees its own objects only
		return storetest.Fixture{
			Store:      kmip.New(o),
			Break:      func(*testing.T) { proxy.Break() },
			Hang:       func(*testing.T) { proxy.Hang() },
			Reopen:     func(*testing.T) secrets.Store { return kmip.New(o) },
			NoLocks:    true,
			Persistent: true,
		}
	})
}

// testLife defines, sets, reads and removes one secret.
func testLife(t *testing.T, mine, others kmip.Options) {
	store := kmip.New(mine)
	d := secrets.Document{UUID: uuid.New(), Private: true, Description: "käse", UsageType: secrets.UsageVolume, Usage: "/images/ö & 1%"}
	must.OK(t, store.Define(t.Context(), d))
	storetest.Fails(t, store, d.Reference(), secrets.ErrNoValue, "")
	random := make([]byte, 64)
	_, _ = rand.Read(random) // never fails
	random[0], random[1], random[63] = 0, 0xff, '\n'
	for _, value := range [][]byte{[]byte("the first"), random} {
		must.OK(t, store.Set(t.Context(), d.Reference(), secrets.New(bytes.Clone(value))))
		for _, ref := range []secrets.Reference{d.Reference(), storetest.ByUsage(d.Usage)} {
			found, err := store.Lookup(t.Context(), ref)
			if err != nil || !found.Equal(secrets.New(bytes.Clone(value))) {
				t.Errorf("%s: %v", ref, err)
			}
		}
	}
	listed, err := store.List(t.Context())
	if err != nil || len(listed) != 1 || listed[0] != d {
		t.Errorf("%+v, %v", listed, err)
	}
	storetest.Fails(t, store, secrets.Reference{Type: secrets.Ceph, UUID: d.UUID}, secrets.ErrWrongType, "")
	storetest.Fails(t, kmip.New(others), d.Reference(), secrets.ErrNotFound, "")
	must.OK(t, store.Remove(t.Context(), d.Reference()))
	storetest.Fails(t, store, d.Reference(), secrets.ErrNotFound, "")
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	testCredentials(t, a, kmiptest.NewServer(t, a).Address)
}

// testCredentials connects with wrong certificates.
func testCredentials(t *testing.T, a *kmiptest.Authority, address string) {
	stranger := kmiptest.NewAuthority(t)
	good, empty := options(t, a, address, "good"), must.File(t, "")
	_, port, _ := strings.Cut(address, ":")
	for name, c := range map[string]struct {
		change func(*kmip.Options)
		want   error
		text   string
	}{
		"right":         {func(*kmip.Options) {}, secrets.ErrNotFound, ""},
		"by name":       {func(o *kmip.Options) { o.Address = "localhost:" + port }, secrets.ErrNotFound, ""},
		"named":         {func(o *kmip.Options) { o.ServerName = "localhost" }, secrets.ErrNotFound, ""},
		"stranger":      {func(o *kmip.Options) { p := stranger.Client(t, "x"); o.Certificate, o.Key = p.Certificate, p.Key }, secrets.ErrDenied, "does not accept the client certificate"},
		"no client":     {func(o *kmip.Options) { o.Certificate, o.Key = "", "" }, secrets.ErrDenied, "client certificate"},
		"other server":  {func(o *kmip.Options) { o.CA = stranger.File }, secrets.ErrDenied, "not trusted"},
		"other name":    {func(o *kmip.Options) { o.ServerName = "elsewhere" }, secrets.ErrDenied, "not trusted"},
		"missing key":   {func(o *kmip.Options) { o.Key = "/nonexistent" }, secrets.ErrUnreachable, "/nonexistent"},
		"missing ca":    {func(o *kmip.Options) { o.CA = "/nonexistent" }, secrets.ErrUnreachable, "/nonexistent"},
		"empty ca":      {func(o *kmip.Options) { o.CA = empty }, secrets.ErrUnreachable, "no certificate"},
		"key as server": {func(o *kmip.Options) { o.Certificate, o.Key = o.Key, o.Certificate }, secrets.ErrUnreachable, "cannot be read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := good
			c.change(&o)
			_, err := kmip.New(o).Lookup(t.Context(), storetest.ByUUID())
			if !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
				t.Errorf("got %v, want %v that says %q", err, c.want, c.text)
			}
		})
	}
}

// A revoked value is not returned, and a new value is.
func TestRevoked(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	server := kmiptest.NewServer(t, a)
	store := kmip.New(options(t, a, server.Address, "client"))
	d := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("confidential"))))
	server.Each(func(_ string, o *kmiptest.Object) {
		if _, ok := o.Object.(*kmipgo.SecretData); ok {
			if o.State != kmipgo.StateActive {
				t.Errorf("the value is in state %v", o.State)
			}
			o.State = kmipgo.StateCompromised
		}
	})
	storetest.Fails(t, store, d.Reference(), secrets.ErrDenied, "revoked")
	must.OK(t, store.Set(t.Context(), d.Reference(), secrets.New([]byte("another"))))
	storetest.Finds(t, store, d.Reference(), "another")
	must.OK(t, store.Remove(t.Context(), d.Reference()))
	server.Each(func(id string, o *kmiptest.Object) { t.Errorf("%s is left behind: %v", id, o.Attributes) })
}

// After an interrupted change the newer value takes precedence, and the next change
// removes the older one.
func TestTwoGenerations(t *testing.T) {
	t.Parallel()
	a := kmiptest.NewAuthority(t)
	server := kmiptest.NewServer(t, a)
	store := kmip.New(options(t, a, server.Address, "client"))
	d := secrets.Document{UUID: uuid.New()}
	must.OK(t, store.Define(t.Context(), d), store.Set(t.Context(), d.Reference(), secrets.New([]byte("old"))))
	server.Refuse = func(op kmipgo.Operation, _ string) error {
		if op == kmipgo.OperationDestroy || op == kmipgo.OperationRevoke {
			return kmipserver.ErrPermissionDenied
		}
		return nil
	}
	if err := store.Set(t.Context(), d.Reference(), secrets.New([]byte("new"))); !errors.Is(err, secrets.ErrDenied) {
		t.Error(err)
	}
	wantObjects(t, server, 3)
	storetest.Finds(t, store, d.Reference(), "new")
	server.Refuse = nil
	must.OK(t, store.Set(t.Context(), d.Reference(), secrets.New([]byte("newest"))))
	wantObjects(t, server, 2)
}

func wantObjects(t *testing.T, server *kmiptest.Server, want int) {
	t.Helper()
	n := 0
	server.Each(func(string, *kmiptest.Object) { n++ })
	if n != want {
		t.Errorf("%d objects, want %d", n, want)
	}
}

func TestUnreadableFiles(t *testing.T) {
	t.Parallel()
	if os.Geteuid() == 0 {
		t.Skip("root may read everything")
	}
	path := filepath.Join(t.TempDir(), "ca.pem")
	must.OK(t, os.WriteFile(path, nil, 0))
	_, err := kmip.New(kmip.Options{Address: "127.0.0.1:1", CA: path}).Lookup(t.Context(), storetest.ByUUID())
	if !errors.Is(err, secrets.ErrDenied) {
		t.Error(err)
	}
}
