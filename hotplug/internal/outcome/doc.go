// Package outcome defines the errors of hotplug.
//
// The type of an error tells the state of the VM and the host; its cause, a sentinel that
// errors.Is finds, tells why. Package hotplug publishes both. They are defined here
// because every package below hotplug returns them.
//
// No message names a command-line flag: a program with flags maps causes to its own
// hints.
package outcome
