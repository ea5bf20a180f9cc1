package integration

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/sirupsen/logrus"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// faultyHost is a host with the installed hook, in which faults can be injected. It records connections from a
// hook to libvirt.
type faultyHost struct {
	*hookHost
	base    string // directory of the injected faults
	program string // a link to the program, which the installed script calls
	config  string // the configuration's path
	usual   string // its text

	mu      sync.Mutex
	trapped []string // sockets of libvirt to which a hook has connected
}

// libvirtSockets are those of every libvirt daemon that a client may look for.
var libvirtSockets = []string{"libvirt-sock", "libvirt-sock-ro", "libvirt-admin-sock", "virtqemud-sock", "virtqemud-sock-ro",
	"virtsecretd-sock", "virtsecretd-sock-ro", "virtstoraged-sock", "virtstoraged-sock-ro", "virtproxyd-sock"}

// newFaultyHost starts a libvirtd with the installed hook. The shell runs the files before and after in its
// directory around each call, with the hook's arguments.
func newFaultyHost(t *testing.T) *faultyHost {
	t.Helper()
	base := shortDir(t, "")
	h := &faultyHost{base: base, program: filepath.Join(base, "luksplug")}
	installation := hook.Installation{Dir: filepath.Join(base, "hooks"), Program: h.program}
	must.OK(t, os.Symlink(luksplug, h.program))
	must.Get(installation.Install())(t)
	h.setTrap(t)
	keys := t.TempDir()
	// libvirt's own secrets, which the hook must not query, come first.
	h.usual = "connect: 'qemu:///system'\nkeystores: ['libvirt:', 'vm:', 'dir:" + keys + "']\n"
	l := peer.LibvirtdWith(t, peer.LibvirtOptions{Configuration: h.usual, Hook: fmt.Sprintf(`#!/bin/sh
[ -e %[1]s/before ] && . %[1]s/before
unshare --mount sh -c 'mount --bind %[1]s/trap /run/libvirt && exec "$0" "$@"' %[2]s "$@"
code=$?
[ -e %[1]s/after ] && . %[1]s/after
exit $code
`, base, installation.Path())})
	h.hookHost = &hookHost{l, keys}
	h.config = filepath.Join(l.Dir, "luksplug", "etc", "config.yaml")
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("the hook's log: %s", h.logged(t))
		}
		h.mu.Lock()
		defer h.mu.Unlock()
		if len(h.trapped) > 0 {
			t.Errorf("a hook has connected to libvirt: %q", h.trapped)
		}
	})
	return h
}

// setTrap listens on the paths of libvirt's sockets that a hook sees.
func (h *faultyHost) setTrap(t *testing.T) {
	t.Helper()
	dir := filepath.Join(h.base, "trap")
	must.OK(t, os.Mkdir(dir, 0o755))
	for _, name := range libvirtSockets {
		listener := must.Get(net.Listen("unix", filepath.Join(dir, name)))(t)
		t.Cleanup(func() { _ = listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return // the test has ended
				}
				h.mu.Lock()
				h.trapped = append(h.trapped, name)
				h.mu.Unlock()
				_ = conn.Close() // so that the client does not wait
			}
		}()
	}
}

// wantTrapWorks connects to libvirt as a hook would, and checks that this is recorded.
func (h *faultyHost) wantTrapWorks(ctx context.Context, t *testing.T) {
	t.Helper()
	for _, args := range [][]string{{"--connect", "qemu:///system", "--domain", "vm1", "list"}, {"--keystore", "libvirt:", "secret", "list"}} {
		line := "mount --bind " + h.base + "/trap /run/libvirt && exec " + luksplug + ` "$@"`
		run(ctx, t, h.Inside(ctx, "unshare", append([]string{"--mount", "sh", "-c", line, "sh"}, args...)...))
		h.mu.Lock()
		if len(h.trapped) == 0 {
			t.Errorf("the connection of %v was not recorded", args)
		}
		h.trapped = nil
		h.mu.Unlock()
	}
}

// put writes a file of the base directory, until undo.
func (h *faultyHost) put(t *testing.T, name, text string) (undo func()) {
	t.Helper()
	path := filepath.Join(h.base, name)
	must.OK(t, os.WriteFile(path, []byte(text), 0o755))
	return func() {
		must.OK(t, os.Remove(path))
	}
}

// configure replaces the configuration, until undo.
func (h *faultyHost) configure(t *testing.T, text string) (undo func()) {
	t.Helper()
	write := func(text string) {
		must.OK(t, os.WriteFile(h.config, []byte(text), 0o644))
	}
	write(text)
	return func() { write(h.usual) }
}

// replace replaces luksplug by another program, "" for none, until undo.
func (h *faultyHost) replace(t *testing.T, text string) (undo func()) {
	t.Helper()
	err := os.Remove(h.program)
	if err == nil && text != "" {
		err = os.WriteFile(h.program, []byte("#!/bin/sh\n"+text), 0o755)
	}
	must.OK(t, err)
	return func() {
		if err := os.Remove(h.program); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Fatal(err)
		}
		must.OK(t, os.Symlink(luksplug, h.program))
	}
}

// moved moves a file away, until undo.
func moved(t *testing.T, path string) (undo func()) {
	t.Helper()
	rename := func(from, to string) {
		must.OK(t, os.Rename(from, to))
	}
	rename(path, path+".away")
	return func() { rename(path+".away", path) }
}

// rewritten changes a file in place, until undo.
func rewritten(t *testing.T, path string, change func([]byte) []byte) (undo func()) {
	t.Helper()
	was := must.Get(os.ReadFile(path))(t)
	write := func(content []byte) {
		must.OK(t, os.WriteFile(path, content, 0o600))
	}
	write(change(append([]byte(nil), was...)))
	return func() { write(was) }
}

// brokenHook is the environment variable that makes this program a hook with a bug.
const brokenHook = "LUKSPLUG_TEST_BROKEN_HOOK"

// asBrokenHook returns a script that runs this program as a hook with a bug.
func asBrokenHook(t *testing.T) string {
	t.Helper()
	self := must.Get(os.Executable())(t)
	return brokenHook + "=yes exec " + self + ` "$@"`
}

// panicking is a key store with a bug.
type panicking struct{}

func (panicking) String() string { return "panicking" }
func (panicking) Lookup(context.Context, secrets.Reference) (*secrets.Secret, error) {
	panic("a bug, on purpose")
}

// runBrokenHook runs the hook with such a store, and returns the exit code.
func runBrokenHook(args []string) int {
	xml, err := io.ReadAll(os.Stdin)
	if err != nil || len(args) != 6 {
		return 99
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	e := hook.Event{Domain: args[2], Operation: hook.Operation(args[3]), Suboperation: args[4], Extra: args[5], XML: xml}
	output, err := hook.Host{Store: panicking{}, Log: log}.Run(context.Background(), e)
	if _, e := os.Stdout.Write(output); e != nil {
		return 99
	}
	if err == nil || e.Operation.MustSucceed() {
		return 0
	}
	_, _ = fmt.Fprintf(os.Stderr, "luksplug: %v\n", err)
	return 1
}
