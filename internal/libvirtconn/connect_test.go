package libvirtconn

import (
	"context"
	"errors"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func connect(ctx context.Context, t *testing.T, text string) error {
	t.Helper()
	u, err := Parse(text)
	if err != nil {
		t.Fatal(err)
	}
	l, _, err := u.Connect(ctx)
	if err == nil {
		t.Fatalf("%s: connected to %v", text, l)
	}
	return err
}

// script writes a program that replaces ssh.
func script(t *testing.T, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "ssh")
	if err := os.WriteFile(path, []byte("#!/bin/sh\n"+text+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
	return path
}

// TestConnectFails: an error says what is wrong and what to do.
func TestConnectFails(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := closed.Addr().String()
	_ = closed.Close() // so that no process listens there
	for text, want := range map[string]string{
		"qemu:///system?socket=" + dir + "/none":                                       "there is no such socket: start that libvirt",
		"qemu+tcp://" + address + "/system":                                            "no process listens there: does libvirt listen",
		"qemu+tls://" + address + "/system?pkipath=" + dir:                             "no certificate of an authority, " + dir + "/cacert.pem",
		"qemu+tls://" + address + "/system?no_verify=1&pkipath=" + dir:                 "no process listens there: does libvirt listen there, for TLS",
		"qemu+ssh://host/system?command=/nonexistent/ssh":                              "needs the program /nonexistent/ssh",
		"qemu+ssh://host/system?command=" + script(t, "exit 255"):                      "ssh: it failed without a message",
		"qemu+ssh://host/system?command=" + script(t, "exit 3"):                        "exit status 3",
		"qemu+ssh://host/system?command=" + script(t, "echo no >&2"):                   "at the other end of ssh: no",
		"qemu+ssh://host/system?command=" + script(t, "exit 0"):                        "it ended the connection",
		"qemu+ssh://host/system?command=" + script(t, "echo a >&2;echo b>&2;exit 255"): "ssh: a; b",
	} {
		if err := connect(t.Context(), t, text); !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
	err = connect(t.Context(), t, "qemu:///system?socket="+dir+"/none")
	if !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the system's error is lost: %v", err)
	}
}

// TestConnectHangs: the end of the context ends the wait for any peer that does not answer.
func TestConnectHangs(t *testing.T) {
	t.Parallel()
	dir, err := os.MkdirTemp("", "luksplug-conn-") // a short path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	unix, err1 := net.Listen("unix", filepath.Join(dir, "sock"))
	tcp, err2 := net.Listen("tcp", "127.0.0.1:0")
	if err := errors.Join(err1, err2); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _, _ = unix.Close(), tcp.Close() })
	pid := filepath.Join(t.TempDir(), "pid")
	for _, text := range []string{
		"qemu:///system?socket=" + unix.Addr().String(),
		"qemu+tcp://" + tcp.Addr().String() + "/system",
		"qemu+tls://" + tcp.Addr().String() + "/system?no_verify=1&pkipath=" + dir,
		"qemu+ssh://host/system?command=" + script(t, "echo $$ >"+pid+"; exec sleep 1000"),
	} {
		ctx, cancel := context.WithTimeout(t.Context(), 300*time.Millisecond)
		begin := time.Now()
		err := connect(ctx, t, text)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || time.Since(begin) > 5*time.Second {
			t.Errorf("%s: %v after %s", text, err, time.Since(begin))
		}
	}
	// sleep does not read its input: it has to be killed.
	content, err := os.ReadFile(pid)
	if err != nil {
		t.Fatal(err)
	}
	for begin := time.Now(); ; {
		if _, err := os.Stat("/proc/" + strings.TrimSpace(string(content))); errors.Is(err, fs.ErrNotExist) {
			break
		}
		if time.Since(begin) > 10*time.Second {
			t.Fatalf("process %s is left", content)
		}
		time.Sleep(20 * time.Millisecond) // its end has no event to wait for
	}
}

func TestCredentials(t *testing.T) {
	t.Parallel()
	home := t.TempDir()
	pki := filepath.Join(home, ".pki", "libvirt")
	if err := os.MkdirAll(pki, 0o700); err != nil {
		t.Fatal(err)
	}
	write := func(name string) {
		if err := os.WriteFile(filepath.Join(pki, name), []byte("x"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	u := &URI{Transport: TLS, Host: "host"}
	write("cacert.pem")
	write("clientcert.pem")
	if c, err := u.findCredentials(home); err != nil || c.ca != filepath.Join(pki, "cacert.pem") || strings.HasPrefix(c.cert, pki) {
		t.Errorf("a certificate without its key: %+v, error %v", c, err)
	}
	write("clientkey.pem")
	want := credentials{filepath.Join(pki, "cacert.pem"), filepath.Join(pki, "clientcert.pem"), filepath.Join(pki, "clientkey.pem")}
	if c, err := u.findCredentials(home); err != nil || c != want {
		t.Errorf("the user's: %+v, error %v", c, err)
	}
	u.pki = pki
	c, err := u.findCredentials("")
	if err != nil || c != want {
		t.Errorf("those of pkipath: %+v, error %v", c, err)
	}
	if _, err := c.config(u); err == nil || !strings.Contains(err.Error(), "cacert.pem holds no certificate") {
		t.Errorf("no certificate at all: %v", err)
	}
	u.noVerify = true
	if _, err := c.config(u); err == nil || !strings.Contains(err.Error(), "clientkey.pem") {
		t.Errorf("no key at all: %v", err)
	}
}

// TestSSHOutlivesTheTerminal: an interrupt at the terminal does not end ssh, which a rollback still uses.
func TestSSHOutlivesTheTerminal(t *testing.T) {
	t.Parallel()
	err := connect(t.Context(), t, "qemu+ssh://host/system?command="+script(t, "grep SigIgn /proc/self/status >&2; exit 255"))
	_, mask, _ := strings.Cut(err.Error(), "SigIgn:")
	ignored, parseErr := strconv.ParseUint(strings.TrimSpace(mask), 16, 64)
	const wanted = 1<<(syscall.SIGHUP-1) | 1<<(syscall.SIGINT-1) | 1<<(syscall.SIGQUIT-1)
	if parseErr != nil || ignored&wanted != wanted {
		t.Errorf("ssh ignores %x, want %x at least: %v", ignored, wanted, err)
	}
}
