package main

import (
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// TestArgumentErrors: the errors of every command about its arguments are the program's own.
func TestArgumentErrors(t *testing.T) {
	t.Parallel()
	commands := 0
	walk(newRoot(&app{}), func(cmd *cobra.Command) {
		if parent := cmd.Parent(); cmd.Name() == "help" || parent.Name() == "completion" || cmd.Name() == "completion" {
			return // of cobra
		}
		commands++
		for _, args := range [][]string{{}, {"a"}, {"a", "b", "c", "d", "e", "f"}} {
			if err := cmd.ValidateArgs(args); err != nil && (strings.Contains(err.Error(), "arg(s)") || !strings.Contains(err.Error(), cmd.Name())) {
				t.Errorf("%s with %d arguments: %v", cmd.CommandPath(), len(args), err)
			}
		}
	})
	if commands < 20 {
		t.Errorf("only %d commands", commands)
	}
}

// TestClosest: a word is only suggested if it is likely.
func TestClosest(t *testing.T) {
	t.Parallel()
	words := []string{"attach", "detach", "list", "plan"}
	for misspelt, want := range map[string]string{
		"atach": "attach", "attahc": "attach", "detatch": "detach", "lsit": "list", "lists": "list", "pan": "plan",
		"x": "", "": "", "frobnicate": "", "la": "", "play": "plan", "version": "",
	} {
		if got := closest(misspelt, words); got != didYouMean(want) {
			t.Errorf("%q: %q", misspelt, got)
		}
	}
}
