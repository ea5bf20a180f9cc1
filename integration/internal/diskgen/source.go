package diskgen

import (
	"slices"
	"strconv"
)

// source draws a <source> of a kind, for an image with a role: "disk", "backing" or "data".
func (m *maker) source(kind, role string) *Element {
	e := element("source")
	switch kind {
	case "file":
		e.set("file", m.path("/srv/images/"))
	case "block":
		e.set("dev", m.path("/dev/vg0/"))
		if role != "data" && m.fits(m.device == "lun" && m.often("reservations"), "reservations") {
			e.add(m.reservations())
		}
	case "dir":
		e.set("dir", m.path("/srv/folders/"))
	case "nvme":
		e.set("type", "pci", "managed", m.one("managed", "yes", "no"), "namespace", m.number("namespace", 1, 4))
		e.add(element("address", "type", "pci", "domain", "0x0000", "bus", "0x0"+strconv.Itoa(1+m.count()), "slot", "0x00", "function", m.one("function", "0x0", "0x1")))
	case "vhostuser":
		e.set("type", "unix", "path", m.path("/run/vhost/"))
		m.attribute(m.often("mode"), e, "mode", "client")
		if m.often("reconnect") {
			r := element("reconnect", "enabled", m.one("reconnects", "yes", "no"))
			e.add(r.set("timeout", m.number("timeout", 1, 60)))
		}
	case "vhostvdpa":
		e.set("dev", "/dev/vhost-vdpa-"+strconv.Itoa(m.count()))
	case "network":
		m.network(e)
	}
	if kind == "file" || kind == "block" || kind == "dir" {
		if role == "disk" && m.seldom(8, "startupPolicy") {
			e.set("startupPolicy", m.one("policy", "optional", "mandatory", "requisite"))
		}
	}
	if m.seldom(12, "index") {
		e.set("index", m.number("index of the image", 1, 9))
	}
	if m.seldom(12, "label") {
		e.add(element("seclabel", "model", "dac", "relabel", "no"))
	}
	if role != "data" && kind != "vhostuser" && m.fits(m.device != "lun" && m.seldom(6, "slice"), "slice") {
		e.add(element("slices").add(element("slice", "type", "storage", "offset", m.number("offset", 0, 1<<30), "size", m.number("size", 1, 1<<40))))
	}
	return e
}

// count returns a number that is unique in the case.
func (m *draw) count() int {
	m.made++
	return m.made
}

// path draws a path that is unique in the case, sometimes with characters that need quoting.
func (m *draw) path(dir string) string {
	return dir + m.name("image") + m.one("name", "", "", ".img", ".qcow2", " with blanks", ",comma,,two", "-ümläut", "'quote\"s", "<&>", "\\back\\slash", "%41#?x=1", ":colon", "=equal")
}

func (m *draw) reservations() *Element {
	if m.often("managed reservations") {
		return element("reservations", "managed", "yes")
	}
	return element("reservations", "managed", "no").add(element("source", "type", "unix", "path", m.path("/run/pr/"), "mode", "client"))
}

// secret draws a reference to a secret of [Secrets].
func (m *draw) secret(typ string) *Element {
	others := func(s Secret) bool { return string(s.Reference.Type) != typ }
	ref := slices.DeleteFunc(Secrets(), others)[m.index("secret", 3)].Reference
	if m.often("by usage") {
		return element("secret", "type", typ, "usage", ref.Usage)
	}
	return element("secret", "type", typ, "uuid", ref.UUID.String())
}

func (m *draw) auth(typ string) *Element {
	return element("auth", "username", m.one("user", "somebody", "user name", "admin,o=x", "ü")).add(m.secret(typ))
}

// host draws a server.
func (m *draw) host(sockets bool) *Element {
	if m.fits(sockets && m.often("socket"), "socket") {
		return element("host", "transport", "unix", "socket", m.path("/run/servers/"))
	}
	h := element("host", "name", m.one("host", "server.example", "192.0.2.7", "::1", "2001:db8::5"))
	if m.often("port") {
		h.set("port", m.number("port number", 1, 65535))
	}
	m.attribute(m.seldom(4, "transport"), h, "transport", "tcp")
	return h
}

// hosts draws several servers.
func (m *draw) hosts(sockets bool) []*Element {
	out := []*Element{m.host(sockets)}
	for range m.index("more hosts", 3) {
		out = append(out, m.host(sockets))
	}
	return out
}

// fileName draws a name on a server.
func (m *draw) fileName() string {
	return m.one("root", "", "/") + m.name("file") + m.one("file name", "", ".iso", "/deeper/x.img", " a b", ",c", "-ü", "%20", "a+b", ":x", "@y", "&=z")
}
