// Package qapi holds JSON objects as QEMU's QAPI has them (docs/devel/qapi-code-gen.rst):
// the options of an object, a node or a device, and the arguments of a command.
//
// An [Object] keeps the order of its members, so that the same object always gives the same bytes. Its values
// are of a closed set of types, so that none can hide a secret: a [Sensitive] holds one, and a type that
// embeds [Placeholder] replaces one. There are two renderings, made by the same code:
//
//   - [Object.MarshalJSON] is for output, with "[redacted]" for every secret;
//   - [Line] is for QEMU, with the value of each Sensitive.
//
// The package does no I/O and has no state.
package qapi
