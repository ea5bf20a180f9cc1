package diskgen

// backing reports whether images of a format can have a backing image.
func backing(format string) bool {
	return format == "qcow2" || format == "qcow" || format == "qed" || format == "vmdk"
}

// drawFormat draws the format of an image.
func (m *maker) drawFormat(what string) string {
	if m.often(what + " is raw or qcow2") {
		return m.one(what, "raw", "qcow2")
	}
	return m.one(what, "qcow2", "raw", "vmdk", "vdi", "vpc", "qed", "qcow", "vhd", "ploop", "bochs", "cloop", "dmg")
}

// layerKind draws the type of an image below the top one.
func (m *maker) layerKind(what string) string {
	return m.one(what, "file", "block", "network", "file", "nvme", "dir")
}

// encryption draws an <encryption> for an image, nil for none.
func (m *maker) encryption(kind, protocol, format string) *Element {
	fits := (format == "raw" || format == "qcow2") && kind != "vhostuser" && kind != "dir" && m.device != "lun"
	if !m.fits(fits && m.often("encrypted"), "encrypted") {
		return nil
	}
	if protocol == "rbd" && m.often("librbd") {
		e := element("encryption", "format", m.one("librbd format", "luks", "luks2", "luks-any"), "engine", "librbd")
		for range 1 + m.index("librbd secrets", 3) {
			e.add(m.secret("passphrase"))
		}
		return e
	}
	e := element("encryption", "format", "luks", "engine", m.one("engine", "", "qemu"))
	if m.fits(false, "librbd elsewhere") {
		e = element("encryption", "format", "luks", "engine", "librbd")
	}
	if m.fits(false, "no secret") {
		return e
	}
	if m.wild && m.seldom(6, "strange encryption") {
		e = element("encryption", "format", m.one("strange format", "luks2", "luks-any", "qcow", "default"), "engine", m.one("engine", "", "qemu"))
	}
	e.add(m.secret("passphrase"))
	if m.fits(false, "second secret") {
		e.add(m.secret("passphrase"))
	}
	return e
}

// imageParts adds the optional parts of an image to its <source>.
func (m *maker) imageParts(source *Element, kind, format string) {
	if enc := m.encryption(kind, source.attr("protocol"), format); enc != nil {
		m.encrypted = true
		source.add(enc)
	}
	if m.fits(format == "qcow2" && m.seldom(4, "dataStore"), "dataStore") {
		source.add(m.dataStore())
	}
}

func (m *maker) dataStore() *Element {
	kind := m.one("data kind", "file", "block", "network")
	format := "raw"
	if m.fits(false, "data format") {
		format = "qcow2"
	}
	source := m.source(kind, "data")
	if m.fits(false, "encrypted data") {
		source.add(element("encryption", "format", "luks").add(m.secret("passphrase")))
	}
	if m.fits(false, "slice of data") {
		source.add(element("slices").add(element("slice", "type", "storage", "offset", "0", "size", "512")))
	}
	return element("dataStore", "type", kind).add(element("format", "type", format), source)
}

func (m *draw) metadataCache() *Element {
	size := text("max_size", m.number("cache", 1, 1<<20))
	return element("metadata_cache").add(size.set("unit", m.one("unit", "", "bytes", "KiB", "k", "kB", "MiB", "M")))
}

// backingStore draws the image below one of this format, nil for none.
func (m *maker) backingStore(format string, depth int) *Element {
	if m.kind == "vhostuser" {
		return nil
	}
	switch m.one("below", "", "", "end", "image", "image") {
	case "end":
		return element("backingStore")
	case "image":
	default:
		return nil
	}
	if !m.fits(backing(format) && depth < 4, "backing image") {
		return nil
	}
	kind := m.layerKind("backing kind")
	below := m.drawFormat("backing format")
	if m.fits(kind == "dir", "fat") {
		below = "fat"
	}
	f := element("format", "type", below)
	if m.fits(below == "qcow2" && m.seldom(5, "metadata cache"), "metadata cache") {
		f.add(m.metadataCache())
	}
	source := m.source(kind, "backing")
	m.imageParts(source, kind, below)
	return element("backingStore", "type", kind).add(f, source, m.backingStore(below, depth+1))
}
