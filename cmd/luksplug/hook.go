package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/vmkeys"
)

// hookLog is where a hook writes what the user of virsh does not see, unless the
// configuration says where.
const hookLog = "/var/log/luksplug/hook.log"

func newHook(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:   "hook NAME OPERATION SUBOPERATION EXTRA",
		Short: "Be libvirt's hook: bring a domain's disks through start, restore and migration",
		Long: `hook is what libvirt calls, by the script that 'hook install' puts into libvirt's
hooks directory. The domain's XML comes on standard input. It connects to no libvirt,
and asks no key store of libvirt's: libvirt waits for it.`,
		Example: `  luksplug hook -- vm1 prepare begin - < vm1.xml`,
		Args:    cobra.ExactArgs(4),
		RunE: func(cmd *cobra.Command, args []string) error {
			return a.runHook(cmd.Context(), hook.Event{Domain: args[0], Operation: hook.Operation(args[1]), Suboperation: args[2], Extra: args[3]})
		},
	}
	cmd.AddCommand(newHookInstall(a), newHookUninstall(a), newHookCheck(a), newHookEnable(a), newHookDisable(a))
	return cmd
}

// runHook handles one call. At an operation that must succeed it does: whatever
// goes wrong is in the log.
func (a *app) runHook(ctx context.Context, e hook.Event) error {
	log, closeLog := a.hookLogger(e)
	defer closeLog()
	err := a.handle(ctx, e, log)
	if err == nil {
		return nil
	}
	log.Error(err)
	if e.Operation.MustSucceed() {
		return nil
	}
	return fmt.Errorf("domain %s: %w", e.Domain, err)
}

func (a *app) handle(ctx context.Context, e hook.Event, log *logrus.Entry) error {
	var err error
	if e.XML, err = readAll(a.in, "the domain's XML"); err != nil {
		return fmt.Errorf("read the domain's XML: %w", err)
	}
	c, err := readConfig(a.flags.config)
	if err != nil && e.Operation == hook.Prepare {
		return err // the last moment at which it costs nothing
	}
	if err != nil {
		log.Error(err)
	}
	if c == nil {
		c = &configuration{}
	}
	a.vm = e.UUID()
	host := hook.Host{Store: &hookStore{app: a}, Log: log, Timeout: a.flags.timeout, OnDaemon: a.watch, Gone: forgetKeys, Forget: c.Hook.Forget}
	if host.Timeout == 0 {
		host.Timeout = time.Duration(c.Hook.Timeout)
	}
	output, err := host.Run(ctx, e)
	if len(output) > 0 {
		if _, e := a.out.Write(output); e != nil {
			err = errors.Join(err, e)
		}
	}
	return err
}

// forgetKeys destroys the keys of a VM that were put on this host for it.
func forgetKeys(_ context.Context, vm string) error { return vmkeys.Wipe(vmkeys.Folder, vm) }

// hookLogger writes to the log file. Where that cannot be, nothing is written:
// standard error is for the one line that the user of virsh sees.
func (a *app) hookLogger(e hook.Event) (*logrus.Entry, func()) {
	path := hookLog
	// A configuration that is wrong is said by who needs it.
	if c, _ := readConfig(a.flags.config); c != nil && c.Hook.Log != "" {
		path = c.Hook.Log
	}
	a.log.SetLevel(max(a.log.GetLevel(), logrus.InfoLevel))
	out, end := io.Discard, func() {}
	if os.MkdirAll(filepath.Dir(path), 0o700) == nil {
		if f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600); err == nil {
			out = f
			end = func() { _ = f.Close() } // a line is written at once
		}
	}
	out = unfailing{out}
	a.log.SetOutput(out)
	// A program of a key store that leaves a child must not leave it libvirt's
	// standard error, for whose end libvirt waits.
	a.programs = out
	return a.log.WithFields(logrus.Fields{"vm": e.Domain, "operation": e.Operation}), end
}

// unfailing is a log on which nothing depends: package logrus would complain on
// standard error of a disk that is full.
type unfailing struct{ io.Writer }

func (u unfailing) Write(p []byte) (int, error) {
	_, _ = u.Writer.Write(p)
	return len(p), nil
}

// hookStore opens the key stores when the first secret is asked for: most calls of
// the hook need none. Those of libvirt are left out.
type hookStore struct {
	app   *app
	chain secrets.Store
	names string
}

func (s *hookStore) String() string { return "the key stores of the configuration" }

// errNoHookStore: there is no store that a hook may ask.
var errNoHookStore = errors.New("no key store is configured that a hook may ask: libvirt waits for its hook, so that its own secrets are out of reach; name another in " + configPath)

func (s *hookStore) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	if err := s.open(); err != nil {
		return nil, err
	}
	return s.chain.Lookup(ctx, ref)
}

// open opens the stores, of which none is looked at.
func (s *hookStore) open() error {
	if s.chain != nil {
		return nil
	}
	stores, err := s.app.stores()
	if err != nil {
		return err
	}
	var usable []secrets.Store
	var names []string
	for _, store := range stores {
		if !strings.HasPrefix(store.String(), "libvirt") {
			usable, names = append(usable, store), append(names, store.String())
		}
	}
	if len(usable) == 0 {
		return errNoHookStore
	}
	s.chain, s.names = secrets.Chain(usable...), strings.Join(names, ", ")
	return nil
}
