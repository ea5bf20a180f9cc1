// Package outcome holds the errors by which hotplug says how an operation ended.
//
// The type of an error says what state the VM and the host are in; its cause, a
// sentinel that errors.Is finds, says why. Package hotplug publishes both. They
// are defined here because every package below hotplug returns them.
//
// No message names a command-line flag: a program that has flags maps causes to
// its own hints.
package outcome
