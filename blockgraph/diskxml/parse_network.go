package diskxml

import (
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// parseNetwork reads a <source protocol=...>.
func parseNetwork(e, authElement *element) (blockgraph.Network, error) {
	protocol := e.attr("protocol")
	hosts, err := parseHosts(e)
	if err != nil {
		return nil, err
	}
	var auth *blockgraph.Auth
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
	if name, single := singleHost[protocol]; single && len(hosts) != 1 {
		return nil, e.invalid("", "%s protocol accepts only one host: it has %d", name, len(hosts))
	}
	switch protocol {
	case "nbd":
		return parseNBD(e, hosts)
	case "iscsi":
		return parseISCSI(e, hosts, auth)
	case "rbd":
		return parseRBD(e, hosts, auth)
	case "gluster":
		volume, path, ok := strings.Cut(e.attr("name"), "/")
		if !ok || volume == "" || path == "" {
			return nil, e.invalid("name", "can't split path %q into pool name and image name: write it like volume/path", message.Shorten(e.attr("name")))
		}
		return &blockgraph.Gluster{Volume: volume, Path: path, Hosts: hosts}, nil
	case "nfs":
		return parseNFS(e, hosts)
	case "ssh":
		return parseSSH(e, hosts, auth)
	case "vxhs":
		tls, err := parseTLS(e)
		return &blockgraph.VxHS{ID: e.attr("name"), Host: hosts[0], TLS: tls}, err
	case "http", "https", "ftp", "ftps", "tftp":
		return parseCurl(e, protocol, hosts, auth)
	case "sheepdog":
		return nil, e.unsupported("protocol", "'sheepdog' protocol is no longer supported by any hypervisor driver")
	case "":
		return nil, e.invalid("protocol", "is missing: use nbd, iscsi, rbd, https or another that libvirt knows")
	}
	return nil, e.invalid("protocol", "unknown protocol %q: use nbd, iscsi, rbd, https or another that libvirt knows", message.Shorten(protocol))
}

// singleHost are the protocols with one server, with libvirt's names for them.
var singleHost = map[string]string{"nbd": "nbd", "iscsi": "iSCSI", "ssh": "ssh", "vxhs": "VxHS",
	"http": "http", "https": "https", "ftp": "ftp", "ftps": "ftps", "tftp": "tftp"}

func parseHosts(e *element) ([]blockgraph.Host, error) {
	var out []blockgraph.Host
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

func parseHost(e *element) (blockgraph.Host, error) {
	switch transport := e.attr("transport"); transport {
	case "", "tcp":
	case "unix":
		switch {
		case e.attr("socket") == "":
			return blockgraph.Host{}, e.invalid("socket", "missing socket for unix transport")
		case e.attr("name") != "" || e.attr("port") != "":
			return blockgraph.Host{}, e.invalid("name", "has no meaning with transport='unix': remove it, and the port")
		}
		return blockgraph.Host{Socket: e.attr("socket")}, nil
	case "rdma":
		return blockgraph.Host{}, e.unsupported("transport", "transport protocol 'rdma' is not yet supported")
	default:
		return blockgraph.Host{}, e.invalid("transport", "unknown protocol transport type %q: use tcp or unix", message.Shorten(transport))
	}
	if e.attr("socket") != "" {
		return blockgraph.Host{}, e.invalid("socket", "transport protocol 'tcp' does not support socket attribute")
	}
	h := blockgraph.Host{Name: e.attr("name")}
	if h.Name == "" {
		return h, e.invalid("name", "missing name for host")
	}
	if text := e.attr("port"); text != "" {
		n, err := strconv.ParseUint(text, 10, 16)
		if err != nil || n == 0 {
			return h, e.invalid("port", "failed to parse port number %q: use 1 to 65535", message.Shorten(text))
		}
		h.Port = uint(n)
	}
	return h, nil
}

// parseTLS reads source@tls.
func parseTLS(e *element) (*blockgraph.TLS, error) {
	if err := oneOf(e, "tls", "yes", "no"); err != nil {
		return nil, err
	}
	if e.attr("tls") == "yes" {
		return &blockgraph.TLS{Hostname: e.attr("tlsHostname")}, nil
	}
	if e.attr("tlsHostname") != "" {
		return nil, e.invalid("tlsHostname", "needs tls='yes', as QEMU does")
	}
	return nil, nil
}

func parseNBD(e *element, hosts []blockgraph.Host) (blockgraph.Network, error) {
	n := &blockgraph.NBD{Export: e.attr("name"), Host: hosts[0]}
	var err error
	if n.TLS, err = parseTLS(e); err != nil {
		return nil, err
	}
	if r := e.child("reconnect"); r != nil {
		n.ReconnectDelay, err = decimal(r, "delay")
	}
	return n, err
}

func parseISCSI(e *element, hosts []blockgraph.Host, auth *blockgraph.Auth) (blockgraph.Network, error) {
	i := &blockgraph.ISCSI{Host: hosts[0], Auth: auth}
	target, lun, hasLUN := strings.Cut(e.attr("name"), "/")
	i.Target = target
	if hasLUN {
		var err error
		if i.LUN, err = strconv.ParseUint(lun, 10, 31); err != nil {
			return nil, e.invalid("name", "cannot parse target for lunStr %q: the name is that of a target, then / and the number of a unit", message.Shorten(e.attr("name")))
		}
	}
	if n := e.child("initiator"); n != nil {
		iqn := n.child("iqn")
		if iqn == nil || iqn.attr("name") == "" {
			return nil, n.invalid("", "has no <iqn name=...>, the only element that it can have")
		}
		i.Initiator = iqn.attr("name")
	}
	return i, nil
}

func parseRBD(e *element, hosts []blockgraph.Host, auth *blockgraph.Auth) (blockgraph.Network, error) {
	r := &blockgraph.RBD{Hosts: hosts, Auth: auth}
	name := e.attr("name")
	pool, image, ok := strings.Cut(name, "/")
	if !ok || pool == "" || image == "" {
		return nil, e.invalid("name", "can't split path %q into pool name and image name: write it like pool/image", message.Shorten(name))
	}
	r.Pool, r.Image = pool, image
	if s := e.child("snapshot"); s != nil {
		r.Snapshot = s.attr("name")
	}
	if c := e.child("config"); c != nil {
		r.Config = c.attr("file")
	}
	return r, nil
}

func parseNFS(e *element, hosts []blockgraph.Host) (blockgraph.Network, error) {
	switch {
	case len(hosts) != 1:
		return nil, e.invalid("", "'nfs' protocol requires the usage of exactly one host: it has %d", len(hosts))
	case hosts[0].Port != 0:
		return nil, e.child("host").invalid("port", "port cannot be specified in 'nfs' protocol host")
	case hosts[0].Socket != "":
		return nil, e.child("host").invalid("transport", "only TCP can be used with the protocol nfs")
	}
	n := &blockgraph.NFS{Path: e.attr("name"), Host: hosts[0].Name}
	id := e.child("identity")
	if id == nil {
		return n, nil
	}
	for i, field := range []**uint64{&n.User, &n.Group} { // in this order: the first error is reported
		attr := []string{"user", "group"}[i]
		text := id.attr(attr)
		if text == "" {
			continue
		}
		// libvirt also takes names of the host's users. A plan must not depend
		// on the machine that it is made on.
		number, err := strconv.ParseUint(strings.TrimPrefix(text, "+"), 10, 32)
		if err != nil {
			return nil, id.invalid(attr, "Failed to parse %s %q: give the number, such as +1000", attr, message.Shorten(text))
		}
		*field = &number
	}
	return n, nil
}

func parseSSH(e *element, hosts []blockgraph.Host, auth *blockgraph.Auth) (blockgraph.Network, error) {
	s := &blockgraph.SSH{Path: e.attr("name"), Host: hosts[0]}
	if id := e.child("identity"); id != nil {
		if s.User = id.attr("username"); s.User == "" {
			return nil, id.invalid("username", "Missing required attribute 'username' in element 'identity'")
		}
		if id.attr("keyfile") == "" && id.attr("agentsock") == "" {
			return nil, id.invalid("", "element 'identity' requires either 'keyfile' or 'agentsock' attribute")
		}
		for _, attr := range []string{"keyfile", "agentsock"} {
			if id.attr(attr) != "" {
				s.Ignored = append(s.Ignored, "identity@"+attr)
			}
		}
	}
	if auth != nil {
		s.User = auth.User
		s.Ignored = append(s.Ignored, "auth/secret")
	}
	if e.child("knownHosts") != nil {
		s.Ignored = append(s.Ignored, "knownHosts")
	}
	return s, nil
}

func parseCurl(e *element, scheme string, hosts []blockgraph.Host, auth *blockgraph.Auth) (blockgraph.Network, error) {
	c := &blockgraph.Curl{Scheme: scheme, Host: hosts[0], Path: e.attr("name"), Query: e.attr("query"), Auth: auth}
	if s := e.child("ssl"); s != nil {
		if err := oneOf(s, "verify", "yes", "no"); err != nil {
			return nil, err
		}
		c.Verify, c.NoVerify = s.attr("verify") == "yes", s.attr("verify") == "no"
	}
	var err error
	if t := e.child("timeout"); t != nil {
		if c.Timeout, err = decimal(t, "seconds"); err != nil {
			return nil, err
		}
	}
	if r := e.child("readahead"); r != nil {
		if c.Readahead, err = decimal(r, "size"); err != nil {
			return nil, err
		}
	}
	if cookies := e.child("cookies"); cookies != nil {
		for _, k := range cookies.children {
			c.Cookies = append(c.Cookies, blockgraph.Cookie{Name: k.attr("name"), Value: blockgraph.SecretText(k.text)})
		}
	}
	return c, nil
}
