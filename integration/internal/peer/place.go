package peer

import (
	"slices"
	"testing"
)

// Place is a modified view of the machine for a QEMU: files with the content of other files, in a mount
// namespace, and variables of the environment.
type Place struct {
	Files map[string]string // path -> path of the file that replaces it
	Env   []string          // NAME=value
}

// Through returns the arguments that start a program in this view, for Options.Through.
func (p Place) Through(t testing.TB) []string {
	t.Helper()
	needRoot(t, "a QEMU that sees other files")
	// The pairs of paths, "--", and the program.
	const script = `set -e; mount --make-rprivate /; while [ "$1" != -- ]; do mount --bind "$2" "$1"; shift 2; done; shift; exec "$@"`
	line := []string{"unshare", "--mount", "/bin/sh", "-c", script, "sh"}
	for at, file := range p.Files {
		line = append(line, at, file)
	}
	return slices.Concat(line, []string{"--", "env"}, p.Env)
}
