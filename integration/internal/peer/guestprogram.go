package peer

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// packageClosure returns a package and those that it cannot do without.
func packageClosure(ctx context.Context, name string) ([]string, error) {
	out, err := output(ctx, "apt-cache", "depends", "--recurse", "--important", name)
	if err != nil {
		return nil, fmt.Errorf("%w (are the package lists there? apt-get update fetches them)", err)
	}
	var packages []string
	for line := range strings.Lines(out) {
		// What a package depends on is indented; a virtual package is in <>.
		if found := strings.TrimSpace(line); !strings.HasPrefix(line, " ") && !strings.HasPrefix(found, "<") {
			packages = append(packages, found)
		}
	}
	return packages, nil
}

// loaderPath is where the kernel finds the dynamic loader of a program.
const loaderPath = "lib64/ld-linux-x86-64.so.2"

// addProgram adds a program of an unpacked package, with its libraries, to the
// initial file system.
func addProgram(c *cpioWriter, root, name string) error {
	var file string
	for _, dir := range []string{"usr/sbin", "sbin", "usr/bin", "bin"} {
		path := filepath.Join(root, dir, name)
		if _, err := os.Stat(path); err == nil {
			file = path
			break
		}
	}
	if file == "" {
		return fmt.Errorf("no package has the program %s", name)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	c.file("sbin/"+name, 0o755, content)
	// libgcc is what the C library loads by itself when a thread ends.
	libraries, err := librariesOf(root, file, "libgcc_s.so.1", filepath.Base(loaderPath))
	if err != nil {
		return err
	}
	c.dir("lib64")
	c.dir("lib/x86_64-linux-gnu")
	for _, library := range libraries {
		content, err := os.ReadFile(library)
		if err != nil {
			return err
		}
		if filepath.Base(library) == filepath.Base(loaderPath) {
			c.file(loaderPath, 0o755, content)
			continue
		}
		c.file("lib/x86_64-linux-gnu/"+filepath.Base(library), 0o644, content)
	}
	return nil
}

// librariesOf returns the files of the libraries that a program needs, those by
// name among them.
func librariesOf(root, program string, names ...string) ([]string, error) {
	var found []string
	todo, err := imported(program)
	todo = append(todo, names...)
	for err == nil && len(todo) > 0 {
		name := todo[0]
		todo = todo[1:]
		if slices.ContainsFunc(found, func(path string) bool { return filepath.Base(path) == name }) {
			continue
		}
		var path string
		if path, err = findLibrary(root, name); err == nil {
			found = append(found, path)
			var more []string
			more, err = imported(path)
			todo = append(todo, more...)
		}
	}
	return found, err
}

// findLibrary returns the file of a library in the unpacked packages.
func findLibrary(root, name string) (string, error) {
	for _, dir := range []string{"lib", "usr/lib"} {
		path := filepath.Join(root, dir, "x86_64-linux-gnu", name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("no package has the library %s", name)
}

// imported returns the names of the libraries that a file names itself.
func imported(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return f.ImportedLibraries()
}
