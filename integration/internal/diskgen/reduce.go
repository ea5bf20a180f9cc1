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
	removable := func(c *Element) bool {
		return !slices.Contains(needed, c.Name) && c.attr("type") != "pci" && c.attr("type") != "usb"
	}
	return takeNth(&e.Children, n, removable) ||
		depth > 0 && slices.ContainsFunc(e.Children, func(c *Element) bool { return c.takeElement(n, depth-1) })
}

// needed are the mandatory elements of a domain.
var needed = []string{"name", "uuid", "memory", "vcpu", "os", "type", "devices", "emulator"}

// takeOff removes the n-th child or attribute of an element or its descendants, counted from the outside in,
// and reports whether there was one.
func (e *Element) takeOff(n *int) bool {
	return takeNth(&e.Children, n, func(c *Element) bool { return c.Name != "target" }) ||
		takeNth(&e.Attrs, n, func(a Attr) bool { return e.Name != "throttlefilter" && (e.Name != "target" || a.Name != "dev") }) ||
		slices.ContainsFunc(e.Children, func(c *Element) bool { return c.takeOff(n) })
}

// takeNth removes the n-th of the removable elements of a list. It subtracts their number from n if there are
// fewer.
func takeNth[T any](list *[]T, n *int, removable func(T) bool) bool {
	for i, e := range *list {
		if !removable(e) {
			continue
		}
		if *n == 0 {
			*list = slices.Delete(*list, i, i+1)
			return true
		}
		*n--
	}
	return false
}
