package diskxml

// volumeRule is the grammar of <volume>, after libvirt's formatstorage.html (section "Storage volume XML") and
// formatstorageencryption.html. Only luksplug has <header>.
func volumeRule() *rule {
	text := func() *rule { return &rule{text: true} }
	size := func() *rule { return &rule{attrs: []string{"unit"}, text: true} }
	permissions := func() *rule {
		return &rule{children: map[string]*rule{"owner": text(), "group": text(), "mode": text(), "label": text()}}
	}
	format := func() *rule { return &rule{attrs: []string{"type"}} }
	times := &rule{children: map[string]*rule{"atime": text(), "mtime": text(), "ctime": text(), "btime": text()}}
	return &rule{
		attrs: []string{"type"},
		children: map[string]*rule{
			"name": text(), "capacity": size(), "allocation": size(),
			// libvirt reports these four, and does not read them when it makes a volume.
			"key": text(), "physical": size(), "source": volumeSourceRule(),
			"target": {children: map[string]*rule{
				"path": text(), "format": format(), "permissions": permissions(), "timestamps": times,
				"encryption": encryptionRule(), "compat": text(), "clusterSize": size(), "nocow": {},
				"features": {children: map[string]*rule{"lazy_refcounts": {}, "extended_l2": {}}},
			}},
			"backingStore": {children: map[string]*rule{
				"path": text(), "format": format(), "permissions": permissions(), "timestamps": times,
			}},
		},
	}
}

// volumeSourceRule is <source>, where the volume is on the pool's devices: only libvirt's own answer.
func volumeSourceRule() *rule {
	extent := &rule{inert: []string{"start", "end"}, repeated: true}
	device := &rule{inert: []string{"path"}, repeated: true}
	return (&rule{}).with("device", device.with("extent", extent))
}
