package keyring

import (
	"os"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, _ storeuri.Options) (secrets.Store, error) {
	if err := l.Nothing(); err != nil {
		return nil, err
	}
	timeout, err := l.TakeDuration("timeout", time.Minute)
	if err != nil {
		return nil, err
	}
	return New(Options{Address: sessionBus(), Collection: l.Take("collection"), Timeout: timeout}), nil
}

// sessionBus returns the address of the user's D-Bus; "" if there is none. It does
// not autolaunch a bus, which would have no Secret Service.
func sessionBus() string {
	if address := os.Getenv("DBUS_SESSION_BUS_ADDRESS"); address != "" {
		return address
	}
	if dir := os.Getenv("XDG_RUNTIME_DIR"); dir != "" {
		if path := filepath.Join(dir, "bus"); isSocket(path) {
			return "unix:path=" + path
		}
	}
	return ""
}

func isSocket(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().Type() == os.ModeSocket
}
