package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
)

// diskArgument is an argument that names a disk of a VM. Target or source is set.
type diskArgument struct {
	target string
	source string // of its payload, as list shows it
	xml    []byte // of its document; target is set as well
}

// readDiskArgument reads an argument that is a target, a disk document (- for standard
// input, a pipe, or a name that ends in .xml), or a source (a text with a slash). Anything
// else is an error: it is a mistake, not a disk that the VM does not have.
func readDiskArgument(ctx context.Context, a *app, text string) (diskArgument, error) {
	_, _, err := blockgraph.ParseTarget(text)
	switch {
	case err == nil:
		return diskArgument{target: text}, nil
	case isDocument(text):
		xml, err := a.readInput(ctx, text)
		if err != nil {
			return diskArgument{}, &usageError{fmt.Errorf("read the disk XML: %w", err)}
		}
		disk, err := libvirtvm.ParseDisk(xml, libvirtvm.Reading{IgnoreUnknown: true})
		if err != nil {
			return diskArgument{}, err
		}
		return diskArgument{target: disk.Target, xml: xml}, nil
	case strings.Contains(text, "/"):
		return diskArgument{source: text}, nil
	case text == "":
		return diskArgument{}, &usageError{errors.New("the disk is an empty text: give its target, such as vdb, its XML or its source")}
	}
	return diskArgument{}, &usageError{fmt.Errorf("%w, or give the disk's XML or the path of its source", err)}
}

// isDocument reports whether an argument names a document. The content of a file does not
// count: a guest may write XML into its disk.
func isDocument(path string) bool {
	if path == "-" || strings.EqualFold(filepath.Ext(path), ".xml") {
		return true
	}
	info, err := os.Stat(path)
	return err == nil && info.Mode()&os.ModeNamedPipe != 0
}

// find returns the target of the disk, which for a source has to be in the VM.
func (d diskArgument) find(ctx context.Context, vm virtualMachine) (string, error) {
	if d.source == "" {
		return d.target, nil
	}
	list, err := vm.List(ctx)
	if err != nil {
		return "", err
	}
	var found, all []string
	for _, disk := range listedDisks(list) {
		all = append(all, disk.Target)
		if disk.Payload != "" && filepath.Clean(disk.Payload) == filepath.Clean(d.source) {
			found = append(found, disk.Target)
		}
	}
	switch len(found) {
	case 0:
		return "", &usageError{fmt.Errorf("%s is not the source of a disk that luksplug holds in this VM (it holds %s): give the disk's target, such as vdb, or its XML", d.source, orNone(all))}
	case 1:
		return found[0], nil
	}
	return "", &usageError{fmt.Errorf("%s is the source of the disks %s: give the target of one of them", d.source, strings.Join(found, ", "))}
}

func orNone(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
