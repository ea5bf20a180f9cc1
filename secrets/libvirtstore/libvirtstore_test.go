package libvirtstore_test

// What needs a libvirtd is tested in integration/keystore_libvirt_test.go.

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/libvirtstore"
)

func open(t *testing.T, uri string, timeout time.Duration) *libvirtstore.Store {
	t.Helper()
	u, err := url.Parse(uri)
	if err != nil {
		t.Fatal(err)
	}
	store, err := libvirtstore.New(u, timeout)
	if err != nil {
		t.Fatal(err)
	}
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
		u, err := url.Parse(uri)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := libvirtstore.New(u, 0); !errors.Is(err, libvirtstore.ErrInvalidURI) {
			t.Errorf("%s: %v", uri, err)
		}
	}
}

// Somebody who accepts and says nothing, and nobody at all.
func TestHangingAndRefused(t *testing.T) {
	t.Parallel()
	folder, err := os.MkdirTemp("", "luksplug-libvirt") // short, as a socket's path has to be
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(folder) })
	path := filepath.Join(folder, "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
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
	if _, err := store.Lookup(t.Context(), storetest.ByUUID()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
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
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	<-gone
	if _, err := store.Lookup(t.Context(), storetest.ByUUID()); !errors.Is(err, secrets.ErrUnreachable) {
		t.Error(err)
	}
}
