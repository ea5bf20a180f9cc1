package diskxml

import (
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/message"
)

// limitNames returns the names of the elements of <iotune>.
func limitNames() []string {
	names := []string{"size_iops_sec", "group_name"}
	for _, direction := range []string{"total", "read", "write"} {
		for _, unit := range []string{"bytes", "iops"} {
			name := direction + "_" + unit + "_sec"
			names = append(names, name, name+"_max", name+"_max_length")
		}
	}
	return names
}

// parseIOTune reads an <iotune> or <throttlegroup>. It reads the tree: libvirtxml
// takes an element that is no number for a missing one.
func parseIOTune(e *element) (*blockgraph.IOTune, error) {
	t := &blockgraph.IOTune{}
	for _, c := range e.children {
		text := strings.TrimSpace(c.text)
		if c.name == "group_name" {
			t.Group = text
			continue
		}
		n, err := strconv.ParseUint(text, 10, 64)
		if err != nil {
			return nil, c.invalid("", "%q must be an integer, in decimal digits", message.Shorten(text))
		}
		*limitField(t, c.name) = n
	}
	return t, nil
}

// limitField returns the number that an element of <iotune> sets.
func limitField(t *blockgraph.IOTune, name string) *uint64 {
	if name == "size_iops_sec" {
		return &t.RequestSize
	}
	limits := &t.Bytes
	if strings.Contains(name, "_iops_") {
		limits = &t.Requests
	}
	limit := &limits.Total
	switch {
	case strings.HasPrefix(name, "read_"):
		limit = &limits.Read
	case strings.HasPrefix(name, "write_"):
		limit = &limits.Write
	}
	switch {
	case strings.HasSuffix(name, "_max_length"):
		return &limit.MaxLength
	case strings.HasSuffix(name, "_max"):
		return &limit.Max
	}
	return &limit.PerSecond
}
