package diskgen

// protocols are those that are drawn. libvirt refuses vxhs, which QEMU 5.2 dropped; sheepdog is older still.
var protocols = []string{"nbd", "iscsi", "rbd", "http", "https", "ftp", "ftps", "tftp", "ssh", "nfs", "gluster"}

// network draws the content of the <source> of a server.
func (m *maker) network(e *Element) {
	words := protocols
	if m.device == "lun" && !m.wild {
		words = []string{"iscsi"}
	}
	protocol := m.one("protocol", words...)
	if m.wild && m.seldom(12, "strange protocol") {
		protocol = m.one("strange protocols", "vxhs", "sheepdog")
	}
	e.set("protocol", protocol)
	switch protocol {
	case "nbd":
		m.nbd(e)
	case "iscsi":
		e.set("name", m.name("iqn.2026-11.example:disk")+m.one("lun", "", "/0", "/1", "/17")).add(m.host(false))
		if m.often("initiator") {
			e.add(element("initiator").add(element("iqn", "name", m.name("iqn.2026-11.example:vm"))))
		}
		m.mayAuth(e, "iscsi")
	case "rbd":
		m.rbd(e)
	case "ssh":
		m.ssh(e)
	case "nfs":
		e.set("name", "/"+m.fileName())
		h := element("host", "name", m.one("host", "server.example", "192.0.2.7"))
		e.add(h)
		m.attribute(m.fits(false, "port of nfs"), h, "port", "2049")
		if m.often("identity") {
			e.add(element("identity", "user", "+"+m.number("user", 0, 70000), "group", m.one("group", "", "+100", "+0")))
		}
	case "gluster":
		e.set("name", m.name("volume")+"/"+m.fileName()).add(m.hosts(true)...)
	case "vxhs", "sheepdog":
		e.set("name", m.name("disk")).add(m.host(false))
	default:
		m.web(e, protocol)
	}
	if e.child("auth") == nil && m.fits(false, "foreign auth") {
		e.add(m.auth(m.one("type of secret", "iscsi", "ceph")))
	}
}

// mayAuth adds an <auth> in some cases.
func (m *draw) mayAuth(e *Element, typ string) {
	if m.often("auth") {
		e.add(m.auth(typ))
	}
}

func (m *draw) nbd(e *Element) {
	e.set("name", m.one("export", "", "export", "ex port", "/path/like", "ü,x"))
	if m.often("tls") {
		yes := m.one("tls", "yes", "no")
		e.set("tls", yes)
		m.attribute(m.fits(yes == "yes" && m.often("hostname"), "hostname"), e, "tlsHostname", "other.example")
	}
	e.add(m.host(true))
	if m.seldom(3, "reconnect") {
		e.add(element("reconnect", "delay", m.number("delay", 0, 100)))
	}
}

func (m *draw) rbd(e *Element) {
	e.set("name", m.one("pool", "pool", "a pool", "pool,x")+"/"+m.name("image")+m.one("image", "", "/ns", ":x", " y", ",z"))
	if m.often("hosts") {
		e.add(m.hosts(false)...)
	}
	m.child(m.seldom(3, "snapshot"), e, "snapshot", "name", "snap", "a b", "s,t")
	if m.seldom(3, "config") {
		e.add(element("config", "file", m.path("/etc/ceph/")))
	}
	m.mayAuth(e, "ceph")
}

func (m *draw) ssh(e *Element) {
	e.set("name", "/"+m.fileName()).add(m.host(false))
	switch m.one("login", "", "auth", "identity", "both") {
	case "auth":
		e.add(m.auth("iscsi"))
	case "identity":
		e.add(m.sshIdentity())
	case "both":
		e.add(m.auth("iscsi"), m.sshIdentity())
	}
	m.child(m.seldom(4, "known hosts"), e, "knownHosts", "path", "/etc/ssh/known")
}

func (m *draw) sshIdentity() *Element {
	e := element("identity", "username", m.name("user"))
	switch m.one("how", "key", "agent", "both", "neither") {
	case "key":
		e.set("keyfile", "/home/u/.ssh/id")
	case "agent":
		e.set("agentsock", "/run/agent")
	case "both":
		e.set("keyfile", "/home/u/.ssh/id", "agentsock", "/run/agent")
	}
	return e
}

// web draws a file that QEMU reads through libcurl.
func (m *draw) web(e *Element, protocol string) {
	http := protocol == "http" || protocol == "https"
	secure := protocol == "https" || protocol == "ftps"
	e.set("name", m.fileName())
	m.attribute(m.fits(http && m.seldom(3, "query"), "query"), e, "query", "a=b", "a=b&c=d e", "x", "ü=%20")
	e.add(m.host(false))
	m.child(m.fits(secure && m.often("ssl"), "ssl"), e, "ssl", "verify", "yes", "no")
	if m.fits(http && m.seldom(3, "cookies"), "cookies") {
		cookies := element("cookies")
		for i := range 1 + m.index("count", 3) {
			c := text("cookie", m.one("cookie", "value", "\"quoted\"", "v=w&x", "a.b:c"))
			cookies.add(c.set("name", "c"+string(rune('a'+i))))
		}
		e.add(cookies)
	}
	if m.seldom(3, "readahead") {
		e.add(element("readahead", "size", m.number("bytes", 1, 1<<20)))
	}
	if m.seldom(3, "timeout") {
		e.add(element("timeout", "seconds", m.number("seconds", 1, 100)))
	}
	if m.fits(protocol != "tftp" && m.often("auth"), "auth") {
		e.add(m.auth("iscsi"))
	}
}
