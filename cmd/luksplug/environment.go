package main

import (
	"errors"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// The environment variables that stand for flags which are not given.
const (
	qmpVariable      = "LUKSPLUG_QMP"
	domainVariable   = "LUKSPLUG_DOMAIN"
	connectVariable  = "LUKSPLUG_CONNECT"
	keystoreVariable = "LUKSPLUG_KEYSTORE" // one URI a line: a URI of the kind exec: can have spaces
)

// withoutVM are the commands that work on no VM, or on one that an argument names.
var withoutVM = strings.Fields("secret hook migrate-check version completion help watch-daemon")

// fromEnvironment takes what the flags of a command do not give from the environment.
// libvirt's hook has its settings from the configuration only.
func (f *flags) fromEnvironment(cmd *cobra.Command) error {
	if cmd.Name() == "hook" || cmd.Name() == watchCommand {
		return nil
	}
	given := func(name string) bool { return cmd.Flags().Changed(name) }
	if !given("connect") {
		f.connect, f.connectFrom = os.Getenv(connectVariable), connectVariable
	}
	if !given("keystore") {
		for line := range strings.Lines(os.Getenv(keystoreVariable)) {
			if uri := strings.TrimSpace(line); uri != "" {
				f.keystores, f.keystoresFrom = append(f.keystores, uri), keystoreVariable
			}
		}
	}
	top := cmd
	for top.HasParent() && top.Parent().HasParent() {
		top = top.Parent()
	}
	if given("qmp") || given("domain") || given("domain-xml") || slices.Contains(withoutVM, top.Name()) {
		return nil
	}
	f.qmp, f.domain = os.Getenv(qmpVariable), os.Getenv(domainVariable)
	if f.qmp != "" && f.domain != "" {
		return errors.New(qmpVariable + " and " + domainVariable + " are both set, and each names a VM: unset one, or give --qmp or --domain")
	}
	return nil
}
