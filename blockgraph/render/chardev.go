package render

import (
	"strconv"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
)

// chardevOptions returns the options of -chardev, whose values are text.
func chardevOptions(c blockgraph.Chardev) blockgraph.Object {
	o := blockgraph.Object(nil).With("driver", "socket").With("id", c.ID).With("path", c.Path)
	if c.Reconnect != 0 {
		name, value := c.ReconnectOption()
		o = o.With(name, strconv.FormatUint(value, 10))
	}
	return o
}

// chardevText returns the value of -chardev, where a comma is doubled.
func chardevText(c blockgraph.Chardev) string {
	text := "socket"
	for _, m := range chardevOptions(c)[1:] {
		text += "," + m.Name + "=" + strings.ReplaceAll(m.Value.(string), ",", ",,")
	}
	return text
}
