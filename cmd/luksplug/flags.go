package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/duration"
)

// defaultConnect is the URI of libvirt if neither --connect nor the configuration has one.
const defaultConnect = "qemu:///system"

// flags are the flags that all commands share.
type flags struct {
	connect    string
	domain     string
	qmp        string
	qemuPID    int
	output     string
	timeout    time.Duration
	verbose    int
	logFormat  string
	trace      string
	config     string
	keystores  []string
	passphrase string

	connectFrom, keystoresFrom string // the environment variable or flag that has given them
}

func (f *flags) register(root *cobra.Command) {
	f.connectFrom, f.keystoresFrom = "--connect", fromFlag
	p := root.PersistentFlags()
	p.StringVar(&f.qmp, "qmp", "", "the VM, by its QEMU monitor: the path of a unix socket, or HOST:PORT (default $"+qmpVariable+")")
	p.IntVar(&f.qemuPID, "qemu-pid", 0, "the process id of the VM's QEMU, for a monitor that a proxy relays (default: the process at the other end of --qmp)")
	p.StringVar(&f.domain, "domain", "", "the VM, as a libvirt domain: name, UUID or id (default $"+domainVariable+")")
	p.StringVar(&f.connect, "connect", "", "the URI of the domain's libvirt (default: $"+connectVariable+", else that of the configuration, else "+defaultConnect+")")
	p.StringVar(&f.output, "output", "text", "output format: text or json; plan also has dot, mermaid and svg")
	p.Var((*timeFlag)(&f.timeout), "timeout", "time limit of the whole command (default 1m); for detach, of the wait for the guest (default 30s); a number without a unit is in seconds")
	p.CountVarP(&f.verbose, "verbose", "v", "show the steps and how long they took; -vv also logs the monitor's traffic, with secrets redacted")
	p.StringVar(&f.logFormat, "log-format", "text", "format of the log on standard error: text or json")
	p.StringVar(&f.trace, "trace", "", "write the monitor's traffic to this file, with secrets redacted")
	p.StringVar(&f.config, "config", "", "the configuration file (default $"+configVariable+", else "+configPath+")")
	p.StringArrayVar(&f.keystores, "keystore", nil, "the URI of a key store, such as dir:PATH, in place of those of the configuration; repeatable, searched in this order (default $"+keystoreVariable+", one a line)")
	p.StringVar(&f.passphrase, "passphrase-file", "", "the disk's passphrase: a file, - for standard input, or fd:N; every byte counts, a newline at the end as well")
	complete(root, "output", "text", "json", "dot", "mermaid", "svg")
	complete(root, "log-format", "text", "json")
}

func complete(cmd *cobra.Command, flag string, values ...string) {
	// It fails only for a flag that does not exist.
	_ = cmd.RegisterFlagCompletionFunc(flag, cobra.FixedCompletions(values, cobra.ShellCompDirectiveNoFileComp))
}

// outputs is the annotation of a command that has more output formats than text and json.
const outputs = "outputs"

// complete adds what the environment gives to the flags, and checks them.
func (f *flags) complete(cmd *cobra.Command) error {
	if err := f.fromEnvironment(cmd); err != nil {
		return err
	}
	return f.check(cmd)
}

func (f *flags) check(cmd *cobra.Command) error {
	formats := append([]string{"text", "json"}, strings.Fields(cmd.Annotations[outputs])...)
	switch {
	case !slices.Contains(formats, f.output):
		return fmt.Errorf("unknown --output %q: %s knows %s", f.output, cmd.Name(), strings.Join(formats, ", "))
	case f.logFormat != "text" && f.logFormat != "json":
		return fmt.Errorf("unknown --log-format %q: use text or json", f.logFormat)
	case f.qmp != "" && f.domain != "":
		return errors.New("give --qmp or --domain, not both: each names a VM")
	case f.qemuPID < 0 || f.qemuPID != 0 && f.qmp == "":
		return errors.New("--qemu-pid is the process of the QEMU at the monitor of --qmp: give both")
	case f.timeout < 0:
		return fmt.Errorf("--timeout %s is negative", f.timeout)
	}
	return nil
}

// arguments returns a check that a command has one argument for each name. Its errors
// name the arguments, which those of cobra ("accepts 1 arg(s), received 0") do not.
func arguments(names ...string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch {
		case len(args) == len(names):
			return nil
		case len(names) == 0:
			return fmt.Errorf("%s takes no argument, and got %q", cmd.Name(), args[0])
		case len(args) == 0:
			return fmt.Errorf("%s needs %s: %s", cmd.Name(), plural(len(names)), strings.Join(names, " "))
		case len(names) == 1:
			return fmt.Errorf("%s takes one argument, %s, and got %d", cmd.Name(), names[0], len(args))
		}
		return fmt.Errorf("%s takes %d arguments, %s, and got %d", cmd.Name(), len(names), strings.Join(names, " "), len(args))
	}
}

// optionalArgument returns a check that a command has at most one argument.
func optionalArgument(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		if len(args) == 0 {
			return nil
		}
		return arguments(name)(cmd, args)
	}
}

// firstOrNone returns the optional argument of a command, "" for none.
func firstOrNone(args []string) string {
	if len(args) == 0 {
		return ""
	}
	return args[0]
}

func plural(arguments int) string {
	if arguments == 1 {
		return "an argument"
	}
	return fmt.Sprintf("%d arguments", arguments)
}

// strictCommands turns what cobra's own commands answer with help and exit code 0 into
// errors: a help topic and a shell that do not exist.
func strictCommands(root *cobra.Command) {
	root.InitDefaultHelpCmd()
	root.InitDefaultCompletionCmd()
	for _, cmd := range root.Commands() {
		switch cmd.Name() {
		case "help":
			cmd.Run = nil
			cmd.RunE = func(_ *cobra.Command, args []string) error {
				topic, rest, err := root.Find(args)
				if err != nil || len(rest) > 0 {
					return &usageError{fmt.Errorf("there is no command %q%s", strings.Join(args, " "), commandLike(topic, args[len(args)-1]))}
				}
				topic.InitDefaultHelpFlag() // so that the help shows it
				return topic.Help()
			}
		case "completion":
			cmd.Example = "  luksplug completion bash > /etc/bash_completion.d/luksplug"
			shells := []string{"bash", "zsh", "fish"}
			for _, shell := range cmd.Commands() {
				if !slices.Contains(shells, shell.Name()) {
					cmd.RemoveCommand(shell)
				}
			}
			cmd.Args = nil
			cmd.RunE = func(*cobra.Command, []string) error {
				return &usageError{errors.New("no shell that completion knows is named: give one of " + strings.Join(shells, ", "))}
			}
		}
	}
}

// timeFlag is a flag that is a time, such as 90s; a number without a unit is in seconds.
type timeFlag time.Duration

// Set implements pflag.Value.
func (f *timeFlag) Set(value string) error {
	d, err := duration.Parse(value)
	*f = timeFlag(d)
	return err
}

// String implements pflag.Value.
func (f *timeFlag) String() string {
	if *f == 0 {
		return "" // help shows no default
	}
	return time.Duration(*f).String()
}

// Type implements pflag.Value.
func (*timeFlag) Type() string { return "duration" }

// unlockFlag is the value of --unlock.
type unlockFlag hotplug.UnlockPolicy

func (f *unlockFlag) register(cmd *cobra.Command) {
	cmd.Flags().Var(f, "unlock", "what unlocks the volume: auto (luksplug itself where possible), qemu, or external (a qemu-storage-daemon)")
	complete(cmd, "unlock", f.values()...)
}

func (*unlockFlag) values() []string {
	return []string{string(hotplug.UnlockAuto), string(hotplug.UnlockQEMU), string(hotplug.UnlockExternal)}
}

// Set implements pflag.Value.
func (f *unlockFlag) Set(value string) error {
	if !slices.Contains(f.values(), value) {
		return fmt.Errorf("use %s", strings.Join(f.values(), ", "))
	}
	*f = unlockFlag(value)
	return nil
}

// String implements pflag.Value.
func (f *unlockFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (*unlockFlag) Type() string { return "METHOD" }

// recoverFlag is the value of --recover.
type recoverFlag blockgraph.Recovery

func registerRecover(cmd *cobra.Command, to *blockgraph.Recovery) {
	f := cmd.Flags().VarPF((*recoverFlag)(to), "recover", "", "take the <header> as a backup of the damaged LUKS header in the image, as its attribute recover= does: read-only, which it is without a value, or --recover=read-write")
	f.NoOptDefVal = string(blockgraph.RecoveryReadOnly)
	complete(cmd, "recover", (*recoverFlag)(nil).values()...)
}

func (*recoverFlag) values() []string {
	return []string{string(blockgraph.RecoveryReadOnly), string(blockgraph.RecoveryReadWrite)}
}

// Set implements pflag.Value.
func (f *recoverFlag) Set(value string) error {
	if !slices.Contains(f.values(), value) {
		return fmt.Errorf("use %s", strings.Join(f.values(), ", "))
	}
	*f = recoverFlag(value)
	return nil
}

// String implements pflag.Value.
func (f *recoverFlag) String() string { return string(*f) }

// Type implements pflag.Value.
func (*recoverFlag) Type() string { return "MODE" }
