package diskgen

// prefixes are the prefixes of target names, by bus.
var prefixes = map[string]string{"virtio": "vd", "scsi": "sd", "usb": "sd", "ide": "hd", "sata": "sd", "fdc": "fd"}

// disk draws the disk.
func (m *maker) disk() *Element {
	m.frontend()
	d := element("disk", "type", m.kind, "device", m.device)
	if m.kind == "file" && m.often("no type") {
		d = element("disk", "device", m.device)
	}
	m.diskAttributes(d)
	driver := element("driver", "name", m.one("driver name", "qemu", ""))
	if m.fits(m.kind != "vhostuser", "driver@type") {
		driver.set("type", m.format)
	}
	target := element("target", "dev", m.target(), "bus", m.bus)
	if prefixes[m.bus] == target.Attrs[0].Value[:2] && map[string]bool{"virtio": true, "scsi": true, "ide": true, "fdc": true}[m.bus] && m.seldom(4, "no bus") {
		target.Attrs = target.Attrs[:1]
	}
	d.add(driver)
	if !m.empty {
		source := m.source(m.kind, "disk")
		m.imageParts(source, m.kind, m.format)
		m.moveOut(d, source)
		d.add(source, m.backingStore(m.format, 0))
	}
	m.driver(driver)
	if m.readOnly {
		d.add(element("readonly"))
	}
	m.shareable = m.fits(m.kind != "vhostuser" && (m.readOnly || m.format == "raw" && !m.encrypted) && m.seldom(4, "shareable"), "shareable")
	if m.shareable {
		d.add(element("shareable"))
	}
	m.throttling(d)
	m.identity(d)
	m.tuning(d, target)
	return d.add(target, m.address())
}

// frontend draws the device that the guest sees, and the kind of the disk's source.
func (m *maker) frontend() {
	m.device = m.one("device", "disk", "disk", "disk", "disk", "disk", "cdrom", "cdrom", "lun", "floppy")
	switch m.device {
	case "disk":
		m.bus = m.one("bus", "virtio", "virtio", "scsi", "scsi", "usb", "sata", "ide")
	case "cdrom":
		m.bus = m.one("bus", "sata", "scsi", "usb", "ide")
	case "lun":
		m.bus = "scsi"
	case "floppy":
		m.bus = "fdc"
	}
	if m.bus == "ide" && m.q35 && !m.wild {
		m.bus = "sata"
	}
	if m.bus == "usb" && m.usb == 0 && !m.wild {
		m.bus = "scsi"
	}
	if m.wild && m.seldom(10, "strange bus") {
		m.bus = m.one("any bus", "virtio", "scsi", "usb", "ide", "sata", "fdc")
	}
	m.kind = m.one("kind", "file", "file", "block", "network", "network", "nvme", "dir", "vhostvdpa", "vhostuser")
	if m.device == "lun" && !m.wild {
		m.kind = m.one("kind of a LUN", "block", "network")
	}
	if m.kind == "vhostuser" && m.bus != "virtio" && !m.wild {
		m.kind = "file"
	}
	m.empty = m.fits((m.device == "cdrom" || m.device == "floppy") && m.bus != "usb" && m.seldom(5, "empty"), "empty")
	m.format = m.drawFormat("format")
	if m.device == "lun" && !m.wild || m.kind == "vhostuser" || m.kind == "vhostvdpa" {
		m.format = "raw"
	}
	if m.kind == "dir" && !m.empty {
		m.format = "fat"
	}
	fixed := m.device == "disk" && (m.bus == "ide" || m.bus == "sata")
	m.readOnly = m.fits(m.kind == "dir" || !fixed && m.kind != "vhostuser" && m.seldom(4, "readonly"), "readonly")
	if fixed && m.kind == "dir" && !m.wild {
		m.bus = "scsi"
	}
}

func (m *maker) target() string {
	letters := m.one("letter", "b", "c", "e", "d", "a", "g", "z", "aa", "zz")
	if m.bus == "sata" { // six disks share a controller, and each controller takes a slot
		letters = m.one("letter of a SATA disk", "b", "c", "a", "f", "g", "l", "m")
	}
	if m.bus == "ide" || m.bus == "fdc" {
		letters = m.one("first letter", "a", "b")
		if m.fits(m.bus == "ide", "more letters") {
			letters = m.one("any letter", "a", "b", "c", "d")
		}
	}
	prefix := prefixes[m.bus]
	if m.bus != "fdc" && m.seldom(12, "another prefix") {
		prefix = m.one("prefix", "vd", "sd", "hd")
	}
	return prefix + letters
}

func (m *maker) diskAttributes(d *Element) {
	m.attribute(m.fits(m.bus == "virtio" && m.seldom(3, "model"), "model"), d, "model", "virtio", "virtio-transitional", "virtio-non-transitional")
	m.attribute(m.fits(m.device == "lun" && m.often("rawio"), "rawio"), d, "rawio", "yes", "no")
	m.attribute(m.fits(m.device == "lun" && m.seldom(3, "sgio"), "sgio"), d, "sgio", "filtered")
	m.attribute(m.seldom(6, "snapshot"), d, "snapshot", "no", "internal", "external")
}

// moveOut moves <auth> and <encryption> to their older positions, outside of <source>.
func (m *maker) moveOut(d, source *Element) {
	if !m.seldom(3, "old places") {
		return
	}
	var kept []*Element
	for _, c := range source.Children {
		if c.Name == "auth" || c.Name == "encryption" {
			d.add(c)
		} else {
			kept = append(kept, c)
		}
	}
	source.Children = kept
}

// driver draws the tuning in <driver>.
func (m *maker) driver(e *Element) {
	plain := m.kind != "vhostuser"
	cache := m.one("cache", "", "none", "writethrough", "writeback", "directsync", "unsafe", "default")
	if m.kind == "vhostvdpa" && !m.wild {
		cache = m.one("direct cache", "none", "directsync")
	}
	if m.fits(plain, "cache") {
		e.set("cache", cache)
	}
	io := m.one("io", "", "threads", "io_uring")
	if m.fits((cache == "none" || cache == "directsync") && m.seldom(3, "native"), "native") {
		io = "native"
	}
	if m.fits(false, "default") {
		io = "default"
	}
	if m.fits(plain, "io") {
		e.set("io", io)
	}
	if m.fits(plain, "discard") {
		e.set("discard", m.one("discard", "", "unmap", "ignore"), "detect_zeroes", m.one("zeroes", "", "off", "on", "unmap"))
	}
	if m.fits(false, "default") {
		e.set(m.one("attribute", "discard", "detect_zeroes", "error_policy", "rerror_policy"), "default")
	}
	if m.fits(plain && m.bus != "fdc" && m.seldom(3, "policy"), "policy") {
		e.set("error_policy", m.one("error_policy", "", "stop", "report", "ignore", "enospace"),
			"rerror_policy", m.one("rerror_policy", "", "stop", "report", "ignore"))
	}
	m.attribute(m.fits(!m.readOnly && m.device == "disk" && plain && m.seldom(5, "copy_on_read"), "copy_on_read"), e, "copy_on_read", "on", "off")
	m.attribute(m.fits(m.format == "qcow2" && !m.readOnly && m.device != "cdrom" && m.seldom(5, "discard_no_unref"), "discard_no_unref"), e, "discard_no_unref", "on", "off")
	if m.fits(m.format == "qcow2" && !m.empty && m.seldom(5, "metadata_cache"), "metadata_cache") {
		e.add(m.metadataCache())
	}
	m.virtio(e)
}

// virtio draws the tuning of a virtio disk.
func (m *maker) virtio(e *Element) {
	fits := func(what string) bool { return m.fits(m.bus == "virtio" && m.seldom(3, what), what) }
	for _, what := range []string{"ioeventfd", "event_idx", "iommu", "ats", "packed", "page_per_vq"} {
		m.attribute(fits(what), e, what, "", "", "on", "off")
	}
	queues := 0
	if fits("queues") {
		queues = 1 + m.index("number of queues", 4)
		e.set("queues", string(rune('0'+queues)))
	}
	m.attribute(fits("queue_size"), e, "queue_size", "128", "256", "1024")
	if !m.fits(m.bus == "virtio" && m.kind != "vhostuser" && len(m.threads) > 0, "I/O thread") {
		return
	}
	threads := m.threads
	if m.wild && m.seldom(4, "other thread") {
		threads = append(threads, "9")
	}
	switch how := m.one("threads of the disk", "", "one", "all", "queues"); {
	case how == "one" && len(threads) > 0:
		e.set("iothread", m.one("thread", threads...))
	case how == "all", how == "queues" && queues < len(threads):
		m.mapping(e, threads, 0)
	case how == "queues":
		m.mapping(e, threads, queues)
	}
}

// mapping assigns the queues to the threads, or leaves that to QEMU.
func (m *maker) mapping(e *Element, threads []string, queues int) {
	mapping := element("iothreads")
	for i, id := range threads {
		t := element("iothread", "id", id)
		for q := i; q < queues; q += len(threads) {
			if !m.fits(false, "queue missing") {
				t.add(element("queue", "id", string(rune('0'+q))))
			}
		}
		mapping.add(t)
	}
	e.add(mapping)
}
