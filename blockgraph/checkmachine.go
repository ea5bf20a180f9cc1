package blockgraph

import (
	"fmt"
	"slices"
)

// checkAgainst refuses a disk that conflicts with the VM, by the rules that
// libvirt applies when it reads a domain.
func (d *Disk) checkAgainst(m Machine) error {
	refuse := func(reason string) error { return &PlacementError{Target: d.Target, Reason: reason} }
	for _, o := range m.Disks {
		switch {
		case o.Target == d.Target:
			var taken []string
			for _, other := range m.Disks {
				taken = append(taken, other.Target)
			}
			return refuse("target '" + d.Target + "' duplicated: the VM has a disk of this name: " + OtherTarget(d.Target, taken))
		case d.Serial != "" && o.Serial == d.Serial:
			return refuse("disks '" + d.Target + "' and '" + o.Target + "' have identical serial: the guest could not tell them apart")
		case d.WWN != 0 && o.WWN == d.WWN:
			return refuse("disks '" + d.Target + "' and '" + o.Target + "' have identical WWN: the guest could not tell them apart")
		case d.IOTune != nil && d.IOTune.Group != "" && d.IOTune.Any() && o.Tune != nil && o.Tune.Group == d.IOTune.Group && *o.Tune != *d.IOTune:
			return refuse("different iotunes for disks " + d.Target + " and " + o.Target + ", which share the group '" + d.IOTune.Group + "'")
		}
	}
	if m.Memory == MemoryPrivate && !d.Empty && d.Image.Source.Kind == SourceVHostUser {
		return refuse("'vhostuser' requires shared memory, which its server must access: add <memoryBacking><access mode='shared'/></memoryBacking> while the VM is off")
	}
	threads := d.Driver.IOThreads
	if d.Driver.IOThread != 0 {
		threads = []IOThreadQueues{{ID: d.Driver.IOThread}}
	}
	for _, t := range threads {
		if m.Known() && !slices.Contains(m.IOThreads, t.ID) {
			return refuse(fmt.Sprintf("iothread '%d' is not defined: the VM has no such I/O thread (it has %d)", t.ID, len(m.IOThreads)))
		}
	}
	return nil
}

// limits returns the disk's own limits or, if it only names a group, those of
// another disk of the VM in that group, as libvirt does.
func (d *Disk) limits(m Machine) (*IOTune, error) {
	t := d.IOTune
	if t == nil || t.Group == "" || t.Any() {
		return t, nil
	}
	for _, o := range m.Disks {
		if o.Tune != nil && o.Tune.Group == t.Group && o.Tune.Any() {
			return o.Tune, nil
		}
	}
	return nil, invalid("disk/iotune/group_name", "group_name can be configured only together with settings: no other disk of the VM is in the group")
}
