package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/printable"
)

// failure is an error as --output json prints it: an object on the last line of standard
// error. Members are only added.
type failure struct {
	Error    string   `json:"error"`
	ExitCode int      `json:"exit_code"`
	Hints    []string `json:"hints,omitempty"`
	// Left is what is left in the VM or on the host, with exit code 7. With Unverified it
	// may exist or not.
	Left       []string `json:"left,omitempty"`
	Unverified bool     `json:"unverified,omitempty"`
	// Held are the targets of the VM's disks, if the disk is not among them.
	Held []string `json:"held,omitempty"`
}

// report prints the error of a command.
func (a *app) report(err error, asJSON bool) {
	hints := []string{flagHint(err, &a.flags), hintFor(err, &a.flags)}
	if !asJSON {
		text := printable.Line(oneLine(err.Error()))
		if hints[0] != "" {
			text += " (" + hints[0] + ")"
		}
		_, _ = fmt.Fprintf(a.err, "luksplug: %s\n", text)
		if hints[1] != "" {
			_, _ = fmt.Fprintf(a.err, "luksplug: hint: %s\n", hints[1])
		}
		return
	}
	f := failure{Error: oneLine(err.Error()), ExitCode: exitCode(err)}
	f.Hints = slices.DeleteFunc(hints, func(hint string) bool { return hint == "" })
	if left := (*hotplug.LeftBehindError)(nil); errors.As(err, &left) {
		f.Left, f.Unverified = left.Left, left.Unverified
	}
	if missing := (*hotplug.NotHeldError)(nil); errors.As(err, &missing) {
		f.Held = missing.Held
	}
	e := json.NewEncoder(raw(a.err))
	e.SetEscapeHTML(false)
	_ = e.Encode(f) // there is no other place for it
}

// wantsJSON reports whether the arguments of a command line, which cannot be parsed, have
// --output json.
func wantsJSON(args []string) bool {
	for i, arg := range args {
		switch {
		case arg == "--":
			return false
		case arg == "--output=json", arg == "--output" && i+1 < len(args) && args[i+1] == "json":
			return true
		}
	}
	return false
}
