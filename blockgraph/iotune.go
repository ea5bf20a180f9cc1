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

// Limit is how much may pass.
type Limit struct {
	PerSecond uint64 // on average
	Max       uint64 // in a burst, in a second
	MaxLength uint64 // how long a burst may last, in seconds
}

// highestLimit is QEMU's THROTTLE_VALUE_MAX (include/qemu/throttle.h).
const highestLimit = 1_000_000_000_000_000

// unit is one of the two things that are limited, in the words of the three
// languages that name it.
type unit struct {
	xml, qmp, object string
	limits           Limits
}

func (t IOTune) units() [2]unit {
	return [2]unit{{"bytes", "bps", "bps", t.Bytes}, {"iops", "iops", "iops", t.Requests}}
}

// direction is one of a unit's three limits.
type direction struct {
	xml, qmp, object string
	Limit
}

func (l Limits) directions() [3]direction {
	return [3]direction{{"total", "", "-total", l.Total}, {"read", "_rd", "-read", l.Read}, {"write", "_wr", "-write", l.Write}}
}

// Any reports whether there is any limit.
func (t IOTune) Any() bool {
	return t.Bytes != Limits{} || t.Requests != Limits{} || t.RequestSize != 0
}

// validate checks limits by the rules that libvirt has for them; what they are
// part of is at path.
func (t IOTune) validate(path string) error {
	for _, u := range t.units() {
		l := u.limits
		if l.Total.PerSecond != 0 && (l.Read.PerSecond != 0 || l.Write.PerSecond != 0) {
			return invalid(path, "total and read/write "+u.xml+"_sec cannot be set at the same time")
		}
		if l.Total.Max != 0 && (l.Read.Max != 0 || l.Write.Max != 0) {
			return invalid(path, "total and read/write "+u.xml+"_sec_max cannot be set at the same time")
		}
		for _, d := range l.directions() {
			if max(d.PerSecond, d.Max, d.MaxLength) > highestLimit {
				return invalid(path, fmt.Sprintf("block I/O throttle limit %s must be no more than %d", d.xml+"_"+u.xml+"_sec", int64(highestLimit)))
			}
		}
	}
	if t.RequestSize > highestLimit {
		return invalid(path, fmt.Sprintf("block I/O throttle limit size_iops_sec must be no more than %d", int64(highestLimit)))
	}
	return nil
}

// feasible checks limits by QEMU's rules (throttle_is_valid in util/throttle.c):
// libvirt takes others, and reports later, if at all, that they are not set.
func (t IOTune) feasible(path string) error {
	requests := false
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			name := d.xml + "_" + u.xml + "_sec"
			requests = requests || u.xml == "iops" && d.PerSecond != 0
			switch {
			case d.MaxLength > 1 && d.Max == 0:
				return invalid(path+"/"+name+"_max_length", "the length of a burst needs "+name+"_max")
			case d.Max != 0 && d.PerSecond == 0:
				return invalid(path+"/"+name+"_max", "a burst needs "+name+", the limit that it may exceed")
			case d.Max != 0 && d.Max < d.PerSecond:
				return invalid(path+"/"+name+"_max", "a burst cannot be lower than "+name)
			case d.Max != 0 && d.MaxLength > highestLimit/d.Max:
				return invalid(path+"/"+name+"_max_length", "the burst is too long for this rate")
			}
		}
	}
	if t.RequestSize != 0 && !requests {
		return invalid(path+"/size_iops_sec", "the size of a request needs a limit of requests, such as total_iops_sec")
	}
	return nil
}

// throttle returns the arguments of block_set_io_throttle for the device
// with this QOM path, in libvirt's order. See QEMU's qapi/block.json,
// BlockIOThrottle: bps, bps_rd ... iops_wr are not optional.
func (t IOTune) throttle(path string) Object {
	o := Object{{"id", path}}
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			o.Add(u.qmp+d.qmp, d.PerSecond)
		}
	}
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			o.Add(u.qmp+d.qmp+"_max", d.Max)
		}
	}
	o.Add("iops_size", t.RequestSize)
	o.AddText("group", t.Group)
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			if d.MaxLength != 0 {
				o.Add(u.qmp+d.qmp+"_max_length", d.MaxLength)
			}
		}
	}
	return o
}

// groupLimits returns the limits of a throttle-group object, in libvirt's
// order. See QEMU's qapi/block-core.json, ThrottleLimits. A length of 0 is an
// error there, so it is left out.
func (t IOTune) groupLimits() Object {
	var o Object
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			o.Add(u.object+d.object, d.PerSecond)
		}
	}
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			o.Add(u.object+d.object+"-max", d.Max)
		}
	}
	o.Add("iops-size", t.RequestSize)
	for _, u := range t.units() {
		for _, d := range u.limits.directions() {
			if d.MaxLength != 0 {
				o.Add(u.object+d.object+"-max-length", d.MaxLength)
			}
		}
	}
	return o
}
