package integration

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets/keystore"
)

// leakPlace is a store with a passphrase, and its failures.
type leakPlace struct {
	keystoreCase
	// sealed are further directories without the passphrase in clear.
	sealed []string
	// also are more secrets, such as a token; except are the files that have them in clear.
	also   []string
	except []string
	// failures are tried in this order; a later one may break the store.
	failures []leakFailure
}

// leakFailure is a failure of a store to return the passphrase.
type leakFailure struct {
	name  string
	says  string // a part of the error
	store keystoreCase
	spoil func() // makes this and later look-ups fail; nil if the URI does
}

// kindOf returns the kind of store of a URI, or of its syntax.
func kindOf(uri string) string {
	scheme, _, _ := strings.Cut(uri, ":")
	kind, _, _ := strings.Cut(scheme, "+")
	return kind
}

// TestEveryStoreIsSearchedForLeaks: every kind of key store needs an entry in leakStores.
func TestEveryStoreIsSearchedForLeaks(t *testing.T) {
	t.Parallel()
	known, searched := map[string]bool{}, map[string]bool{}
	for name := range leakStores() {
		searched[kindOf(name)] = true
	}
	for _, syntax := range keystore.Syntaxes() {
		known[kindOf(syntax)] = true
		if !searched[kindOf(syntax)] {
			t.Errorf("key store %s is not in leakStores: add its filler and its failures", syntax)
		}
	}
	for kind := range searched {
		if !known[kind] {
			t.Errorf("there is no key store %s", kind)
		}
	}
}

// TestStoresLeakNothing: in success and failure, the passphrase is in no output or file, and in nothing that
// other users can read of luksplug and the programs that it starts.
func TestStoresLeakNothing(t *testing.T) {
	t.Parallel()
	for name, fill := range leakStores() {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newLeakSearch(bounded(t), t, fill)
			s.succeed(t)
			s.afterwards(t)
			for _, f := range s.place.failures {
				s.fail(t, f)
			}
			s.finish(t)
		})
	}
}

// leakSearch is the search of one store.
type leakSearch struct {
	ctx         context.Context
	q           *peer.QEMU
	place       leakPlace
	passphrase  string
	disk, wrong string // the passphrase does not open the second
	header      string // directory of the headers
	keyFiles    []string
	home        string
	found       evidence
	before      peer.State
	runs        int
}

func newLeakSearch(ctx context.Context, t *testing.T, fill filler[leakPlace]) *leakSearch {
	t.Helper()
	s := &leakSearch{ctx: ctx, passphrase: awkward(), home: t.TempDir(), found: evidence{}}
	v := peer.NewVolume(t, peer.DetachedRaw)
	other := peer.NewVolume(t, peer.DetachedRaw)
	addKey(ctx, t, v, s.passphrase)
	s.header, s.keyFiles = filepath.Dir(v.Header), []string{v.PassphraseFile}
	xml := v.DiskXML("sdb", "scsi")
	s.disk = writeFile(t, "disk.xml", xml)
	s.wrong = writeFile(t, "wrong.xml", edited(t, other.DiskXML("sdb", "scsi"), other.SecretUUID, v.SecretUUID))
	id := must.Get(uuid.Parse(v.SecretUUID))(t)
	s.place = fill(ctx, t, id, []byte(s.passphrase))
	s.q = peer.Start(t, peer.Options{SCSI: true, Paused: true})
	s.before = stateOf(ctx, t, s.q)
	return s
}

// command returns luksplug at its highest verbosity. mark is in the arguments of this process only.
func (s *leakSearch) command(monitor string, c keystoreCase, args ...string) (cmd *exec.Cmd, mark string) {
	s.runs++
	mark = filepath.Join(s.home, fmt.Sprintf("trace%d-%s", s.runs, s.q.UUID))
	format := []string{"text", "json"}[s.runs%2]
	all := slices.Concat(c.wrap, []string{c.tool()}, named(monitor), []string{"-vv", "--log-format", format, "--trace", mark, "--keystore", c.uri}, args)
	cmd = exec.CommandContext(s.ctx, all[0], all[1:]...)
	home := []string{"HOME=" + s.home, "TMPDIR=" + s.home, "XDG_STATE_HOME=" + s.home, "XDG_CACHE_HOME=" + s.home, "GOTRACEBACK=all"}
	cmd.Env = slices.Concat(os.Environ(), home, c.env)
	return cmd, mark
}

// run runs luksplug to its end.
func (s *leakSearch) run(t *testing.T, name, monitor string, c keystoreCase, code int, args ...string) result {
	t.Helper()
	cmd, _ := s.command(monitor, c, args...)
	r := run(s.ctx, t, cmd)
	s.found.output(name, r)
	if r.code != code {
		t.Fatalf("%s: exit code %d, want %d: %s", name, r.code, code, spoken(r))
	}
	return r
}

// succeed attaches the disk, and inspects the process while it has the passphrase.
func (s *leakSearch) succeed(t *testing.T) {
	t.Helper()
	proxy, held := gated(s.ctx, t, s.q.Socket, func(peer.Command) {})
	cmd, mark := s.command(proxy.Address, s.place.keystoreCase, "attach", s.disk)
	b := startCommand(t, cmd)
	held.wait(t, b)
	s.found.process(t, "luksplug", programWith(t, s.place.tool(), mark))
	held.open()
	r := b.end(s.ctx, t)
	s.found.output("attach", r)
	r.want(t, 0)
	s.found.dir(t, "/run/luksplug")
	s.detach(t)
	wantOnWire(t, proxy, s.passphrase, 0)
	s.run(t, "attach, unlocked by QEMU", s.q.Socket, s.place.keystoreCase, 0, "attach", "--unlock", "qemu", s.disk)
	s.detach(t)
}

// detach checks that the attach left no object in QEMU, and detaches the disk.
func (s *leakSearch) detach(t *testing.T) {
	t.Helper()
	wantSameObjects(s.ctx, t, s.q, s.before)
	s.run(t, fmt.Sprintf("detach %d", s.runs), s.q.Socket, s.place.keystoreCase, 0, "detach", "sdb")
}

// spoken returns luksplug's messages to its user, without the log.
func spoken(r result) string {
	var out []string
	for line := range strings.Lines(r.stderr) {
		if strings.HasPrefix(line, "luksplug: ") {
			out = append(out, line)
		}
	}
	return strings.Join(out, "")
}

// afterwards runs failures after the look-up: the store works, and something else fails.
func (s *leakSearch) afterwards(t *testing.T) {
	t.Helper()
	c := s.place.keystoreCase
	r := s.run(t, "wrong passphrase", s.q.Socket, c, 4, "attach", s.wrong)
	if !strings.Contains(spoken(r), "passphrase") {
		t.Errorf("a wrong passphrase: %s", spoken(r))
	}
	for _, unlock := range []string{"auto", "qemu"} {
		refuses := peer.NewProxy(t, s.q.Socket, peer.FailCommand("device_add"))
		s.run(t, "device refused, unlocked by "+unlock, refuses.Address, c, 6, "attach", "--unlock", unlock, s.disk)
	}
	// The passphrase is in memory longest if QEMU unlocks the volume. SIGQUIT ends a Go program as a panic
	// does.
	for name, end := range map[string]struct {
		signal syscall.Signal
		code   int
	}{"interrupted": {syscall.SIGINT, 1}, "panic": {syscall.SIGQUIT, 2}} {
		proxy, held := gated(s.ctx, t, s.q.Socket, func(peer.Command) {})
		cmd, mark := s.command(proxy.Address, c, "attach", "--unlock", "qemu", s.disk)
		b := startCommand(t, cmd)
		held.wait(t, b)
		must.OK(t, syscall.Kill(programWith(t, s.place.tool(), mark), end.signal))
		if name == "interrupted" {
			// Otherwise it could finish before it handles the signal.
			b.waitStderr(s.ctx, t, "signal received")
			held.open()
		}
		r := b.end(s.ctx, t)
		s.found.output(name, r)
		if name == "panic" {
			// The delayed command must not reach QEMU. If it were dropped before the end, it could wake a
			// goroutine while Go walks its stack for the dump, which then ends by SIGSEGV.
			held.drop()
			r.wantStderr(t, "goroutine 1")
		}
		if len(c.wrap) == 0 && r.code != end.code && (name == "panic" || r.code != 6) {
			t.Errorf("%s: exit code %d: %s", name, r.code, r.stderr)
		}
	}
	s.run(t, "repair", s.q.Socket, c, 0, "repair")
	wantSame(s.ctx, t, s.q, s.before)
}

// fail runs one failure of the store.
func (s *leakSearch) fail(t *testing.T, f leakFailure) {
	t.Helper()
	if f.spoil != nil {
		f.spoil()
	}
	r := s.run(t, f.name, s.q.Socket, f.store, 4, "attach", s.disk)
	if !strings.Contains(spoken(r), f.says) {
		t.Errorf("%s: the error does not say %q: %s", f.name, f.says, spoken(r))
	}
	wantSame(s.ctx, t, s.q, s.before)
}

// finish searches all output and files.
func (s *leakSearch) finish(t *testing.T) {
	t.Helper()
	s.found.dir(t, s.home)
	s.found.dir(t, s.q.Dir)
	s.found.dir(t, s.header, s.keyFiles...)
	for _, dir := range s.place.sealed {
		s.found.dir(t, dir, s.place.except...)
	}
	s.found.process(t, "QEMU", s.q.PID)
	for _, secret := range append(s.place.also, s.passphrase) {
		s.found.hides(t, secret)
	}
	if n := shownRedacted(s.found); n == 0 {
		t.Error("no log shows a command with a secret, redacted: the search did not cover it")
	}
}

// programWith returns the process id of the luksplug that has mark in its arguments.
func programWith(t *testing.T, program, mark string) int {
	t.Helper()
	files := must.Get(filepath.Glob("/proc/[0-9]*/cmdline"))(t)
	for _, file := range files {
		line, _ := os.ReadFile(file) // it may have ended
		if args := strings.Split(string(line), "\x00"); args[0] == program && slices.Contains(args, mark) {
			return must.Get(strconv.Atoi(filepath.Base(filepath.Dir(file))))(t)
		}
	}
	t.Fatal("luksplug is not running")
	return 0
}
