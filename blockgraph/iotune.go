package blockgraph

import "fmt"

// IOTune is <iotune>, or the limits of a <throttlegroup>: 0 is no limit. The names
// on the right are those of block_set_io_throttle; a throttle-group object has
// bps-total for bps, bps-read for bps_rd, bps-write for bps_wr, and so on.
//
//	total_, read_, write_bytes_sec -> bps, bps_rd, bps_wr
//	total_, read_, write_iops_sec  -> iops, iops_rd, iops_wr
//	..._max                        -> ..._max: of a burst
//	..._max_length (seconds)       -> ..._max_length
//	size_iops_sec (bytes)          -> iops_size
//	group_name                     -> group
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockIOThrottle and ThrottleLimits.
type IOTune struct {
	Bytes, Requests Limits
	// RequestSize is size_iops_sec: a request of more bytes counts as several.
	RequestSize uint64
	// Group is group_name: disks of one name share one set of limits.
	Group string
}

// Limits are of bytes or of requests.
type Limits struct {
	Total, Read, Write Limit
}

// Limit is a rate limit with its burst.
type Limit struct {
	PerSecond uint64 // on average
	Max       uint64 // in a burst, in a second
	MaxLength uint64 // how long a burst may last, in seconds
}

// highestLimit is QEMU's THROTTLE_VALUE_MAX (include/qemu/throttle.h).
const highestLimit = 1_000_000_000_000_000

// namedLimit is one of the six limits, with the names that the XML, the QMP command and
// the object have for it.
type namedLimit struct {
	xml, qmp, object string
	Limit
}

func (t IOTune) limits() []namedLimit {
	return []namedLimit{
		{"total_bytes_sec", "bps", "bps-total", t.Bytes.Total},
		{"read_bytes_sec", "bps_rd", "bps-read", t.Bytes.Read},
		{"write_bytes_sec", "bps_wr", "bps-write", t.Bytes.Write},
		{"total_iops_sec", "iops", "iops-total", t.Requests.Total},
		{"read_iops_sec", "iops_rd", "iops-read", t.Requests.Read},
		{"write_iops_sec", "iops_wr", "iops-write", t.Requests.Write},
	}
}

// Any reports whether there is any limit.
func (t IOTune) Any() bool {
	return t.Bytes != Limits{} || t.Requests != Limits{} || t.RequestSize != 0
}

// validate checks limits by libvirt's rules; element is the path of their parent.
func (t IOTune) validate(element string) error {
	for i, l := range []Limits{t.Bytes, t.Requests} {
		name := []string{"bytes_sec", "iops_sec"}[i]
		if l.Total.PerSecond != 0 && (l.Read.PerSecond != 0 || l.Write.PerSecond != 0) {
			return invalid(element, "total and read/write "+name+" cannot be set at the same time")
		}
		if l.Total.Max != 0 && (l.Read.Max != 0 || l.Write.Max != 0) {
			return invalid(element, "total and read/write "+name+"_max cannot be set at the same time")
		}
	}
	for _, l := range append(t.limits(), namedLimit{xml: "size_iops_sec", Limit: Limit{Max: t.RequestSize}}) {
		if max(l.PerSecond, l.Max, l.MaxLength) > highestLimit {
			return invalid(element, fmt.Sprintf("block I/O throttle limit %s must be no more than %d", l.xml, int64(highestLimit)))
		}
	}
	return nil
}

// feasible checks limits by QEMU's rules (throttle_is_valid in util/throttle.c): libvirt
// accepts more, and reports only later, if at all, that they were not set.
func (t IOTune) feasible(element string) error {
	requests := t.Requests.Total.PerSecond + t.Requests.Read.PerSecond + t.Requests.Write.PerSecond
	for _, l := range t.limits() {
		burst, length := element+"/"+l.xml+"_max", element+"/"+l.xml+"_max_length"
		if err := check([]rule{
			{l.MaxLength > 1 && l.Max == 0, invalid, length, "the length of a burst needs " + l.xml + "_max"},
			{l.Max != 0 && l.PerSecond == 0, invalid, burst, "a burst needs " + l.xml + ", the limit that it may exceed"},
			{l.Max != 0 && l.Max < l.PerSecond, invalid, burst, "a burst cannot be lower than " + l.xml},
			{l.Max != 0 && l.MaxLength > highestLimit/max(l.Max, 1), invalid, length, "the burst is too long for this rate"},
		}); err != nil {
			return err
		}
	}
	return check([]rule{{t.RequestSize != 0 && requests == 0, invalid, element + "/size_iops_sec",
		"the size of a request needs a limit of requests, such as total_iops_sec"}})
}

// throttle returns the arguments of block_set_io_throttle for the device with this QOM
// path, in libvirt's order. See QEMU's qapi/block.json, BlockIOThrottle: bps to iops_wr
// are not optional.
func (t IOTune) throttle(path string) Object {
	return t.members(Object{{"id", path}}, "_", t.Group, func(l namedLimit) string { return l.qmp })
}

// groupLimits returns the limits of a throttle-group object, in libvirt's order. See
// QEMU's qapi/block-core.json, ThrottleLimits: a length of 0 is an error.
func (t IOTune) groupLimits() Object {
	return t.members(nil, "-", "", func(l namedLimit) string { return l.object })
}

// members adds all limits to o: name names each, separator joins the words of a name.
func (t IOTune) members(o Object, separator, group string, name func(namedLimit) string) Object {
	for _, l := range t.limits() {
		o.Add(name(l), l.PerSecond)
	}
	for _, l := range t.limits() {
		o.Add(name(l)+separator+"max", l.Max)
	}
	o.Add("iops"+separator+"size", t.RequestSize)
	o.AddText("group", group)
	for _, l := range t.limits() {
		if l.MaxLength != 0 {
			o.Add(name(l)+separator+"max"+separator+"length", l.MaxLength)
		}
	}
	return o
}
