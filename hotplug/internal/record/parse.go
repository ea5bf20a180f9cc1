package record

import (
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/internal/qapi"
)

// Parse reads the element. It refuses unknown elements and attributes: a later luksplug has
// written them, and they have a meaning.
func Parse(text []byte) (Record, error) {
	r, err := parse(text)
	if err != nil {
		return Record{}, fmt.Errorf("luksplug's metadata of the domain: %w", err)
	}
	return r, nil
}

func parse(text []byte) (Record, error) {
	var r Record
	root, err := domainxml.ParseElement(text)
	if err != nil {
		return r, err
	}
	if !is(root, "disks") {
		return r, fmt.Errorf("the element is a <%s> of %q", root.Name.Local, root.Name.Space)
	}
	if err := setAttributes(root, r.attributes()); err != nil {
		return r, err
	}
	for _, e := range root.Children {
		if !is(e, "disk") {
			return r, unknown(e)
		}
		d, err := parseDisk(e)
		if err == nil && r.Disk(d.Target) != nil {
			err = fmt.Errorf("disk %s is recorded twice", d.Target)
		}
		if err != nil {
			return r, err
		}
		r.Disks = append(r.Disks, d)
	}
	return r, nil
}

func parseDisk(element *domainxml.Element) (Disk, error) {
	var d Disk
	err := setAttributes(element, d.attributes())
	for _, e := range element.Children {
		if err != nil {
			return d, err
		}
		switch {
		case is(e, "device"):
			d.Devices, err = appendJSON(e, d.Devices)
		case is(e, "owner"):
			d.Owners, err = appendJSON(e, d.Owners)
		case is(e, "pool"):
			d.Pools, err = appendJSON(e, d.Pools)
		case is(e, "disk") && d.XML != "":
			err = fmt.Errorf("the record of disk %s has two <disk>", d.Target)
		case is(e, "disk"):
			d.XML = e.Plain()
		default:
			err = unknown(e)
		}
	}
	switch {
	case err != nil:
		return d, err
	case d.Target == "" || d.XML == "":
		return d, errors.New("the record of a disk lacks its target or its <disk>")
	case !validTarget(d.Target):
		return d, fmt.Errorf("the record of a disk has the invalid target %q", d.Target)
	case d.Start != "" && d.Start != blockgraph.MethodQEMU && d.Start != blockgraph.MethodEphemeralHeader:
		return d, fmt.Errorf("the record of disk %s has the unknown start method %q", d.Target, d.Start)
	case d.Unlock != "" && d.Unlock != string(blockgraph.MethodQEMU):
		return d, fmt.Errorf("the record of disk %s has the unknown unlock method %q", d.Target, d.Unlock)
	}
	return d, nil
}

// validTarget reports whether a target is one that a disk can have: it becomes the name of
// files.
func validTarget(target string) bool {
	_, _, err := blockgraph.ParseTarget(target)
	return err == nil
}

// is reports whether an element has this name and is luksplug's. libvirt puts all
// elements of new metadata into the namespace of the outermost element, and removes the
// namespace when it returns them.
func is(e *domainxml.Element, name string) bool {
	return e.Name.Local == name && (e.Name.Space == "" || e.Name.Space == Namespace)
}

// appendJSON reads an element that holds JSON.
func appendJSON[T any](e *domainxml.Element, to []T) ([]T, error) {
	var value T
	if err := qapi.Unmarshal([]byte(e.Text), &value); err != nil {
		return nil, fmt.Errorf("the <%s> of a disk: %w", e.Name.Local, err)
	}
	return append(to, value), nil
}

func setAttributes(e *domainxml.Element, known []attribute) error {
	for _, a := range e.Attrs {
		if a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns" {
			continue
		}
		i := slices.IndexFunc(known, func(k attribute) bool { return k.name == a.Name.Local })
		if i < 0 || a.Name.Space != "" {
			return fmt.Errorf("the attribute %s of <%s> is not known: a later luksplug has written it", a.Name.Local, e.Name.Local)
		}
		known[i].set(a.Value)
	}
	return nil
}

func unknown(e *domainxml.Element) error {
	return fmt.Errorf("the element <%s> is not known: a later luksplug has written it", e.Name.Local)
}
