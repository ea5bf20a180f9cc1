package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/internal/fsutil"
)

// hookLog is the log file of the hook, unless the configuration names another.
const hookLog = "/var/log/luksplug/hook.log"

func newHook(a *app) *cobra.Command {
	cmd := &cobra.Command{
		Use:         "hook NAME OPERATION SUBOPERATION EXTRA",
		Annotations: map[string]string{ownLimit: ""},
		Short:       "Run as libvirt's hook: keep a domain's disks through start, restore and migration",
		Long: `hook is called by libvirt, through the script that 'hook install' writes into
libvirt's hooks directory. It reads the domain's XML from standard input. It does
not connect to libvirt, and uses no key store of libvirt, because libvirt waits for
its hook.`,
		Example: `  luksplug hook -- vm1 prepare begin - < vm1.xml`,
		Args:    hookArguments,
		RunE: func(cmd *cobra.Command, args []string) error {
			return runHook(cmd.Context(), a, hook.Event{Domain: args[0], Operation: hook.Operation(args[1]), Suboperation: args[2], Extra: args[3]})
		},
	}
	cmd.AddCommand(newHookInstall(a), newHookUninstall(a), newHookCheck(a), newHookEnable(a), newHookDisable(a))
	return cmd
}

// hookArguments wants what libvirt gives to a hook.
func hookArguments(cmd *cobra.Command, args []string) error {
	const wanted = 4
	switch {
	case len(args) == wanted:
		return nil
	case len(args) == 1:
		return unknownCommand(cmd, args[0])
	case len(args) == 0:
		return needsCommand(cmd, nil)
	}
	return fmt.Errorf("hook takes 4 arguments, NAME OPERATION SUBOPERATION EXTRA, as libvirt gives them, and got %d", len(args))
}

// runHook handles one call of libvirt. An error of an operation that must succeed is
// logged and not returned.
func runHook(ctx context.Context, a *app, e hook.Event) error {
	c, _, configErr := readConfig(a.flags.config)
	closeLog := a.logToFile(c)
	defer closeLog()
	log := a.log.WithFields(logrus.Fields{"vm": e.Domain, "operation": e.Operation})
	err := handle(ctx, a, e, c, configErr, log)
	if err == nil {
		return nil
	}
	log.Error(err)
	if e.Operation.MustSucceed() {
		return nil
	}
	return fmt.Errorf("domain %s: %w", e.Domain, err)
}

func handle(ctx context.Context, a *app, e hook.Event, c configuration, configErr error, log *logrus.Entry) error {
	var err error
	if e.XML, err = readAll(a.reader(ctx), "the domain's XML"); err != nil {
		return fmt.Errorf("read the domain's XML: %w", err)
	}
	if configErr != nil {
		if e.Operation == hook.Prepare && e.HasDisks() {
			return configErr // the start fails, and nothing is lost
		}
		log.Error(configErr)
	}
	options := a.storeOptions()
	options.Prompt = nil // libvirt waits for its hook, also where libvirtd has a terminal
	// libvirt waits until the hook's standard error is closed, so a child that a key
	// store's program leaves behind must not inherit it.
	options.Stderr = a.log.Out
	host := hookHost(a, e, c, &hookStore{app: a, options: options})
	keys, keysErr := a.vmKeys()
	if keysErr != nil && configErr == nil {
		log.Error(keysErr)
	}
	keys.Forget, keys.Warn = c.Hook.Forget, func(err error) { log.Warn(err) }
	host.Log, host.Keys = log, keys.Event
	host.Timeout = cmp.Or(a.flags.timeout, time.Duration(c.Hook.Timeout))
	host.OnDaemon = func(_ context.Context, d hotplug.Daemon) error { return watchDaemon(a.log, d) }
	output, err := host.Run(ctx, e)
	if e.Operation == hook.Started || e.Operation == hook.Release {
		watchKeys(a, keys, e.UUID(), log)
	}
	if len(output) > 0 {
		if _, e := raw(a.out).Write(output); e != nil { // a document, for libvirt
			err = errors.Join(err, e)
		}
	}
	return err
}

// logToFile has the log written to the hook's log file, until end is called.
func (a *app) logToFile(c configuration) (end func()) {
	out, end := openLog(cmp.Or(c.Hook.Log, hookLog))
	a.log.SetLevel(max(a.log.GetLevel(), logrus.InfoLevel))
	a.log.SetOutput(out)
	return end
}

// openLog opens the log file at path for writing. If that fails, the log is discarded:
// standard error is for the one line that virsh shows to its user.
func openLog(path string) (out io.Writer, end func()) {
	out, end = io.Discard, func() {}
	if os.MkdirAll(filepath.Dir(path), 0o700) == nil {
		if f, err := fsutil.AppendPrivate(path); err == nil {
			out = f
			end = func() { _ = f.Close() } // a line is written at once
		}
	}
	return unfailing{out}, end
}

// unfailing is a writer whose errors are ignored. Package logrus would report them, such
// as that of a full disk, on standard error.
type unfailing struct{ io.Writer }

func (u unfailing) Write(p []byte) (int, error) {
	_, _ = u.Writer.Write(p)
	return len(p), nil
}
