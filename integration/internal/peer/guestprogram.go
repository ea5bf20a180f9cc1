package peer

import (
	"context"
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// packageClosure returns a package and its transitive dependencies.
func packageClosure(ctx context.Context, name string) ([]string, error) {
	out, err := Output(ctx, "apt-cache", "depends", "--recurse", "--important", name)
	if err != nil {
		return nil, fmt.Errorf("%w (are the package lists there? apt-get update fetches them)", err)
	}
	var packages []string
	for line := range strings.Lines(out) {
		// A dependency is indented; a virtual package is in <>.
		if found := strings.TrimSpace(line); !strings.HasPrefix(line, " ") && !strings.HasPrefix(found, "<") {
			packages = append(packages, found)
		}
	}
	return packages, nil
}

// loaderPath is where the kernel finds the dynamic loader of a program.
const loaderPath = "lib64/ld-linux-x86-64.so.2"

// addProgram adds a program of an unpacked package, with its libraries, to the guest's file system.
func addProgram(stage, root, name string) error {
	file, err := findFile(root, name, "usr/sbin", "sbin", "usr/bin", "bin")
	if err != nil {
		return err
	}
	wanted, err := imported(file)
	if err != nil {
		return err
	}
	files := map[string]string{}
	// The C library loads libgcc by dlopen when a thread ends.
	libraries, err := closure(append(wanted, "libgcc_s.so.1", filepath.Base(loaderPath)), func(name string) (needs []string, err error) {
		if files[name], err = findFile(root, name, "lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu"); err != nil {
			return nil, err
		}
		return imported(files[name])
	})
	if err != nil {
		return err
	}
	const dir = "lib/x86_64-linux-gnu"
	if err := errors.Join(os.MkdirAll(filepath.Join(stage, dir), 0o755), os.MkdirAll(filepath.Join(stage, filepath.Dir(loaderPath)), 0o755)); err != nil {
		return err
	}
	for _, library := range libraries {
		to, mode := filepath.Join(dir, library), os.FileMode(0o644)
		if library == filepath.Base(loaderPath) {
			to, mode = loaderPath, 0o755
		}
		if err := copyFile(files[library], filepath.Join(stage, to), mode); err != nil {
			return err
		}
	}
	return copyFile(file, filepath.Join(stage, "sbin", name), 0o755)
}

// findFile returns the path of a file that one of these directories below root has.
func findFile(root, name string, dirs ...string) (string, error) {
	for _, dir := range dirs {
		path := filepath.Join(root, dir, name)
		if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
			return path, err
		}
	}
	return "", fmt.Errorf("no package has the file %s", name)
}

// imported returns the names of the libraries that an ELF file lists as needed.
func imported(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = f.Close() }() // only read
	return f.ImportedLibraries()
}
