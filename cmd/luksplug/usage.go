package main

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"
)

// argument wants exactly one argument and says what it is when it is missing:
// cobra's own words ("accepts 1 arg(s), received 0") leave that to be guessed.
func argument(name string) cobra.PositionalArgs {
	return func(cmd *cobra.Command, args []string) error {
		switch len(args) {
		case 0:
			return fmt.Errorf("%s needs an argument: %s", cmd.Name(), name)
		case 1:
			return nil
		}
		return fmt.Errorf("%s takes one argument, %s, and got %d", cmd.Name(), name, len(args))
	}
}

// strictCommands makes errors of what cobra's own commands answer with help and
// exit code 0: a help topic and a shell that do not exist.
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
					return &usageError{fmt.Errorf("there is no command %q to help with", strings.Join(args, " "))}
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
				return &usageError{errors.New("for which shell? completion knows " + strings.Join(shells, ", "))}
			}
		}
	}
}
