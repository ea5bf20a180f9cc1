package main

import (
	"errors"

	"github.com/luksplug/luksplug/hotplug/hook"
)

// causeHint returns what the command line offers against a cause that a library
// package reports, "" for nothing. Libraries name no flags.
func causeHint(err error) string {
	if errors.Is(err, hook.ErrDisks) {
		return "detach --persistent detaches a disk and removes it from the domain's definition"
	}
	return ""
}
