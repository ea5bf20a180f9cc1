package diskgen

import "slices"

// Reduce returns the smallest case that it finds to differ still: it removes elements and attributes of the
// disk, and whole elements of the domain, one at a time. It does not change c.
//
// The disk keeps its <target>. The domain keeps its mandatory elements, its PCI and USB controllers, and all
// attributes: libvirtd 11.3 crashes on two disks of which one has no target, and on a <throttlefilter>
// without a group.
func Reduce(c Case, differs func(Case) bool) Case {
	for {
		reduced := false
		for _, shrink := range []func(Case, int) bool{
			func(c Case, n int) bool { return c.Disk.takeOff(&n) },
			func(c Case, n int) bool { return c.Domain.takeElement(&n, 1) },
		} {
			for n := 0; ; {
				try := Case{Domain: c.Domain.clone(), Disk: c.Disk.clone()}
				switch {
				case !shrink(try, n):
				case differs(try):
					c, reduced = try, true
					continue
				default:
					n++
					continue
				}
				break
			}
		}
		if !reduced {
			return c
		}
	}
}

// takeElement removes the n-th child of an element, or of its children down to a depth, and reports whether
// there was one.
func (e *Element) takeElement(n *int, depth int) bool {
	for i, c := range e.Children {
		if slices.Contains(needed, c.Name) || c.attr("type") == "pci" || c.attr("type") == "usb" {
			continue
		}
		if *n == 0 {
			e.Children = slices.Delete(e.Children, i, i+1)
			return true
		}
		*n--
	}
	for _, c := range e.Children {
		if depth > 0 && c.takeElement(n, depth-1) {
			return true
		}
	}
	return false
}

// needed are the mandatory elements of a domain.
var needed = []string{"name", "uuid", "memory", "vcpu", "os", "type", "devices", "emulator"}

// takeOff removes the n-th child or attribute of an element or its descendants, counted from the outside in,
// and reports whether there was one.
func (e *Element) takeOff(n *int) bool {
	for i, c := range e.Children {
		if c.Name == "target" {
			continue
		}
		if *n == 0 {
			e.Children = slices.Delete(e.Children, i, i+1)
			return true
		}
		*n--
	}
	for i, a := range e.Attrs {
		if e.Name == "target" && a.Name == "dev" || e.Name == "throttlefilter" {
			continue
		}
		if *n == 0 {
			e.Attrs = slices.Delete(e.Attrs, i, i+1)
			return true
		}
		*n--
	}
	for _, c := range e.Children {
		if c.takeOff(n) {
			return true
		}
	}
	return false
}
