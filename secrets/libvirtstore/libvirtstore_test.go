package libvirtstore_test

// Tests that need a libvirtd are in integration/keystore_libvirt_test.go.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/libvirtstore"
)

func open(t *testing.T, uri string, timeout time.Duration) *libvirtstore.Store {
	t.Helper()
	u := must.Get(url.Parse(uri))(t)
	store := must.Get(libvirtstore.New(u, timeout))(t)
	return store
}

func Example() {
	uri := &url.URL{Scheme: "qemu", Path: "/system", RawQuery: "socket=/nonexistent"}
	store, err := libvirtstore.New(uri, time.Second)
	if err != nil {
		panic(err)
	}
	_, err = store.Lookup(context.Background(), secrets.Reference{Type: secrets.Ceph, Usage: "client.libvirt"})
	fmt.Println(store, errors.Is(err, secrets.ErrUnreachable))
	// Output: libvirt+qemu:///system?socket=/nonexistent true
}

func TestURIs(t *testing.T) {
	t.Parallel()
	for _, uri := range []string{"qemu:///system", "qemu+unix:///session?socket=/x", "qemu+ssh://root@host/system", "qemu://host/system", "qemu+tcp://127.0.0.1/system", "qemu+tcp://localhost:1/system", "qemu+tcp://[::1]/system"} {
		open(t, uri, 0)
	}
	for _, uri := range []string{"", "/system", "qemu:system", "qemu+tcp://host/system", "qemu+tcp://192.0.2.1/system", "qemu+tcp:///system", "test:///default", "qemu+libssh://host/system"} {
		u := must.Get(url.Parse(uri))(t)
		if _, err := libvirtstore.New(u, 0); !errors.Is(err, libvirtstore.ErrInvalidURI) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// A server that accepts and never replies, and a missing server.
func TestHangingAndRefused(t *testing.T) {
	t.Parallel()
	dir := must.Dir(t, "")
	path := filepath.Join(dir, "s")
	listener := must.Get(net.Listen("unix", path))(t)
	gone := make(chan struct{})
	go func() {
		defer close(gone)
		for { // until the listener is closed
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			defer func() { _ = conn.Close() }()
		}
	}()
	store := open(t, "qemu:///system?socket="+path, 300*time.Millisecond)
	begin := time.Now()
	storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrUnreachable, "")
	if _, err := store.List(t.Context()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(50*time.Millisecond, cancel)
	if _, err := open(t, "qemu:///system?socket="+path, time.Hour).Lookup(ctx, storetest.ByUUID()); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	if took := time.Since(begin); took > 10*time.Second {
		t.Errorf("it took %s", took)
	}
	must.OK(t, listener.Close())
	<-gone
	storetest.Fails(t, store, storetest.ByUUID(), secrets.ErrUnreachable, "")
}
