package diskgen

// limits draws an <iotune> or a <throttlegroup>, without a name.
func (m *draw) limits(name string) *Element {
	e := element(name)
	for _, unit := range []string{"bytes", "iops"} {
		split := m.often(unit + " split")
		for _, direction := range []string{"total", "read", "write"} {
			if !m.fits(split == (direction != "total"), "mixed limits") || !m.often(direction+" "+unit) {
				continue
			}
			base := direction + "_" + unit + "_sec"
			e.add(text(base, m.number(base, 1, 1<<30)))
			if m.often(base + " burst") {
				e.add(text(base+"_max", m.number(base+" most", 1<<30, 1<<31)))
				if m.often(base + " length") {
					e.add(text(base+"_max_length", m.number(base+" seconds", 1, 100)))
				}
			}
		}
	}
	if m.seldom(3, "request size") {
		e.add(text("size_iops_sec", m.number("size of a request", 512, 1<<20)))
	}
	return e
}

// throttling draws the limits of the disk.
func (m *maker) throttling(disk *Element) {
	tuned := m.kind != "vhostuser" && m.seldom(4, "iotune")
	if m.fits(tuned, "iotune") {
		t := m.limits("iotune")
		m.text(m.seldom(4, "limits with a name"), t, "group_name", "shared", "mine")
		disk.add(t)
	}
	filtered := !tuned && len(m.groups) > 0 && !m.empty && m.device != "cdrom" && m.kind != "vhostuser" && m.often("filters")
	if !m.fits(filtered, "filters") {
		return
	}
	filters := element("throttlefilters")
	for _, g := range m.groups {
		if m.often("filter") {
			filters.add(element("throttlefilter", "group", g))
		}
	}
	if m.wild && m.seldom(6, "unknown filter") {
		filters.add(element("throttlefilter", "group", "nobody"))
	}
	disk.add(filters)
}
