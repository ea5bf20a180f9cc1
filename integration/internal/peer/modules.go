package peer

import (
	"debug/elf"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
)

// moduleTree maps the names of kernel modules to their files. A name is the file name without .ko, with "_"
// for "-": to the kernel the two are the same.
type moduleTree map[string]string

// findModules returns all modules below root.
func findModules(root string) (moduleTree, error) {
	tree := moduleTree{}
	err := filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if err == nil && strings.HasSuffix(path, ".ko") {
			tree[moduleName(path)] = path
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("list kernel modules: %w", err)
	}
	return tree, nil
}

// moduleName returns the kernel's name of the module in path.
func moduleName(path string) string {
	return strings.ReplaceAll(strings.TrimSuffix(filepath.Base(path), ".ko"), "-", "_")
}

// closure returns the wanted modules and their dependencies, in an order for insmod.
//
// Debian's package has no modules.dep: its maintainer script makes that file at installation. Each module
// names what it needs in its .modinfo section.
func (m moduleTree) closure(wanted []string) ([]string, error) {
	return closure(wanted, func(name string) ([]string, error) {
		file, ok := m[name]
		if !ok {
			return nil, fmt.Errorf("kernel module %s is not in the package", name)
		}
		return moduleNeeds(file)
	})
}

// closure returns the wanted names and their transitive dependencies, each after its own dependencies.
func closure(wanted []string, needsOf func(name string) ([]string, error)) ([]string, error) {
	var order []string
	var add func(name string, path []string) error
	add = func(name string, path []string) error {
		if slices.Contains(order, name) {
			return nil
		}
		if slices.Contains(path, name) {
			return fmt.Errorf("circular dependency: %s", strings.Join(append(path, name), " -> "))
		}
		needs, err := needsOf(name)
		if err != nil {
			return err
		}
		for _, need := range needs {
			if err := add(need, append(path, name)); err != nil {
				return err
			}
		}
		order = append(order, name)
		return nil
	}
	for _, name := range wanted {
		if err := add(name, nil); err != nil {
			return nil, err
		}
	}
	return order, nil
}

// moduleNeeds returns the names of the modules on which the module in path depends.
func moduleNeeds(path string) ([]string, error) {
	f, err := elf.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read kernel module: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	section := f.Section(".modinfo")
	if section == nil {
		return nil, fmt.Errorf("kernel module %s has no .modinfo section", path)
	}
	info, err := section.Data()
	if err != nil {
		return nil, fmt.Errorf("read .modinfo of %s: %w", path, err)
	}
	var needs []string
	for entry := range strings.SplitSeq(string(info), "\x00") {
		if list, ok := strings.CutPrefix(entry, "depends="); ok && list != "" {
			for name := range strings.SplitSeq(list, ",") {
				needs = append(needs, moduleName(name))
			}
		}
	}
	return needs, nil
}
