package reencrypt

import (
	"context"
	"math"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/image"
)

// data returns how many bytes of the source a copy has as data, in whole units, and whether that is exact. What cannot be read
// counts as data: an image of a server, one whose format no reader knows, one that is damaged. The error is that of ctx.
func (s Source) data(ctx context.Context, unit int64) (bytes int64, exact bool, err error) {
	if !s.Layout.sparse() || len(s.Layers) == 0 {
		return s.Size, s.Layout != "" && !s.Layout.sparse(), nil
	}
	var c chain
	defer c.close()
	for _, l := range s.Layers {
		var a *image.Allocation
		if !l.Opaque && (l.Format == blockgraph.FormatRaw || l.Format == blockgraph.FormatQcow2) {
			a, _ = image.OpenAllocation(l.Path, image.Format(l.Format))
		}
		c.layers = append(c.layers, a) // nil: not known
	}
	exact = true
	count := counter{unit: unit}
	for off := int64(0); off < s.Size; {
		if err := ctx.Err(); err != nil {
			return 0, false, err
		}
		stored, length, known := c.at(off)
		length = min(length, s.Size-off)
		if stored == image.StoredData {
			count.add(off, off+length)
		}
		exact = exact && known
		off += length
	}
	return min(count.total, s.Size), exact, nil
}

// chain is the images of a source, the upper one first. An image that cannot be read is nil.
type chain struct{ layers []*image.Allocation }

func (c chain) close() {
	for _, a := range c.layers {
		if a != nil {
			a.Close()
		}
	}
}

// at returns what the guest's disk has at an offset, for how many bytes at least, and whether that is known.
func (c chain) at(off int64) (stored image.Stored, length int64, known bool) {
	length = math.MaxInt64 - off
	for _, a := range c.layers {
		if a == nil {
			return image.StoredData, length, false
		}
		stored, n, err := a.At(off)
		if err != nil {
			return image.StoredData, length, false
		}
		length = min(length, n)
		if stored != image.StoredNothing {
			return stored, length, true
		}
	}
	return image.StoredZeros, length, true
}

// counter counts the units that ranges touch. The ranges come in their order.
type counter struct{ unit, end, total int64 }

func (c *counter) add(from, to int64) {
	from, to = max(from/c.unit*c.unit, c.end), roundUp(to, c.unit)
	if to > from {
		c.total += to - from
		c.end = to
	}
}

func roundUp(n, unit int64) int64 { return (n + unit - 1) / unit * unit }
