package integration

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/hostproc"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
)

// lockable is an age: store with a passphrase, and the passphrase of a volume in it.
type lockable struct {
	uri, passphrase string // passphrase is a file
	secret          string // the uuid of the volume's secret
}

// newLockable makes a store, which is locked again after the test.
func newLockable(ctx context.Context, t *testing.T, v *peer.Volume) lockable {
	t.Helper()
	if _, err := unix.AddKey("user", "luksplug-test", []byte{0}, unix.KEY_SPEC_PROCESS_KEYRING); err != nil {
		t.Skipf("the kernel keeps no keys here: %v", err)
	}
	path := filepath.Join(t.TempDir(), "store")
	protectedIdentity(ctx, t, path, "open sesame")
	d := secrets.Document{UUID: must.Get(diskxml.ParseDisk([]byte(v.DiskXML("sda", "scsi"))))(t).Secrets()[0].UUID}
	store := age.New(path, age.Options{})
	must.OK(t, store.Define(ctx, d), store.Set(ctx, d.Reference(), secrets.New(append([]byte(nil), v.Passphrase...))))
	t.Cleanup(func() { must.Get(store.Lock(context.WithoutCancel(ctx)))(t) })
	return lockable{uri: "age:" + path, passphrase: writeFile(t, "passphrase", "open sesame"), secret: d.UUID.String()}
}

// unlock and lock change the state of the store by the program.
func (l lockable) unlock(ctx context.Context, t *testing.T, args ...string) {
	t.Helper()
	args = append([]string{"secret", "unlock", l.uri, "--passphrase-file", l.passphrase}, args...)
	run(ctx, t, exec.CommandContext(ctx, luksplug, args...)).want(t, 0).wantStdout(t, "unlocked")
}

func (l lockable) lock(ctx context.Context, t *testing.T) {
	t.Helper()
	run(ctx, t, exec.CommandContext(ctx, luksplug, "secret", "lock", l.uri)).want(t, 0).wantStdout(t, "locked")
}

// TestUnlockedForTheHook: with a locked store an attach, the promise of a next start, the start and the check are
// refused, and name the command that helps. Once the store is unlocked, libvirt's hook needs no passphrase.
func TestUnlockedForTheHook(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	v := peer.NewVolume(t, peer.DetachedRaw)
	store := newLockable(ctx, t, v)
	h := &hookHost{Libvirt: peer.LibvirtdWith(t, peer.LibvirtOptions{Hook: "#!/bin/sh\nexit 0\n", Configuration: "keystores: ['" + store.uri + "']\n"})}
	run(ctx, t, h.Inside(ctx, luksplug, "hook", "install")).want(t, 0)
	d := must.Get(h.StartDomain(ctx, peer.DomainOptions{Persistent: true, SCSI: true}))(t)
	inside(ctx, t, h.Libvirt, "hook", "enable", d.Name, "--yes").want(t, 0)
	before := stateOf(ctx, t, d)
	command := "luksplug secret unlock " + store.uri
	withStore := []string{"attach", writeFile(t, "disk.xml", v.DiskXML("sda", "scsi"))}
	persistent := append(attachArgs(t, v, v.DiskXML("sda", "scsi")), "--persistent")
	refused := func() {
		t.Helper()
		for _, args := range [][]string{withStore, persistent} {
			got := h.alone(ctx, t, d, args...).want(t, 4)
			wantOneLine(t, got, command)
		}
		wantNoRecord(ctx, t, h.Libvirt, d, "--config")
		wantSame(ctx, t, d, before)
	}
	refused()
	h.alone(ctx, t, d, "hook", "check").want(t, 0).wantStdout(t, store.uri+" locked", command)
	store.unlock(ctx, t)
	h.alone(ctx, t, d, withStore...).want(t, 0)
	h.alone(ctx, t, d, "detach", "sda").want(t, 0)
	store.lock(ctx, t)
	refused()

	store.unlock(ctx, t, "--for", "1h")
	h.alone(ctx, t, d, persistent...).want(t, 0).wantStderr(t, "is unlocked until 20", "luksplug secret unlock")
	h.alone(ctx, t, d, "hook", "check").want(t, 0).wantStdout(t, "the domain starts with it", "is unlocked until 20")
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	h.alone(ctx, t, d, "list").want(t, 0).wantStdout(t, "attached")
	virsh(ctx, t, h.Libvirt, "destroy", d.Name)

	store.lock(ctx, t)
	out, err := h.Virsh(ctx, "start", d.Name)
	if err == nil || !strings.Contains(err.Error()+out, command) {
		t.Errorf("start with a locked store: %v: %s", err, out)
	}
	h.alone(ctx, t, d, "hook", "check").want(t, 5).wantStdout(t, "does not start", command)
	h.wantClean(ctx, t)
	store.unlock(ctx, t, "--until-suspend")
	h.alone(ctx, t, d, "hook", "check").want(t, 0).wantStdout(t, "or is suspended")
	virsh(ctx, t, h.Libvirt, "start", d.Name)
	if log, err := os.ReadFile(filepath.Join(h.Dir, "luksplug", "var", "log", "hook.log")); err != nil || strings.Contains(string(log), "open sesame") {
		t.Errorf("the hook's log: %s, %v", log, err)
	}
}

// alone is tool in a session without a terminal.
func (h *hookHost) alone(ctx context.Context, t *testing.T, d *peer.Domain, args ...string) result {
	t.Helper()
	return run(ctx, t, h.Inside(ctx, "setsid", append([]string{"--wait", luksplug, "--connect", h.URI, "--domain", d.Name}, args...)...))
}

// TestUnlockAtATerminal: the passphrase is asked for at the terminal, and ^C and --timeout end the question.
func TestUnlockAtATerminal(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	store := newLockable(ctx, t, peer.NewVolume(t, peer.DetachedRaw))
	for name, c := range map[string]struct {
		args     []string
		typed    string
		code     int
		says     string
		unlocked bool
	}{
		"right":      {typed: "open sesame\n", says: "unlocked until the host reboots", unlocked: true},
		"wrong":      {typed: "open barley\n", code: 4, says: "the passphrase is wrong"},
		"empty":      {typed: "\n", code: 4, says: "empty"},
		"^C":         {typed: "open\x03", code: 1, says: "interrupted"},
		"time limit": {args: []string{"--timeout", "500ms"}, code: 1, says: "time limit ended"},
	} {
		t.Run(name, func(t *testing.T) { //nolint:paralleltest // they share the store
			store.lock(ctx, t)
			tty, person := must.Terminal(t)
			before := must.Get(unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS))(t)
			cmd := exec.CommandContext(ctx, luksplug, append([]string{"secret", "unlock", store.uri}, c.args...)...)
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			began := time.Now()
			must.OK(t, cmd.Start())
			shown, done := make(chan string), make(chan error, 1)
			go func() { shown <- transcript(person, c.typed) }()
			go func() { done <- cmd.Wait() }()
			<-done //nolint:errcheck // the exit code is in the process's state
			after := must.Get(unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS))(t)
			must.OK(t, tty.Close())
			text := <-shown
			if code := cmd.ProcessState.ExitCode(); code != c.code || !strings.Contains(text, c.says) || !strings.Contains(text, "passphrase of ") || strings.Contains(text, "open") {
				t.Errorf("exit code %d, want %d, in %s: %q", code, c.code, time.Since(began), text)
			}
			if *after != *before {
				t.Errorf("the terminal is left as %+v, was %+v", after, before)
			}
			got := run(ctx, t, exec.CommandContext(ctx, luksplug, "secret", "status", store.uri)).want(t, 0)
			if strings.Contains(got.stdout, " unlocked ") != c.unlocked {
				t.Errorf("afterwards: %s", got.stdout)
			}
		})
	}
}

// transcript types a text at the question, and returns what the terminal shows to the end.
func transcript(person *os.File, typed string) string {
	var text strings.Builder
	buffer := make([]byte, 1000)
	for asked := false; ; {
		n, err := person.Read(buffer)
		text.Write(buffer[:n])
		if err != nil {
			return text.String()
		}
		if !asked && strings.Contains(text.String(), ": ") {
			asked = true
			_, _ = person.WriteString(typed) // an error ends the reading as well
		}
	}
}

// TestNoKernelKeyring: where the kernel refuses keys, as in many containers, nothing can be unlocked, luksplug says so
// before it asks for a passphrase, and everything else works.
func TestNoKernelKeyring(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	store := newLockable(ctx, t, peer.NewVolume(t, peer.DetachedRaw))
	for name, refusal := range map[string]unix.Errno{"seccomp of a container": unix.EPERM, "no such system call": unix.ENOSYS} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := bounded(t) // after the wait for its turn
			without := func(args ...string) result {
				t.Helper()
				return runRefused(ctx, t, refusal, []uint32{unix.SYS_ADD_KEY, unix.SYS_KEYCTL, unix.SYS_REQUEST_KEY}, args...)
			}
			got := without("secret", "unlock", store.uri).want(t, 3)
			wantOneLine(t, got, "the kernel keeps no keys for this process", refusal.Error(), "?identity=PATH")
			got = without("secret", "unlock", store.uri, "--passphrase-file", store.passphrase).want(t, 3)
			wantOneLine(t, got, "the kernel keeps no keys for this process")
			without("secret", "status", store.uri).want(t, 0).wantStdout(t, " locked\n")
			without("secret", "lock").want(t, 0).wantStdout(t, "no key store was unlocked")
			without("secret", "lock", store.uri).want(t, 0)
			got = without("--keystore", store.uri, "secret", "get-value", "--base64", store.secret).want(t, 4)
			wantOneLine(t, got, "cannot prompt")
			without("--keystore", store.uri+"?passphrase-file="+store.passphrase, "secret", "get-value", "--base64", store.secret).want(t, 0)
		})
	}
}

// TestNoLocks: on a file system without locks nothing is changed, and secrets are found.
func TestNoLocks(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	document := writeFile(t, "secret.xml", "<secret><uuid>5f3c1c3e-6e1c-4c60-8a53-1d2a9d5b7c11</uuid></secret>")
	for _, kind := range []string{"age:", "dir:"} {
		path := filepath.Join(t.TempDir(), "store")
		without := func(args ...string) result {
			t.Helper()
			return runRefused(ctx, t, unix.ENOLCK, []uint32{unix.SYS_FLOCK}, append([]string{"--keystore", kind + path, "secret"}, args...)...)
		}
		must.OK(t, os.Mkdir(path, 0o700))
		wantOneLine(t, without("define", document).want(t, 4), "the file system of the directory has no locks", "rpc.statd", unix.ENOLCK.Error())
		run(ctx, t, exec.CommandContext(ctx, luksplug, "--keystore", kind+path, "secret", "define", document)).want(t, 0)
		without("list").want(t, 0).wantStdout(t, "5f3c1c3e")
		without("undefine", "5f3c1c3e-6e1c-4c60-8a53-1d2a9d5b7c11").want(t, 4)
		without("list").want(t, 0).wantStdout(t, "5f3c1c3e")
	}
}

// runRefused runs the program, in a session without a terminal, to which the kernel refuses these system calls.
func runRefused(ctx context.Context, t *testing.T, refusal unix.Errno, calls []uint32, args ...string) result {
	t.Helper()
	cmd := exec.CommandContext(ctx, "setsid", append([]string{"--wait", luksplug}, args...)...)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	must.OK(t, hostproc.OnThread(func() error { // t must not end the test on another goroutine
		if err := refuseCalls(refusal, calls); err != nil {
			return err
		}
		return cmd.Start()
	}))
	return finished(ctx, t, cmd, cmd.Wait(), &stdout, &stderr)
}

// refuseCalls has the kernel refuse system calls to this thread and the programs that it starts.
func refuseCalls(refusal unix.Errno, calls []uint32) error {
	filter := []unix.SockFilter{{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}} // the number of the call
	for i, call := range calls {
		filter = append(filter, unix.SockFilter{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, K: call, Jt: uint8(len(calls) - i)})
	}
	filter = append(filter,
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ALLOW},
		unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: unix.SECCOMP_RET_ERRNO | uint32(refusal)})
	return errors.Join(unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0), setFilter(filter))
}

func setFilter(filter []unix.SockFilter) error {
	program := &unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	if _, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(program))); errno != 0 {
		return fmt.Errorf("seccomp: %w", errno)
	}
	return nil
}

// TestSuspendScript runs the script of docs/keystores.md as systemd does, in a user namespace, whose keyring is its own.
func TestSuspendScript(t *testing.T) {
	t.Parallel()
	ctx := bounded(t)
	store := newLockable(ctx, t, peer.NewVolume(t, peer.DetachedRaw))
	if err := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "true").Run(); err != nil {
		t.Skipf("there are no user namespaces here: %v", err)
	}
	_, text, found := strings.Cut(string(must.Get(os.ReadFile(filepath.Join(repository, "docs", "keystores.md")))(t)), "```text\n#!/bin/sh\n")
	text, _, ended := strings.Cut(text, "```")
	if !found || !ended {
		t.Fatal("the document has no script")
	}
	script := writeFile(t, "script", "#!/bin/sh\n"+text)
	must.OK(t, os.Chmod(script, 0o700))
	const scenario = `set -e
luksplug secret unlock "$STORE" --passphrase-file "$PASSPHRASE" --until-suspend 2>/dev/null
"$SCRIPT" post suspend; luksplug secret status "$STORE"
"$SCRIPT" pre suspend; luksplug secret status "$STORE"
luksplug secret unlock "$STORE" --passphrase-file "$PASSPHRASE"
"$SCRIPT" pre hibernate; luksplug secret status "$STORE"`
	cmd := exec.CommandContext(ctx, "unshare", "--user", "--map-root-user", "sh", "-c", scenario)
	cmd.Env = append(os.Environ(), "STORE="+store.uri, "PASSPHRASE="+store.passphrase, "SCRIPT="+script, "PATH="+filepath.Dir(luksplug)+":"+os.Getenv("PATH"))
	got := run(ctx, t, cmd).want(t, 0)
	want := []string{
		store.uri + " unlocked until the host reboots or is suspended", store.uri + " unlocked until the host reboots or is suspended",
		store.uri + "/identity.txt locked", store.uri + " locked",
		store.uri + " unlocked until the host reboots", "no key store was unlocked", store.uri + " unlocked until the host reboots",
	}
	if got.stdout != strings.Join(want, "\n")+"\n" {
		t.Errorf("printed:\n%s\nwant:\n%s", got.stdout, strings.Join(want, "\n"))
	}
}
