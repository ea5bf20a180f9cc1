package integration

import (
	"context"
	"errors"
	"io"
	"net"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/digitalocean/go-libvirt/socket/dialers"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/libvirtstore"
)

// libvirtKeys is a connection to libvirt with which tests define secrets.
type libvirtKeys struct {
	mu sync.Mutex
	l  *libvirt.Libvirt
}

func newLibvirtKeys(t *testing.T, d *peer.Libvirt) *libvirtKeys {
	t.Helper()
	l := libvirt.NewWithDialer(dialers.NewLocal(dialers.WithSocket(d.Socket)))
	must.OK(t, l.Connect())
	t.Cleanup(func() { _ = l.Disconnect() }) // libvirtd may have ended
	return &libvirtKeys{l: l}
}

// define defines a secret, with a value unless it is nil.
func (k *libvirtKeys) define(t *testing.T, d secrets.Document, value []byte) {
	t.Helper()
	k.mu.Lock()
	defer k.mu.Unlock()
	secret, err := k.l.SecretDefineXML(string(d.XML()), 0)
	if err == nil && value != nil {
		err = k.l.SecretSetValue(secret, value, 0)
	}
	must.OK(t, err)
}

func libvirtStore(t *testing.T, socket string, timeout time.Duration) *libvirtstore.Store {
	t.Helper()
	return must.Get(libvirtstore.New(&url.URL{Scheme: "qemu", Path: "/system", RawQuery: "socket=" + socket}, timeout))(t)
}

// gateway is a socket that forwards to another, until it is broken or hung.
type gateway struct {
	path     string
	listener net.Listener
	mu       sync.Mutex
	hung     bool
}

func newGateway(t *testing.T, to string) *gateway {
	t.Helper()
	g := &gateway{path: filepath.Join(shortDir(t, ""), "s")}
	g.listener = must.Get(net.Listen("unix", g.path))(t)
	t.Cleanup(func() { _ = g.listener.Close() }) // it may be closed already
	go func() {
		for {
			from, err := g.listener.Accept()
			if err != nil {
				return
			}
			go g.serve(from, to)
		}
	}()
	return g
}

// serve copies in both directions until one side ends. Any error counts as the end.
func (g *gateway) serve(from net.Conn, to string) {
	defer func() { _ = from.Close() }()
	g.mu.Lock()
	hung := g.hung
	g.mu.Unlock()
	if hung {
		_, _ = io.Copy(io.Discard, from)
		return
	}
	other, err := net.Dial("unix", to)
	if err != nil {
		return
	}
	go func() {
		_, _ = io.Copy(from, other)
		_ = from.Close()
	}()
	_, _ = io.Copy(other, from)
	_ = other.Close()
}

// TestKeystoreLibvirt runs the suite of all stores on libvirt's own secrets.
func TestKeystoreLibvirt(t *testing.T) {
	t.Parallel()
	d := peer.Libvirtd(t)
	keys := newLibvirtKeys(t, d)
	if _, err := libvirtStore(t, d.Socket, time.Minute).List(t.Context()); err != nil {
		t.Fatalf("list nothing: %v", err)
	}
	var mu sync.Mutex
	byUsage := map[secrets.Reference]uuid.UUID{}
	// One libvirtd is enough for all: no two tests use the same reference.
	t.Run("suite", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) storetest.Fixture {
			timeout := time.Minute // the machine may be busy
			if strings.HasSuffix(t.Name(), "/hanging") {
				timeout = time.Second
			}
			g := newGateway(t, d.Socket)
			doc := func(ref secrets.Reference) secrets.Document {
				id := ref.UUID
				if ref.Usage == "" {
					return secrets.Document{UUID: id}
				}
				mu.Lock()
				defer mu.Unlock()
				if id = byUsage[ref]; id == uuid.Nil {
					id = uuid.New()
					byUsage[ref] = id
				}
				return secrets.Document{UUID: id, UsageType: ref.Type.UsageType(), Usage: ref.Usage}
			}
			return storetest.Fixture{
				Store: libvirtStore(t, g.path, timeout),
				Put:   func(t *testing.T, ref secrets.Reference, value []byte) { keys.define(t, doc(ref), value) },
				Deny: func(t *testing.T, ref secrets.Reference) {
					d := doc(ref)
					d.Private = true
					keys.define(t, d, nil)
				},
				Break: func(t *testing.T) { _ = g.listener.Close() }, // removes the socket
				Hang: func(*testing.T) {
					g.mu.Lock()
					defer g.mu.Unlock()
					g.hung = true
				},
				Holds: func(ref secrets.Reference) bool { return secrets.IsText(ref.Usage) },
			}
		})
	})

	store := libvirtStore(t, d.Socket, time.Minute)
	private := secrets.Document{UUID: uuid.New(), Private: true, Description: "<&>", UsageType: secrets.UsageTLS, Usage: "mumbly ä"}
	valueless := secrets.Document{UUID: uuid.New(), Ephemeral: true, UsageType: secrets.UsageVTPM, Usage: "tpm"}
	keys.define(t, private, []byte("confidential"))
	keys.define(t, valueless, nil)
	for _, c := range []struct {
		ref  secrets.Reference
		want error
		text string
	}{
		{private.Reference(), secrets.ErrPrivate, "private='no'"},
		{secrets.Reference{Type: secrets.TLS, Usage: "mumbly ä"}, secrets.ErrPrivate, "set-value"},
		{secrets.Reference{Type: secrets.Ceph, UUID: private.UUID}, secrets.ErrWrongType, "tls"},
		{valueless.Reference(), secrets.ErrNoValue, "virsh secret-set-value"},
	} {
		if _, err := store.Lookup(t.Context(), c.ref); !errors.Is(err, c.want) || !strings.Contains(err.Error(), c.text) {
			t.Errorf("%s %s: %v", c.ref.Type, c.ref, err)
		}
	}
	documents, err := store.List(t.Context())
	if err != nil || !slices.Contains(documents, private) || !slices.Contains(documents, valueless) {
		t.Errorf("listed %+v, %v", documents, err)
	}
	if out, err := d.Virsh(t.Context(), "secret-list"); err != nil || strings.Count(out, "-") < len(documents) {
		t.Errorf("virsh lists %s, %v", out, err)
	}
	d.Close()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if _, err := store.Lookup(ctx, private.Reference()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Errorf("with libvirtd gone: %v", err)
	}
}
