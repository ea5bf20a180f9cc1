package diskxml

import (
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"libvirt.org/go/libvirtxml"
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

// tuneOf reads an <iotune> or <throttlegroup>.
func tuneOf(t libvirtxml.DomainDiskIOTune) *blockgraph.IOTune {
	return &blockgraph.IOTune{
		Bytes: blockgraph.Limits{
			Total: limit(t.TotalBytesSec, t.TotalBytesSecMax, t.TotalBytesSecMaxLength),
			Read:  limit(t.ReadBytesSec, t.ReadBytesSecMax, t.ReadBytesSecMaxLength),
			Write: limit(t.WriteBytesSec, t.WriteBytesSecMax, t.WriteBytesSecMaxLength),
		},
		Requests: blockgraph.Limits{
			Total: limit(t.TotalIopsSec, t.TotalIopsSecMax, t.TotalIopsSecMaxLength),
			Read:  limit(t.ReadIopsSec, t.ReadIopsSecMax, t.ReadIopsSecMaxLength),
			Write: limit(t.WriteIopsSec, t.WriteIopsSecMax, t.WriteIopsSecMaxLength),
		},
		RequestSize: t.SizeIopsSec, Group: strings.TrimSpace(t.GroupName),
	}
}

func limit(perSecond, burst, length uint64) blockgraph.Limit {
	return blockgraph.Limit{PerSecond: perSecond, Max: burst, MaxLength: length}
}
