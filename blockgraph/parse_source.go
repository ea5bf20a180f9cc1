package blockgraph

import (
	"errors"
	"strconv"
)

// sourceKind reads the type attribute of a <disk>, <backingStore>, <dataStore>
// or <header>.
func sourceKind(e *element) (SourceKind, error) {
	switch kind := SourceKind(orDefault(e.attr("type"), string(SourceFile))); kind {
	case SourceFile, SourceBlock, SourceDir, SourceNetwork, SourceVolume, SourceNVMe, SourceVHostUser, SourceVHostVDPA:
		return kind, nil
	default:
		return "", e.invalid("type", "unknown type %q: use file, block, network, ...", shorten(string(kind)))
	}
}

// parseSource reads a <source>; owner is the element whose type attribute says
// what kind it is, auth the <auth> that goes with it.
func parseSource(owner, e, auth *element) (Source, error) {
	kind, err := sourceKind(owner)
	if err != nil {
		return Source{}, err
	}
	out := Source{Kind: kind}
	if auth != nil && kind != SourceNetwork && kind != SourceVolume {
		return out, auth.invalid("", "authentication is for a server: a %s has none", kind)
	}
	if out.Slice, err = parseSlice(e); err != nil {
		return out, err
	}
	switch kind {
	case SourceFile:
		err = parsePath(e, "file", &out)
	case SourceBlock:
		if err = parsePath(e, "dev", &out); err == nil {
			out.Reservations, err = parseReservations(e)
		}
	case SourceDir:
		err = parsePath(e, "dir", &out)
	case SourceVHostVDPA:
		err = parsePath(e, "dev", &out)
	case SourceVHostUser:
		err = parseVHostUser(e, &out)
	case SourceNVMe:
		out.NVMe, err = parseNVMe(e)
	case SourceVolume:
		out.Volume, err = parseVolume(e, auth)
	case SourceNetwork:
		out.Network, err = parseNetwork(e, auth)
	}
	return out, err
}

func parsePath(e *element, attr string, out *Source) error {
	if out.Path = e.attr(attr); out.Path == "" {
		return e.invalid(attr, "is missing: a %s source needs the path", out.Kind)
	}
	return nil
}

// parseSlice reads <slices>.
func parseSlice(e *element) (*Slice, error) {
	slices := e.child("slices")
	if slices == nil {
		return nil, nil
	}
	s := slices.child("slice")
	if s == nil {
		return nil, slices.invalid("", "has no <slice>")
	}
	if s.attr("type") != "storage" {
		// libvirt passes over a slice of another type.
		return nil, s.invalid("type", "%q is not known: use type='storage'", shorten(s.attr("type")))
	}
	if s.attr("offset") == "" || s.attr("size") == "" {
		return nil, s.invalid("", "missing offset or size attribute of slice")
	}
	out := &Slice{}
	var err error
	if out.Offset, err = decimal(s, "offset"); err != nil {
		return nil, err
	}
	out.Size, err = decimal(s, "size")
	return out, err
}

// parseReservations reads <reservations>.
func parseReservations(e *element) (*Reservations, error) {
	r := e.child("reservations")
	if r == nil {
		return nil, nil
	}
	if r.attr("managed") == "" {
		return nil, r.invalid("managed", "Missing required attribute 'managed' in element 'reservations'")
	}
	if err := oneOf(r, "managed", "yes", "no"); err != nil {
		return nil, err
	}
	// The socket of a helper that libvirt manages is libvirt's to choose: where
	// the XML of a running VM has one, it is that of then.
	if r.attr("managed") == "yes" {
		return &Reservations{Managed: true}, nil
	}
	s := r.child("source")
	switch {
	case s == nil || s.attr("type") == "":
		return nil, r.invalid("", "missing connection type for <reservations/>: with managed='no' the helper's socket is given in a <source>")
	case s.attr("type") != "unix":
		return nil, s.invalid("type", "unsupported connection type %q for <reservations/>: use unix", shorten(s.attr("type")))
	case s.attr("path") == "":
		return nil, s.invalid("path", "missing path for <reservations/>")
	case s.attr("mode") == "":
		return nil, s.invalid("mode", "missing connection mode for <reservations/>: use client")
	case s.attr("mode") != "client":
		return nil, s.invalid("mode", "unsupported connection mode %q for <reservations/>: use client", shorten(s.attr("mode")))
	}
	return &Reservations{Socket: s.attr("path")}, nil
}

// parseNetwork reads a <source protocol=...>.
func parseNetwork(e, authElement *element) (Network, error) {
	protocol := e.attr("protocol")
	hosts, err := parseHosts(e)
	if err != nil {
		return nil, err
	}
	var auth *Auth
	if authElement != nil {
		switch protocol {
		case "nbd", "gluster", "nfs", "vxhs", "tftp":
			return nil, authElement.invalid("", "authentication is not supported for protocol '%s'", protocol)
		}
		if auth, err = parseAuth(authElement, protocol); err != nil {
			return nil, err
		}
	}
	if protocol != "nbd" && e.attr("name") == "" && protocol != "" {
		return nil, e.invalid("name", "missing name for disk source")
	}
	switch protocol {
	case "nbd":
		return parseNBD(e, hosts)
	case "iscsi":
		return parseISCSI(e, hosts, auth)
	case "rbd":
		return parseRBD(e, hosts, auth)
	case "gluster":
		return parseGluster(e, hosts)
	case "nfs":
		return parseNFS(e, hosts)
	case "ssh":
		return parseSSH(e, hosts, auth)
	case "vxhs":
		return parseVxHS(e, hosts)
	case "http", "https", "ftp", "ftps", "tftp":
		return parseCurl(e, protocol, hosts, auth)
	case "sheepdog":
		return nil, e.unsupported("protocol", "'sheepdog' protocol is no longer supported by any hypervisor driver")
	case "":
		return nil, e.invalid("protocol", "is missing: use nbd, iscsi, rbd, https, ...")
	}
	return nil, e.invalid("protocol", "unknown protocol %q: use nbd, iscsi, rbd, https, ...", shorten(protocol))
}

func parseHosts(e *element) ([]Host, error) {
	var out []Host
	for _, h := range e.children {
		if h.name != "host" {
			continue
		}
		host, err := parseHost(h)
		if err != nil {
			return nil, err
		}
		out = append(out, host)
	}
	return out, nil
}

func parseHost(e *element) (Host, error) {
	switch transport := e.attr("transport"); transport {
	case "", "tcp":
	case "unix":
		switch {
		case e.attr("socket") == "":
			return Host{}, e.invalid("socket", "missing socket for unix transport")
		case e.attr("name") != "" || e.attr("port") != "":
			return Host{}, e.invalid("name", "has no meaning with transport='unix': remove it, and the port")
		}
		return Host{Socket: e.attr("socket")}, nil
	case "rdma":
		return Host{}, e.unsupported("transport", "transport protocol 'rdma' is not yet supported")
	default:
		return Host{}, e.invalid("transport", "unknown protocol transport type %q: use tcp or unix", shorten(transport))
	}
	if e.attr("socket") != "" {
		return Host{}, e.invalid("socket", "transport protocol 'tcp' does not support socket attribute")
	}
	h := Host{Name: e.attr("name")}
	if h.Name == "" {
		return h, e.invalid("name", "missing name for host")
	}
	if text := e.attr("port"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return h, e.invalid("port", "failed to parse port number %q: use 1 to 65535", shorten(text))
		}
		h.Port = uint(n)
	}
	return h, nil
}

// parseTLS reads source@tls.
func parseTLS(e *element) (*TLS, error) {
	if err := oneOf(e, "tls", "yes", "no"); err != nil {
		return nil, err
	}
	if e.attr("tls") == "yes" {
		return &TLS{Hostname: e.attr("tlsHostname")}, nil
	}
	if e.attr("tlsHostname") != "" {
		return nil, e.invalid("tlsHostname", "needs tls='yes', as QEMU does")
	}
	return nil, nil
}

// decimal reads a decimal number.
func decimal(e *element, attr string) (uint64, error) {
	n, err := strconv.ParseUint(e.attr(attr), 10, 63)
	if err != nil {
		return 0, e.invalid(attr, "malformed value %q: use decimal digits", shorten(e.attr(attr)))
	}
	return n, nil
}

// at adds the line of e to an error that has none.
func at(e *element, err error) error {
	var invalid *XMLError
	if errors.As(err, &invalid) && invalid.Line == 0 {
		return &XMLError{Element: invalid.Element, Line: e.line, Reason: invalid.Reason}
	}
	return err
}
