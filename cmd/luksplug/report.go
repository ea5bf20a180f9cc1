package main

import (
	"errors"
	"strings"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// errNotInOrder reports that a check has failed.
var errNotInOrder = errors.New("not everything is in order: see above")

// showReport prints the findings of a check. It returns an error with the reason, of exit
// code 5, if one of them is not in order.
func showReport(a *app, r libvirtvm.Report, reason string) error {
	var text strings.Builder
	for i := range r.Findings {
		f := &r.Findings[i]
		f.Text += findingHint(f.Cause)
		sign := "BAD "
		switch {
		case f.Unchecked:
			sign = "?   "
		case f.Good:
			sign = "ok  "
		}
		text.WriteString(sign + f.Text + "\n")
	}
	if err := a.show(text.String(), r); err != nil || r.InOrder() {
		return err
	}
	return &hotplug.PreflightError{Reason: reason, Err: errNotInOrder}
}
