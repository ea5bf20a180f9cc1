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

// module is a module of the process and the right to call it, which one holds at a
// time. The standard lets several threads in, after CKF_OS_LOCKING_OK; but modules
// keep that promise badly (SoftHSM 2.6 answers with wrong errors, or aborts the
// program), and a look-up is short.
type module struct {
	path string
	turn chan struct{} // one element: taken by the goroutine that calls the module
	// Ctx is nil until the module is loaded. It belongs to the goroutine that has the turn.
	*p11.Ctx
}

// modules are those that the process has asked for, by path. Global as loading is:
// loading a module again returns the loaded one, with all its state.
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

// load loads the module, the first time. The caller has entered it.
func (m *module) load() error {
	if m.Ctx != nil {
		return nil
	}
	ctx := p11.New(m.path)
	if ctx == nil {
		return fmt.Errorf("%w: the module %s cannot be loaded: is it a PKCS#11 library for this machine?", secrets.ErrUnreachable, m.path)
	}
	// Other code of the process may have done so: it is one state for all.
	if err := ctx.Initialize(); err != nil && !errors.Is(err, p11.Error(p11.CKR_CRYPTOKI_ALREADY_INITIALIZED)) {
		ctx.Destroy()
		return err
	}
	m.Ctx = ctx
	return nil
}

// enter waits for the right to call the module, until ctx ends; leave returns it. A call that never returns keeps it.
func (m *module) enter(ctx context.Context) error {
	select {
	case m.turn <- struct{}{}:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("%w: another call holds its module, and does not return", secrets.ErrUnreachable)
	}
}

func (m *module) leave() { <-m.turn }

// modulePath returns where the module is. Without one in the URI it is p11-kit's,
// which stands for all that the host is configured for.
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
