package keyring_test

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/keyring"
)

// asking is a Secret Service with one locked item and a simulated user who answers
// its prompt, which gnome-keyring does not allow.
type asking struct {
	conn      *dbus.Conn
	id        string
	dismissed bool
	silent    bool // the prompt is not answered
	asked     chan struct{}
}

const (
	askingItem   = dbus.ObjectPath("/item")
	askingPrompt = dbus.ObjectPath("/prompt")
)

// SearchItems implements the method of the service.
func (*asking) SearchItems(map[string]string) (unlocked, locked []dbus.ObjectPath, _ *dbus.Error) {
	return nil, []dbus.ObjectPath{askingItem}, nil
}

// Unlock implements the method of the service.
func (*asking) Unlock([]dbus.ObjectPath) (unlocked []dbus.ObjectPath, prompt dbus.ObjectPath, _ *dbus.Error) {
	return nil, askingPrompt, nil
}

// Prompt implements the method of the prompt.
func (a *asking) Prompt(string) *dbus.Error {
	a.asked <- struct{}{}
	if a.silent {
		return nil
	}
	if err := a.conn.Emit(askingPrompt, "org.freedesktop.Secret.Prompt.Completed", a.dismissed, dbus.MakeVariant("")); err != nil {
		return dbus.MakeFailedError(err)
	}
	return nil
}

// Get implements org.freedesktop.DBus.Properties of the item.
func (a *asking) Get(string, string) (dbus.Variant, *dbus.Error) {
	return dbus.MakeVariant(map[string]string{"application": "luksplug", "uuid": a.id}), nil
}

// newAsking exports a on a bus in place of gnome-keyring.
func newAsking(t *testing.T, a *asking) (_ *asking, address string) {
	t.Helper()
	d := newDesktop(t)
	end(d.daemon)
	conn := must.Get(dbus.Connect(d.address))(t)
	t.Cleanup(func() { _ = conn.Close() }) // the bus may have ended
	a.conn, a.id, a.asked = conn, uuid.New().String(), make(chan struct{}, 8)
	must.OK(t, conn.Export(a, "/org/freedesktop/secrets", "org.freedesktop.Secret.Service"),
		conn.Export(a, askingPrompt, "org.freedesktop.Secret.Prompt"),
		conn.Export(a, askingItem, "org.freedesktop.DBus.Properties"))
	// The bus may not have noticed yet that gnome-keyring has ended.
	if reply, err := conn.RequestName("org.freedesktop.secrets", 0); err != nil ||
		reply != dbus.RequestNameReplyPrimaryOwner && reply != dbus.RequestNameReplyInQueue {
		t.Fatal(reply, err)
	}
	d.wait(t, "the service", func() bool {
		var owner string
		err := conn.BusObject().Call("org.freedesktop.DBus.GetNameOwner", 0, "org.freedesktop.secrets").Store(&owner)
		return err == nil && owner == conn.Names()[0]
	})
	return a, d.address
}

func TestPrompt(t *testing.T) {
	t.Parallel()
	a, address := newAsking(t, &asking{})
	store := keyring.New(keyring.Options{Address: address})
	documents, err := store.List(t.Context())
	if err != nil || len(documents) != 1 || documents[0].UUID.String() != a.id || len(a.asked) != 1 {
		t.Errorf("unlocked: %+v, %v, asked %d times", documents, err, len(a.asked))
	}
}

func TestDismissedPrompt(t *testing.T) {
	t.Parallel()
	_, address := newAsking(t, &asking{dismissed: true})
	if _, err := keyring.New(keyring.Options{Address: address}).List(t.Context()); !errors.Is(err, secrets.ErrLocked) {
		t.Error(err)
	}
}

func TestPromptThatNobodyAnswers(t *testing.T) {
	t.Parallel()
	a, address := newAsking(t, &asking{silent: true})
	if _, err := keyring.New(keyring.Options{Address: address, Timeout: time.Second}).List(t.Context()); !errors.Is(err, secrets.ErrLocked) {
		t.Error(err)
	}
	for len(a.asked) > 0 {
		<-a.asked
	}
	ctx, cancel := context.WithCancel(t.Context())
	go func() {
		<-a.asked
		cancel()
	}()
	if _, err := keyring.New(keyring.Options{Address: address}).List(ctx); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
}
