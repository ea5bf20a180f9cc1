// Package render writes plans and graphs of [blockgraph] in forms for human readers
// and for other programs.
//
//	Text                        the steps, a line each
//	JSON                        one document, each element as it goes to QEMU
//	Arguments, SealedArguments  -object, -blockdev and -device for a QEMU that starts
//	QuoteArguments              arguments as text for a POSIX shell
//	DOT, Mermaid, SVG           a picture of the graph
//
// The same plan always gives the same bytes. No secret value is in any of them: a
// secret prints as "[redacted]" in JSON, by its reference in text and pictures, and
// arguments name a file, or hold a ciphertext that the caller made.
//
// Nothing in this package does I/O. All functions are safe for concurrent use, and
// none changes its arguments.
package render
