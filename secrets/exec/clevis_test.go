package exec_test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	osexec "os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/exec"
	"github.com/luksplug/luksplug/secrets/storetest"
)

// tangd starts a tang server on a free port of the loopback. stop ends it.
func tangd(t *testing.T) (address string, stop func()) {
	t.Helper()
	const program = "/usr/libexec/tangd"
	for _, name := range []string{program, "socat", "clevis", "jose"} {
		if _, err := osexec.LookPath(name); err != nil {
			t.Skipf("%s is not installed (make setup installs it)", name)
		}
	}
	keys := t.TempDir()
	if out, err := osexec.Command(program+"-keygen", keys, "sig", "exc").CombinedOutput(); err != nil {
		t.Fatalf("make tang's keys: %v: %s", err, out)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := listener.Addr().(*net.TCPAddr).Port
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	var messages bytes.Buffer
	cmd := osexec.Command("socat", fmt.Sprintf("TCP-LISTEN:%d,bind=127.0.0.1,reuseaddr,fork", port), fmt.Sprintf("EXEC:%s %s", program, keys))
	cmd.Stderr = &messages
	cmd.WaitDelay = time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
			_ = cmd.Wait() // it was killed
		}
	}
	t.Cleanup(stop)
	address = fmt.Sprintf("http://127.0.0.1:%d", port)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	for {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, address+"/adv", nil)
		if err != nil {
			t.Fatal(err)
		}
		answer, err := http.DefaultClient.Do(request)
		if err == nil {
			_ = answer.Body.Close() // only asked
			return address, stop
		}
		if ctx.Err() != nil {
			stop()
			t.Fatalf("tangd does not answer: %v: %s", err, &messages)
		}
		time.Sleep(10 * time.Millisecond) // until it listens
	}
}

// TestClevis looks up what clevis has bound to a tang server, by the line that
// the package's comment gives.
func TestClevis(t *testing.T) {
	t.Parallel()
	address, stop := tangd(t)
	folder := t.TempDir()
	ref, damaged := storetest.ByUUID(), storetest.ByUUID()
	value := make([]byte, 64)
	_, _ = rand.Read(value) // never fails
	value[0], value[63] = 0, '\n'
	cmd := osexec.CommandContext(t.Context(), "clevis", "encrypt", "tang", fmt.Sprintf(`{"url":%q}`, address), "-y")
	cmd.Stdin = bytes.NewReader(value)
	encrypted, err := cmd.Output()
	if err != nil {
		t.Fatalf("clevis encrypt: %v", err)
	}
	put(t, filepath.Join(folder, ref.UUID.String()+".jwe"), encrypted)
	put(t, filepath.Join(folder, damaged.UUID.String()+".jwe"), encrypted[:len(encrypted)/2])

	line := `/bin/sh -c 'f=FOLDER/$LUKSPLUG_SECRET_UUID.jwe; [ -e "$f" ] || exit 2; exec clevis decrypt <"$f"'`
	store, err := exec.New(strings.Replace(line, "FOLDER", folder, 1), exec.Options{Stderr: os.Stderr})
	if err != nil {
		t.Fatal(err)
	}
	secret, err := store.Lookup(t.Context(), ref)
	if err != nil {
		t.Fatal(err)
	}
	if !secret.Equal(secrets.New(value)) {
		t.Errorf("another value was found, of %d bytes", secret.Len())
	}
	for ref, want := range map[secrets.Reference]error{storetest.ByUUID(): secrets.ErrNotFound, damaged: secrets.ErrUnreachable} {
		if _, err := store.Lookup(t.Context(), ref); !errors.Is(err, want) {
			t.Errorf("want %v, got %v", want, err)
		}
	}
	stop()
	if _, err := store.Lookup(t.Context(), ref); !errors.Is(err, secrets.ErrUnreachable) {
		t.Errorf("with the server gone: %v", err)
	}
}
