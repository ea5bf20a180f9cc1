package qmp

import (
	"encoding/json"
	"fmt"

	"github.com/luksplug/luksplug/internal/qapi"
)

// CompactSchema drops from the "return" value of query-qmp-schema what ParseSchema does not use: the types
// of replies and of events' data, the features of all but objects, and the second list of each enumeration's
// values. ParseSchema returns the same Schema for the rest, which is half as long.
func CompactSchema(data []byte) ([]byte, error) {
	var entities []schemaEntity
	if err := qapi.Unmarshal(data, &entities); err != nil {
		return nil, fmt.Errorf("query-qmp-schema: %w: %w", ErrProtocol, err)
	}
	byName := make(map[string]*schemaEntity, len(entities))
	for i := range entities {
		if e := &entities[i]; e.MetaType != metaCommand && e.MetaType != metaEvent {
			byName[e.Name] = e
		}
	}
	used := make(map[string]bool)
	var use func(name string)
	use = func(name string) {
		e := byName[name]
		if e == nil || used[name] {
			return // ParseSchema reports what is missing
		}
		used[name] = true
		for _, m := range e.Members {
			use(m.Type)
		}
		for _, v := range e.Variants {
			use(v.Type)
		}
		use(e.Element)
	}
	for _, e := range entities {
		if e.MetaType == metaCommand {
			use(e.ArgType)
		}
	}
	kept := make([]schemaEntity, 0, len(entities))
	for _, e := range entities {
		switch e.MetaType {
		case metaCommand:
			e.Features = nil
		case metaEvent:
			e.ArgType, e.Features = "", nil
		case metaEnum:
			e.Values, e.Members, e.Features = e.allValues(), nil, nil
			fallthrough
		default:
			if !used[e.Name] {
				continue
			}
		}
		kept = append(kept, e)
	}
	return json.Marshal(kept)
}
