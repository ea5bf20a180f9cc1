//go:build pkcs11 && cgo

package pkcs11

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"

	p11 "github.com/miekg/pkcs11"

	"github.com/luksplug/luksplug/secrets"
)

// module is a PKCS#11 module and the lock for calling it. With CKF_OS_LOCKING_OK the
// standard allows concurrent calls, but modules implement that badly (SoftHSM 2.6
// returns wrong errors, or aborts the program), and a look-up is short.
type module struct {
	path string
	turn chan struct{} // capacity 1: full while a goroutine calls the module
	// Ctx is nil until the module is loaded. Only the goroutine that has entered uses it.
	*p11.Ctx
}

// modules are those of the process, by path. It is global because loading is: loading
// a module again returns the same instance, with all its state.
var modules = struct {
	mu     sync.Mutex
	byPath map[string]*module
}{byPath: map[string]*module{}}

// moduleOf returns the module that a URI names.
func moduleOf(u URI) (*module, error) {
	path, err := modulePath(u)
	if err != nil {
		return nil, err
	}
	modules.mu.Lock()
	defer modules.mu.Unlock()
	m := modules.byPath[path]
	if m == nil {
		m = &module{path: path, turn: make(chan struct{}, 1)}
		modules.byPath[path] = m
	}
	return m, nil
}

// load loads and initializes the module unless it is loaded. The caller has entered it.
func (m *module) load() error {
	if m.Ctx != nil {
		return nil
	}
	ctx := p11.New(m.path)
	if ctx == nil {
		return fmt.Errorf("%w: the module %s cannot be loaded: is it a PKCS#11 library for this machine?", secrets.ErrUnreachable, m.path)
	}
	// Other code of the process may have initialized it: they share its state.
	if err := ctx.Initialize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		ctx.Destroy()
		return err
	}
	m.Ctx = ctx
	return nil
}

// enter takes the lock of the module, waiting until ctx ends; leave releases it. A call that never returns keeps it.
func (m *module) enter(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: another call holds its module and has not returned", secrets.ErrUnreachable)
	}
}

func (m *module) leave() { <-m.turn }

// modulePath returns the path of the module. The default is p11-kit's proxy for all
// modules that the host has configured.
func modulePath(u URI) (string, error) {
	if path := u.query["module-path"]; path != "" {
		return path, nil
	}
	name := u.query["module-name"]
	if name == "" {
		name = "p11-kit-proxy"
	}
	for _, pattern := range []string{
		"/usr/lib/*/pkcs11", "/usr/lib/pkcs11", "/usr/lib64/pkcs11", "/usr/local/lib/pkcs11", "/usr/lib/*", "/usr/lib64", "/usr/lib/softhsm",
	} {
		for _, file := range []string{name + ".so", "lib" + name + ".so"} {
			found, err := filepath.Glob(filepath.Join(pattern, file))
			if err == nil && len(found) > 0 {
				return found[0], nil
			}
		}
	}
	return "", fmt.Errorf("%w: there is no module %s in the usual directories: give module-path", secrets.ErrUnreachable, name)
}
