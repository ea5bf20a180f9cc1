package diskxml

import (
	"slices"
	"strconv"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// driver reads <driver>, except for the settings of the image: type, copy_on_read,
// discard_no_unref and <metadata_cache>.
func (p *parser) driver(d *blockgraph.Disk) error {
	e := p.tree.child("driver")
	if e == nil {
		return nil
	}
	if name := e.attr("name"); name != "" && name != "qemu" {
		return e.unsupported("name", "unsupported driver name %q: it is not QEMU's, use name='qemu'", message.Shorten(name))
	}
	switches := map[string]*blockgraph.Switch{
		"ioeventfd": &d.Driver.IOEventFD, "event_idx": &d.Driver.EventIdx, "iommu": &d.Driver.IOMMU,
		"ats": &d.Driver.ATS, "packed": &d.Driver.Packed, "page_per_vq": &d.Driver.PagePerVQ,
	}
	for _, a := range e.attrs {
		if s, ok := switches[a.Name.Local]; ok {
			if err := readSwitch(e, a.Name.Local, s); err != nil {
				return err
			}
		}
	}
	// Only for the cache does libvirt accept "default": QEMU's own choice.
	d.Driver.Cache, d.Driver.IO = notDefault(e.attr("cache")), e.attr("io")
	d.Driver.Discard, d.Driver.DetectZeroes = e.attr("discard"), e.attr("detect_zeroes")
	d.Driver.ErrorPolicy, d.Driver.ReadErrorPolicy = e.attr("error_policy"), e.attr("rerror_policy")
	d.Driver.Queues, d.Driver.QueueSize, d.Driver.IOThread = number(e, "queues"), number(e, "queue_size"), number(e, "iothread")
	if threads := e.child("iothreads"); threads != nil {
		for _, c := range threads.children {
			t := blockgraph.IOThreadQueues{ID: number(c, "id")}
			for _, q := range c.children {
				t.Queues = append(t.Queues, number(q, "id"))
			}
			d.Driver.IOThreads = append(d.Driver.IOThreads, t)
		}
	}
	return nil
}

// tuning reads the properties that the guest sees.
func (p *parser) tuning(d *blockgraph.Disk) error {
	t := &d.Tuning
	t.Vendor, t.Product = p.doc.Vendor, p.doc.Product
	if p.doc.IOTune != nil {
		if limits := tuneOf(*p.doc.IOTune); *limits != (blockgraph.IOTune{}) {
			d.IOTune = limits
		}
	}
	target := p.tree.child("target")
	t.RotationRate = number(target, "rotation_rate")
	if err := readSwitch(target, "removable", &t.Removable); err != nil {
		return err
	}
	if err := readSwitch(target, "dpofua", &t.DPOFUA); err != nil {
		return err
	}
	if e := p.tree.child("blockio"); e != nil {
		t.BlockIO = blockgraph.BlockIO{Logical: number(e, "logical_block_size"), Physical: number(e, "physical_block_size"), DiscardGranularity: number(e, "discard_granularity")}
	}
	if e := p.tree.child("geometry"); e != nil {
		t.Geometry = blockgraph.Geometry{Cylinders: number(e, "cyls"), Heads: number(e, "heads"), Sectors: number(e, "secs"), Translation: e.attr("trans")}
	}
	if e := p.tree.child("acpi"); e != nil {
		if t.ACPIIndex = number(e, "index"); t.ACPIIndex == 0 {
			return e.invalid("index", "is missing, or zero, which is not permitted")
		}
	}
	return nil
}

// throttling reads <iotune> and <throttlefilters>. libvirtxml treats a malformed limit
// as missing, so the tree is checked first.
func (p *parser) throttling(d *blockgraph.Disk) error {
	if e := p.tree.child("throttlefilters"); e != nil {
		for _, c := range e.children {
			group := c.attr("group")
			if group == "" {
				return c.invalid("group", "is missing: it names a throttle group of the VM")
			}
			if slices.Contains(d.ThrottleFilters, group) {
				return c.invalid("group", "duplicate filter name '%s' found", message.Shorten(group))
			}
			d.ThrottleFilters = append(d.ThrottleFilters, group)
		}
	}
	e := p.tree.child("iotune")
	if e == nil {
		return nil
	}
	for _, c := range e.children {
		if _, err := strconv.ParseUint(c.text, 10, 64); err != nil && c.name != "group_name" {
			return c.invalid("", "%q must be an integer, in decimal digits", message.Shorten(c.text))
		}
	}
	return nil
}
