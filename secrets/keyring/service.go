package keyring

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/godbus/dbus/v5"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// The names of the Secret Service.
const (
	busName         = "org.freedesktop.secrets"
	servicePath     = dbus.ObjectPath("/org/freedesktop/secrets")
	serviceName     = "org.freedesktop.Secret.Service"
	collectionName  = "org.freedesktop.Secret.Collection"
	itemName        = "org.freedesktop.Secret.Item"
	promptName      = "org.freedesktop.Secret.Prompt"
	nothing         = dbus.ObjectPath("/") // means no object in a reply
	howToUnlock     = "unlock the keyring at the desktop, or log in there"
	propertiesGet   = "org.freedesktop.DBus.Properties.Get"
	propertiesSet   = "org.freedesktop.DBus.Properties.Set"
	signalCompleted = promptName + ".Completed"
)

// service is a connection to the service.
type service struct {
	conn    *dbus.Conn
	session *session
}

// dial connects to the bus. The connection ends with ctx.
func dial(ctx context.Context, address string) (*dbus.Conn, error) {
	connect := func() (*dbus.Conn, error) { return dbus.Connect(address, dbus.WithContext(ctx)) } // the handshake ignores ctx
	conn, err := storecall.Await(ctx, connect, func(c *dbus.Conn) { _ = c.Close() })
	if err != nil {
		return nil, fmt.Errorf("%w: the session bus: %w", secrets.ErrUnreachable, err)
	}
	return conn, nil
}

func (s *service) object(path dbus.ObjectPath) dbus.BusObject { return s.conn.Object(busName, path) }

// call calls a method and stores what it returns. gnome-keyring by chance does not know a
// client at its first call and then answers that it has no such method, without having done
// anything: such a call is repeated.
func (s *service) call(ctx context.Context, path dbus.ObjectPath, method string, args []any, results ...any) error {
	call := s.object(path).CallWithContext(ctx, method, 0, args...)
	for attempt := 1; attempt < 5 && unknownMethod(call.Err) && ctx.Err() == nil; attempt++ {
		time.Sleep(time.Duration(attempt) * 10 * time.Millisecond)
		call = s.object(path).CallWithContext(ctx, method, 0, args...)
	}
	if call.Err != nil {
		return answer(call.Err)
	}
	if len(results) == 0 {
		return nil
	}
	if err := call.Store(results...); err != nil {
		return fmt.Errorf("%w: the service's reply to %s: %w", secrets.ErrUnreachable, method, err)
	}
	return nil
}

// openSession negotiates the session key.
func (s *service) openSession(ctx context.Context) error {
	e, err := newExchange()
	if err != nil {
		return err
	}
	var theirs dbus.Variant
	var path dbus.ObjectPath
	if err := s.call(ctx, servicePath, serviceName+".OpenSession", []any{algorithm, dbus.MakeVariant(e.public())}, &theirs, &path); err != nil {
		return err
	}
	public, ok := theirs.Value().([]byte)
	if !ok {
		return fmt.Errorf("%w: %w", secrets.ErrUnreachable, errExchange)
	}
	key, err := e.key(public)
	if err != nil {
		return fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
	}
	s.session = &session{path, key}
	return nil
}

// search returns the items with the attributes, all unlocked.
func (s *service) search(ctx context.Context, attributes map[string]string) ([]dbus.ObjectPath, error) {
	var unlocked, locked []dbus.ObjectPath
	if err := s.call(ctx, servicePath, serviceName+".SearchItems", []any{attributes}, &unlocked, &locked); err != nil {
		return nil, err
	}
	if len(locked) == 0 {
		return unlocked, nil
	}
	if err := s.unlock(ctx, locked); err != nil {
		return nil, err
	}
	return append(unlocked, locked...), nil
}

// unlock unlocks objects, if need be by a prompt.
func (s *service) unlock(ctx context.Context, objects []dbus.ObjectPath) error {
	var unlocked []dbus.ObjectPath
	var prompt dbus.ObjectPath
	if err := s.call(ctx, servicePath, serviceName+".Unlock", []any{objects}, &unlocked, &prompt); err != nil {
		return err
	}
	return s.prompt(ctx, prompt)
}

// prompt makes the service show the prompt, and waits for its result.
func (s *service) prompt(ctx context.Context, prompt dbus.ObjectPath) error {
	if prompt == nothing || prompt == "" {
		return nil
	}
	match := []dbus.MatchOption{dbus.WithMatchObjectPath(prompt), dbus.WithMatchInterface(promptName), dbus.WithMatchSender(busName)}
	if err := s.conn.AddMatchSignalContext(ctx, match...); err != nil {
		return answer(err)
	}
	signals := make(chan *dbus.Signal, 8)
	s.conn.Signal(signals)
	defer s.conn.RemoveSignal(signals)
	if err := s.call(ctx, prompt, promptName+".Prompt", []any{""}); err != nil {
		return err
	}
	for {
		select {
		case <-ctx.Done():
			return fmt.Errorf("%w: its prompt was not answered: %s: %w", secrets.ErrLocked, howToUnlock, ctx.Err())
		case signal, open := <-signals:
			if !open {
				return fmt.Errorf("%w: the session bus has ended", secrets.ErrUnreachable)
			}
			if signal.Path != prompt || signal.Name != signalCompleted || len(signal.Body) == 0 {
				continue
			}
			if dismissed, ok := signal.Body[0].(bool); !ok || dismissed {
				return fmt.Errorf("%w: its prompt was dismissed, or there is no display to show it: %s", secrets.ErrLocked, howToUnlock)
			}
			return nil
		}
	}
}

// property reads a property.
func (s *service) property(ctx context.Context, path dbus.ObjectPath, iface, name string, result any) error {
	var v dbus.Variant
	if err := s.call(ctx, path, propertiesGet, []any{iface, name}, &v); err != nil {
		return err
	}
	if err := v.Store(result); err != nil {
		return fmt.Errorf("%w: the service's property %s: %w", secrets.ErrUnreachable, name, err)
	}
	return nil
}

// collection returns the collection with that alias, unlocked.
func (s *service) collection(ctx context.Context, alias string) (dbus.ObjectPath, error) {
	var path dbus.ObjectPath
	if err := s.call(ctx, servicePath, serviceName+".ReadAlias", []any{alias}, &path); err != nil {
		return "", err
	}
	if path == nothing {
		return "", fmt.Errorf("%w: it has no collection %s: create it at the desktop", secrets.ErrUnreachable, alias)
	}
	var locked bool
	if err := s.property(ctx, path, collectionName, "Locked", &locked); err != nil {
		return "", err
	}
	if !locked {
		return path, nil
	}
	return path, s.unlock(ctx, []dbus.ObjectPath{path})
}

// answer converts an error of the bus or the service to one of package secrets, by
// the error names of the Secret Service and D-Bus specifications.
func answer(err error) error {
	var e dbus.Error
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	if !errors.As(err, &e) {
		return fmt.Errorf("%w: the session bus: %w", secrets.ErrUnreachable, err)
	}
	switch e.Name {
	case "org.freedesktop.Secret.Error.IsLocked":
		return fmt.Errorf("%w: %s", secrets.ErrLocked, howToUnlock)
	case "org.freedesktop.Secret.Error.NoSuchObject", "org.freedesktop.DBus.Error.UnknownObject":
		return secrets.ErrNotFound
	case "org.freedesktop.DBus.Error.AccessDenied":
		return fmt.Errorf("%w: %w", secrets.ErrDenied, err)
	case "org.freedesktop.DBus.Error.ServiceUnknown", "org.freedesktop.DBus.Error.NameHasNoOwner":
		return fmt.Errorf("%w: the session bus has no Secret Service: start gnome-keyring, KWallet or KeePassXC", secrets.ErrUnreachable)
	}
	return fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
}

// unknownMethod reports whether the service answered that it does not have the method.
func unknownMethod(err error) bool {
	var e dbus.Error
	return errors.As(err, &e) && e.Name == "org.freedesktop.DBus.Error.UnknownMethod"
}
