package age_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/internal/storetest"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/age"
)

// The tests of this file run the distribution's age command, which is another release
// than the library.

func command(t *testing.T, args ...string) *exec.Cmd {
	t.Helper()
	must.Have(t, args[0])
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	t.Cleanup(cancel)
	return exec.CommandContext(ctx, args[0], args[1:]...)
}

func output(t *testing.T, cmd *exec.Cmd) []byte {
	t.Helper()
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		t.Fatalf("%v: %v: %s", cmd.Args, err, stderr.Bytes())
	}
	return out
}

// binary returns a value that is not text.
func binary() string { return "\x00\xff\n" + strings.Repeat("\x80a\x00", 20) + "\n" }

func TestCommandReadsOurs(t *testing.T) {
	t.Parallel()
	path, d := filled(t, age.Options{})
	must.OK(t, age.New(path, age.Options{}).Set(t.Context(), d.Reference(), secrets.New([]byte(binary()))))
	got := output(t, command(t, "age", "--decrypt", "-i", filepath.Join(path, "identity.txt"), filepath.Join(path, d.UUID.String()+".age")))
	if string(got) != binary() {
		t.Errorf("age decrypts %q", got)
	}
	recipient := output(t, command(t, "age-keygen", "-y", filepath.Join(path, "identity.txt")))
	ours := must.Get(os.ReadFile(filepath.Join(path, "recipients.txt")))(t)
	if !bytes.Equal(recipient, ours) {
		t.Errorf("recipients.txt has %q, age-keygen says %q", ours, recipient)
	}
}

func TestWeReadTheCommands(t *testing.T) {
	t.Parallel()
	path := directory(t)
	must.OK(t, os.Mkdir(path, 0o700))
	identity := filepath.Join(path, "identity.txt")
	output(t, command(t, "age-keygen", "-o", identity))
	recipients := filepath.Join(path, "recipients.txt")
	must.Write(t, recipients, output(t, command(t, "age-keygen", "-y", identity)))
	for _, form := range [][]string{{}, {"--armor"}} {
		id := uuid.New()
		name := filepath.Join(path, id.String()+".age")
		cmd := command(t, append(append([]string{"age", "-R", recipients}, form...), "-o", name)...)
		cmd.Stdin = strings.NewReader(binary())
		output(t, cmd)
		must.OK(t, os.Chmod(name, 0o600))
		store := age.New(path, age.Options{})
		found := must.Get(store.Lookup(t.Context(), secrets.Reference{Type: secrets.Passphrase, UUID: id}))(t)
		if !found.Equal(secrets.New([]byte(binary()))) {
			t.Errorf("%v: another value was found, of %d bytes", form, found.Len())
		}
	}
	// List returns the command's values and the store's.
	store := age.New(path, age.Options{})
	must.OK(t, store.Define(t.Context(), secrets.Document{UUID: uuid.New()}))
	if documents, err := store.List(t.Context()); err != nil || len(documents) != 3 {
		t.Errorf("%v, %v", documents, err)
	}
}

// terminal runs cmd in a new terminal, types each answer after its prompt, and returns
// all output.
func terminal(t *testing.T, cmd *exec.Cmd, answers ...string) string {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	defer func() { _ = master.Close() }() // nothing more is written
	must.OK(t, unix.IoctlSetPointerInt(int(master.Fd()), unix.TIOCSPTLCK, 0))
	n := must.Get(unix.IoctlGetInt(int(master.Fd()), unix.TIOCGPTN))(t)
	slave := must.Get(os.OpenFile("/dev/pts/"+strconv.Itoa(n), os.O_RDWR|unix.O_NOCTTY, 0))(t)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = slave, slave, slave
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	must.OK(t, cmd.Start(), slave.Close())
	var shown bytes.Buffer
	buf := make([]byte, 1024)
	for {
		n, err := master.Read(buf)
		shown.Write(buf[:n])
		if len(answers) > 0 && bytes.HasSuffix(bytes.TrimRight(shown.Bytes(), " "), []byte(":")) {
			must.Get(io.WriteString(master, answers[0]+"\n"))(t)
			answers = answers[1:]
		}
		if errors.Is(err, unix.EIO) || errors.Is(err, io.EOF) { // cmd has ended
			break
		}
		must.OK(t, err)
	}
	if err := cmd.Wait(); err != nil {
		t.Fatalf("%v: %v: %q", cmd.Args, err, shown.Bytes())
	}
	return shown.String()
}

func TestCommandOpensOurProtectedIdentity(t *testing.T) {
	t.Parallel()
	answer, _ := asked("open sesame")
	path, d := filled(t, age.Options{Protect: true, Passphrase: answer, WorkFactor: cheap})
	out := filepath.Join(t.TempDir(), "out")
	terminal(t, command(t, "age", "--decrypt", "-i", filepath.Join(path, "identity.txt"), "-o", out, filepath.Join(path, d.UUID.String()+".age")), "open sesame")
	if got, err := os.ReadFile(out); err != nil || string(got) != "confidential" {
		t.Errorf("age decrypts %q, %v", got, err)
	}
}

func TestWeOpenAnIdentityThatTheCommandProtected(t *testing.T) {
	if os.Getenv("LUKSPLUG_LONG") == "" {
		t.Skip("age's scrypt cost is high, and the race detector multiplies it: make test-long runs this")
	}
	t.Parallel()
	path, d := filled(t, age.Options{})
	identity := filepath.Join(path, "identity.txt")
	clear := filepath.Join(t.TempDir(), "clear")
	must.OK(t, os.Rename(identity, clear))
	terminal(t, command(t, "age", "--passphrase", "-o", identity, clear), "open sesame", "open sesame")
	must.OK(t, os.Chmod(identity, 0o600))
	answer, n := asked("open sesame")
	storetest.Finds(t, age.New(path, age.Options{Protect: true, Passphrase: answer}), d.Reference(), "confidential")
	if *n != 1 {
		t.Errorf("asked %d times", *n)
	}
}
