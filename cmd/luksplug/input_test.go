package main

import (
	"bytes"
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/secrets"
)

// TestPassphraseFromPipeIsInterrupted: a pipe without a writer holds a command no longer than
// until its context ends.
func TestPassphraseFromPipeIsInterrupted(t *testing.T) {
	t.Parallel()
	pipe := filepath.Join(t.TempDir(), "pipe")
	must.OK(t, unix.Mkfifo(pipe, 0o600))
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	store := &given{app: &app{flags: flags{passphrase: pipe}}}
	if _, err := store.Lookup(ctx, secrets.Reference{Type: secrets.Passphrase, Usage: "a"}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got %v", err)
	}
}

// TestInputEnds: every command that reads standard input, or a pipe, ends by --timeout and
// by a signal.
func TestInputEnds(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe, store := filepath.Join(dir, "pipe"), filepath.Join(dir, "keys")
	must.OK(t, unix.Mkfifo(pipe, 0o600), os.Mkdir(store, 0o700))
	secret := filepath.Join(dir, "secret.xml")
	must.Write(t, secret, "<secret><uuid>0a81f5b2-8403-4b23-88d6-21ccc2f80d6f</uuid><usage type='volume'><volume>/x</volume></usage></secret>")
	defined := runLine(t, "", "--keystore", "dir:"+store, "secret", "define", secret)
	if defined.code != exitDone {
		t.Fatal(defined.errors)
	}
	for _, args := range [][]string{
		{"plan", "-"},
		{"plan", pipe},
		{"plan", "--pool-xml", pipe, "-"},
		{"secret", "--keystore", "dir:" + store, "define", "-"},
		{"secret", "--keystore", "dir:" + store, "set-value", "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f"},
		{"secret", "--keystore", "dir:" + store, "set-value", "0a81f5b2-8403-4b23-88d6-21ccc2f80d6f", "--file", pipe},
		{"secret", "--keystore", "age:" + filepath.Join(dir, "new") + "?protect=passphrase&passphrase-file=-", "define", secret},
		{"hook", "check", "--domain-xml", "-"},
	} {
		for _, how := range []string{"time limit", "interrupted"} {
			r, w, err := os.Pipe()
			must.OK(t, err)
			ctx, cancel := context.WithCancel(t.Context())
			line := args
			if how == "interrupted" {
				time.AfterFunc(100*time.Millisecond, cancel)
			} else {
				line = append([]string{"--timeout", "100ms"}, args...)
			}
			var out, errs bytes.Buffer
			code := make(chan int, 1)
			go func() { code <- run(ctx, &app{streams: streams{in: r, out: &out, err: &errs}}, line) }()
			select {
			case c := <-code:
				if c == exitDone || !strings.Contains(errs.String(), how) {
					t.Errorf("%q: exit code %d: %s", line, c, &errs)
				}
			case <-time.After(10 * time.Second):
				t.Errorf("%q: does not end", line)
			}
			cancel()
			_, _ = r.Close(), w.Close()
		}
	}
}

// TestConfirmIsInterrupted: so does the wait for a yes, which is then none.
func TestConfirmIsInterrupted(t *testing.T) {
	t.Parallel()
	tty, person := must.Terminal(t)
	var errs bytes.Buffer
	a := &app{streams: streams{in: tty, err: &errs}}
	ctx, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := confirm(ctx, a, "do it"); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "nothing was changed") {
		t.Errorf("got %v", err)
	}
	must.Get(person.WriteString("yes\n"))(t)
	must.OK(t, confirm(t.Context(), a, "do it"))
}

// TestExposedPassphrase: a file that others may read is warned of, once.
func TestExposedPassphrase(t *testing.T) {
	t.Parallel()
	path := filepath.Join(t.TempDir(), "key")
	must.Write(t, path, "secret")
	must.OK(t, os.Chmod(path, 0o644))
	var out, errs bytes.Buffer
	a := &app{streams: streams{out: &out, err: &errs}}
	root := newRoot(a)
	a.flags.passphrase = path
	root.SetContext(t.Context())
	must.OK(t, a.setUp(root))
	for range 2 {
		must.Get((&given{app: a}).Lookup(t.Context(), secrets.Reference{}))(t)
	}
	if text := errs.String(); strings.Count(text, "0644") != 1 || !strings.Contains(text, path) || !strings.Contains(text, "chmod") {
		t.Errorf("warned: %q", text)
	}
}
