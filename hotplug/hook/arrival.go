package hook

import (
	"context"

	"github.com/luksplug/luksplug/hotplug/coldstart"
)

// DiskCheck says whether a disk could arrive.
type DiskCheck struct {
	Target string
	Err    error // why not
}

// CheckArrival reports for each recorded disk of a running domain, whose XML is given,
// whether this host could take it over by a migration: whether its files are
// here, and its secrets in the key stores. The secrets are looked up, but no key is
// derived, and nothing is changed.
func (h Host) CheckArrival(ctx context.Context, xml []byte) ([]DiskCheck, error) {
	e := Event{Operation: Migrate, XML: xml}
	d, err := e.read()
	if err != nil {
		return nil, err
	}
	e.Domain = d.uuid
	s, err := call{Host: h, Event: e, domain: d}.starting()
	if err != nil {
		return nil, err
	}
	var out []DiskCheck
	for _, r := range d.record.Disks {
		disk, err := StartDisk(d.doc, r)
		if err == nil {
			err = s.Check(ctx, disk, coldstart.ArrivalMigration, h.Store)
		}
		out = append(out, DiskCheck{r.Target, err})
	}
	return out, nil
}
