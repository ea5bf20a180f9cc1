package keyring

import (
	"fmt"

	"github.com/luksplug/luksplug/secrets"
)

// The attributes of an item.
const (
	attrApplication = "application"
	attrUUID        = "uuid"
	attrUsageType   = "usage-type"
	attrUsage       = "usage"
	attrPrivate     = "private"
	attrEphemeral   = "ephemeral"
	attrDescription = "description"

	application = "luksplug"
	yes         = "yes"
)

// attributesOf returns the attributes that represent a document.
func attributesOf(d secrets.Document) map[string]string {
	out := map[string]string{attrApplication: application, attrUUID: d.UUID.String()}
	if d.UsageType != secrets.UsageNone {
		out[attrUsageType], out[attrUsage] = string(d.UsageType), d.Usage
	}
	if d.Private {
		out[attrPrivate] = yes
	}
	if d.Ephemeral {
		out[attrEphemeral] = yes
	}
	if d.Description != "" {
		out[attrDescription] = d.Description
	}
	return out
}

// documentOf is the inverse of attributesOf. It ignores attributes of other programs.
func documentOf(attributes map[string]string) (secrets.Document, error) {
	d := secrets.Document{
		UsageType:   secrets.UsageType(attributes[attrUsageType]),
		Usage:       attributes[attrUsage],
		Private:     attributes[attrPrivate] == yes,
		Ephemeral:   attributes[attrEphemeral] == yes,
		Description: attributes[attrDescription],
	}
	for _, name := range []string{attrPrivate, attrEphemeral} {
		if v := attributes[name]; v != "" && v != yes && v != "no" {
			return d, fmt.Errorf("its attribute %s is neither yes nor no", name)
		}
	}
	if text := attributes[attrUUID]; text != "" {
		var err error
		if d.UUID, err = secrets.ParseUUID(text); err != nil {
			return d, fmt.Errorf("its attribute %s: %s", attrUUID, err.Error())
		}
	}
	if err := d.Validate(); err != nil {
		return d, fmt.Errorf("its attributes: %s", err.Error())
	}
	return d, nil
}

// label returns the name of the item for display.
func label(d secrets.Document) string {
	switch {
	case d.Description != "":
		return d.Description
	case d.Usage != "":
		return "luksplug: " + string(d.UsageType) + " " + d.Usage
	}
	return "luksplug: " + d.UUID.String()
}
