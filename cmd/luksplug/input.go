package main

import (
	"context"
	"fmt"
	"io"
	"io/fs"
	"math"
	"net/url"
	"os"
	"strings"

	"github.com/spf13/cobra"
	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/internal/fsutil"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/passphrase"
)

// maxInput bounds the size of an input document.
const maxInput = 32 << 20

// reader returns standard input. It is waited for no longer than until ctx ends.
func (a *app) reader(ctx context.Context) io.Reader {
	if f, ok := a.in.(*os.File); ok {
		return fsutil.Waiting(ctx, f)
	}
	return a.in
}

// readInput reads the document at path, - for standard input, until ctx ends.
func (a *app) readInput(ctx context.Context, path string) ([]byte, error) {
	if path == "-" {
		return readAll(a.reader(ctx), "standard input")
	}
	// A pipe is waited for when it is read, and not when it is opened.
	f, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return readAll(fsutil.Waiting(ctx, f), path)
}

// readAll reads a document. Errors call it name.
func readAll(in io.Reader, name string) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(in, maxInput+1))
	if len(data) > maxInput {
		return nil, fmt.Errorf("%s is larger than %d bytes", name, maxInput)
	}
	return data, err
}

// inherit takes over the descriptors that flags name, and keeps programs that are started
// here from inheriting those that the caller left open. It runs before anything is
// opened, so that no number can name a descriptor of this process. An error is reported
// when the descriptor is needed.
func (a *app) inherit(cmd *cobra.Command) {
	sources := []string{a.flags.passphrase}
	for _, name := range []string{valueFlag, newPassphraseFlag, oldPassphraseFlag} {
		if file := cmd.Flags().Lookup(name); file != nil {
			sources = append(sources, file.Value.String())
		}
	}
	// An argument can be a URI, too.
	for _, uri := range append(cmd.Flags().Args(), a.flags.keystores...) {
		_, query, _ := strings.Cut(uri, "?")
		parameters, _ := url.ParseQuery(query)
		for _, name := range []string{"passphrase-file", "token-file", "password-file"} {
			sources = append(sources, parameters.Get(name))
		}
	}
	a.inherited = map[string]*os.File{}
	for _, source := range sources {
		f, err := passphrase.Inherited(source)
		if err != nil || f == nil || a.inherited[source] != nil {
			continue
		}
		a.inherited[source] = f
		a.closers = append(a.closers, func() { _ = f.Close() }) // only read
	}
	// It fails only before Linux 5.11.
	const firstInherited = 3
	_ = unix.CloseRange(firstInherited, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC)
}

// readPassphrase reads a passphrase, or the value of a secret, from the source that a
// flag names. It warns of a file that others can read.
func (a *app) readPassphrase(ctx context.Context, source string) (*secrets.Secret, error) {
	options := passphrase.Options{Exposed: a.warnExposed}
	if f := a.inherited[source]; f != nil {
		return options.Read(ctx, f, source)
	}
	if source == "-" {
		options.Stdin = a.in
	}
	return options.Open(ctx, source)
}

// warnExposed warns, once, of a file with a passphrase that others can read.
func (a *app) warnExposed(name string, mode fs.FileMode) {
	if a.log == nil {
		return
	}
	if _, warned := a.exposed.LoadOrStore(name, true); warned {
		return
	}
	a.log.Warnf("the file of the secret, %s, is open to others than its owner (mode %04o): run chmod 600 on it", name, mode)
}
