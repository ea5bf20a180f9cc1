package diskxml

// diskRule is the grammar of <disk>, after libvirt's formatdomain.html (sections
// "Hard drives, floppy disks, CDROMs" and "Device address") and
// formatstorageencryption.html. Only luksplug has <header>.
var diskRule = &rule{
	attrs: []string{"type", "device", "model", "rawio", "sgio"},
	// snapshot@ only matters to libvirt's own snapshot commands.
	inert: []string{"snapshot"},
	children: map[string]*rule{
		"driver": {
			attrs: []string{"name", "type", "cache", "io", "discard", "detect_zeroes", "error_policy", "rerror_policy",
				"ioeventfd", "event_idx", "iothread", "queues", "queue_size", "iommu", "ats", "packed", "page_per_vq", "copy_on_read", "discard_no_unref"},
			numbers:  []string{"iothread", "queues", "queue_size"},
			notAttrs: []string{"max_bufsize"},
			children: map[string]*rule{"metadata_cache": metadataCacheRule(), "iothreads": {children: map[string]*rule{"iothread": {
				attrs: []string{"id"}, numbers: []string{"id"}, repeated: true,
				children: map[string]*rule{"queue": {attrs: []string{"id"}, numbers: []string{"id"}, repeated: true}},
			}}}},
			not: []string{"statistics"},
		},
		"source":       layerSource,
		"backingStore": backingStoreRule(),
		"mirror":       mirrorRule(),
		"auth":         authRule(),
		"target": {
			attrs: []string{"dev", "bus", "removable", "rotation_rate", "dpofua"},
			// tray@ is the state of a drive: libvirt only reports it.
			inert:   []string{"tray"},
			numbers: []string{"rotation_rate"},
		},
		"readonly":   {},
		"shareable":  {},
		"transient":  {attrs: []string{"shareBacking"}},
		"serial":     {text: true},
		"wwn":        {text: true},
		"encryption": encryptionRule(),
		"vendor":     {text: true},
		"product":    {text: true},
		"boot":       {attrs: []string{"order", "loadparm"}, numbers: []string{"order"}},
		"acpi":       {attrs: []string{"index"}, numbers: []string{"index"}, notAttrs: []string{"nodeset"}},
		"blockio":    numbersRule("logical_block_size", "physical_block_size", "discard_granularity"),
		"geometry":   {attrs: []string{"cyls", "heads", "secs", "trans"}, numbers: []string{"cyls", "heads", "secs"}},
		"iotune":     limitsRule(),
		"throttlefilters": {children: map[string]*rule{
			"throttlefilter": {attrs: []string{"group"}, repeated: true},
		}},
		"alias": {attrs: []string{"name"}},
		// KubeVirt's notes to itself (api.Disk in its schema.go), which libvirt does not read.
		"capacity":           {text: true},
		"filesystemOverhead": {text: true},
		"expandDisksEnabled": {text: true},
		"address": {
			attrs: []string{"type", "domain", "bus", "slot", "function", "multifunction", "controller", "target", "unit", "port",
				"cssid", "ssid", "devno"},
			notAttrs: []string{"reg", "iobase", "irq", "uid", "fid", "device", "base"},
			not:      []string{"zpci"},
		},
	},
	not: []string{"backenddomain"},
}

// numbersRule is an element whose attributes are all numbers.
func numbersRule(attrs ...string) *rule { return &rule{attrs: attrs, numbers: attrs} }

// limitsRule is <iotune>, whose elements all hold text.
func limitsRule() *rule {
	r := &rule{children: map[string]*rule{}}
	for _, name := range limitNames() {
		r.children[name] = &rule{text: true}
	}
	return r
}
