package diskxml

// headerSource is the grammar of the <source> of a <header> or <dataStore>, which
// cannot be encrypted; layerSource is that of a layer of the disk.
var (
	headerSource = sourceRule(nil)
	layerSource  = sourceRule(map[string]*rule{"encryption": encryptionRule(), "dataStore": layerRule(headerSource)})
)

// sourceRule is the grammar of a <source>, which depends on the type of its owner and,
// for a server, on the protocol. more are additional elements that any kind may have.
//
// Elements that libvirt only reads for another kind of source are refused: libvirt would
// ignore them here, and they would be lost.
func sourceRule(more map[string]*rule) *rule {
	rules := map[string]*rule{}
	var known []string
	for kind, build := range sourceRules {
		r := build()
		for name, child := range more {
			r.children[name] = child
		}
		if more == nil {
			r.not = append(r.not, "encryption", "dataStore")
		}
		rules[kind] = r
		known = append(append(known, r.attrs...), childNames(r)...)
	}
	for _, r := range rules {
		r.others = known
	}
	return &rule{kinds: rules}
}

// sourceRules has a rule for each kind and protocol.
var sourceRules = map[string]func() *rule{
	"file":      func() *rule { return localRule("file") },
	"block":     func() *rule { return localRule("dev").with("reservations", reservationsRule()) },
	"dir":       func() *rule { return localRule("dir") },
	"volume":    func() *rule { return localRule("pool", "volume", "mode").with("auth", authRule()) },
	"vhostvdpa": func() *rule { return commonRule("dev") },
	"vhostuser": func() *rule {
		return commonRule("type", "path", "mode").with("reconnect", &rule{attrs: []string{"enabled", "timeout"}})
	},
	"nvme": func() *rule {
		return commonRule("type", "managed", "namespace").with("address", &rule{attrs: []string{"type", "domain", "bus", "slot", "function"},
			notAttrs: []string{"multifunction"}, not: []string{"zpci"}})
	},
	"nbd": func() *rule {
		return networkRule("tls", "tlsHostname").with("reconnect", &rule{attrs: []string{"delay"}})
	},
	"iscsi": func() *rule {
		iqn := &rule{attrs: []string{"name"}}
		return networkRule().with("auth", authRule()).with("initiator", (&rule{}).with("iqn", iqn))
	},
	"rbd": func() *rule {
		return networkRule().with("auth", authRule()).with("snapshot", &rule{attrs: []string{"name"}}).with("config", &rule{attrs: []string{"file"}})
	},
	"gluster": func() *rule { return networkRule() },
	"nfs":     func() *rule { return networkRule().with("identity", &rule{attrs: []string{"user", "group"}}) },
	"ssh": func() *rule {
		return networkRule().with("auth", authRule()).with("knownHosts", &rule{attrs: []string{"path"}}).
			with("identity", &rule{attrs: []string{"username", "keyfile", "agentsock"}})
	},
	"vxhs":  func() *rule { return networkRule("tls") },
	"http":  func() *rule { return webRule("query") },
	"https": func() *rule { return webRule("query") },
	"ftp":   func() *rule { return webRule() },
	"ftps":  func() *rule { return webRule() },
	"tftp":  func() *rule { return webRule() },
	"":      func() *rule { return networkRule() },
}

// commonRule is what every <source> may have.
func commonRule(attrs ...string) *rule {
	return &rule{
		attrs: attrs,
		// index@ is libvirt's own numbering of a running VM's images.
		inert:   []string{"index"},
		numbers: []string{"index"},
		children: map[string]*rule{
			// An image gets the owner and label of the domain, if any (attach options of
			// package hotplug), and not one of its own. libvirt does not read type@ here, which
			// oVirt writes on every disk.
			"seclabel": {inert: []string{"type", "model", "relabel", "labelskip"}, children: map[string]*rule{"label": {text: true}}, repeated: true},
			"slices": {children: map[string]*rule{
				"slice": {attrs: []string{"type", "offset", "size"}},
			}},
		},
	}
}

func localRule(attrs ...string) *rule {
	r := commonRule(append(attrs, "startupPolicy")...)
	// Descriptors that a program passed to libvirtd for its own domain: other programs
	// cannot use them.
	r.notAttrs = []string{"fdgroup"}
	return r
}

func networkRule(attrs ...string) *rule {
	r := commonRule(append([]string{"protocol", "name", "startupPolicy"}, attrs...)...)
	return r.with("host", &rule{attrs: []string{"name", "port", "transport", "socket"}, repeated: true})
}

func webRule(attrs ...string) *rule {
	cookie := &rule{attrs: []string{"name"}, text: true, repeated: true}
	return networkRule(attrs...).with("auth", authRule()).
		with("ssl", &rule{attrs: []string{"verify"}}).
		with("cookies", (&rule{}).with("cookie", cookie)).
		with("timeout", &rule{attrs: []string{"seconds"}}).
		with("readahead", &rule{attrs: []string{"size"}})
}

func authRule() *rule {
	secret := &rule{attrs: []string{"type", "uuid", "usage"}}
	return (&rule{attrs: []string{"username"}}).with("secret", secret)
}

func reservationsRule() *rule {
	socket := &rule{attrs: []string{"type", "path", "mode"}}
	// enabled@ is libvirt's old spelling, which it parses and ignores.
	return (&rule{attrs: []string{"managed"}, inert: []string{"enabled"}}).with("source", socket)
}

// encryptionRule is the grammar of <encryption>, after libvirt's
// formatstorageencryption.html. Only luksplug has <header>.
func encryptionRule() *rule {
	header := layerRule(headerSource).without("backingStore")
	header.attrs = append(header.attrs, "recover")
	return &rule{
		attrs: []string{"format", "engine"},
		children: map[string]*rule{
			"secret": {attrs: []string{"type", "uuid", "usage"}, repeated: true},
			"header": header,
			"cipher": {attrs: []string{"name", "size", "mode", "hash"}},
			"ivgen":  {attrs: []string{"name", "hash"}},
		},
	}
}

// layerRule is the grammar of a <header>, a <dataStore>, or a <backingStore> without its
// own <backingStore>.
func layerRule(source *rule) *rule {
	return &rule{
		attrs:   []string{"type"},
		inert:   []string{"index"},
		numbers: []string{"index"},
		children: map[string]*rule{
			"format": {attrs: []string{"type"}, children: map[string]*rule{"metadata_cache": metadataCacheRule()}},
			"source": source,
		},
	}
}

// backingStoreRule is the grammar of <backingStore>, which may contain another.
func backingStoreRule() *rule {
	r := layerRule(layerSource)
	return r.with("backingStore", r)
}

func metadataCacheRule() *rule {
	return (&rule{}).with("max_size", &rule{attrs: []string{"unit"}, text: true})
}

// mirrorRule is the grammar of <mirror>, the state of a libvirt block job in a running
// VM's XML. It has no meaning for a disk that is being attached.
func mirrorRule() *rule {
	r := backingStoreRule()
	r.inert = []string{"index", "file", "format", "job", "ready"}
	return r
}
