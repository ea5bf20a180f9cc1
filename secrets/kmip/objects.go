package kmip

import (
	"cmp"
	"crypto/rand"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"

	"github.com/google/uuid"
	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/luksplug/luksplug/secrets"
)

// The attributes of luksplug's objects, and the kinds of objects.
const (
	attrKind       = "luksplug-kind"
	attrUUID       = "luksplug-uuid"
	attrGeneration = "luksplug-generation"
	attrUsage      = "luksplug-usage"

	kindDocument = "document"
	kindValue    = "value"
)

// field is an attribute of an object.
type field struct{ name, value string }

// usageField returns the field for a usage. Non-ASCII characters are percent-encoded,
// because some servers decode text byte by byte.
func usageField(t secrets.UsageType, usage string) field {
	return field{attrUsage, string(t) + ":" + (&url.URL{Path: usage}).EscapedPath()}
}

// encode returns fields as attributes of the style.
func (s Style) encode(fields ...field) []kmip.Attribute {
	var out []kmip.Attribute
	for i, f := range fields {
		if s == Custom {
			out = append(out, kmip.Attribute{AttributeName: kmip.AttributeName("x-" + f.name), AttributeValue: f.value})
			continue
		}
		index := int32(i)
		out = append(out, kmip.Attribute{
			AttributeName: kmip.AttributeNameApplicationSpecificInformation, AttributeIndex: &index,
			AttributeValue: kmip.ApplicationSpecificInformation{ApplicationNamespace: f.name, ApplicationData: f.value},
		})
	}
	return out
}

// names returns the names of the attributes to request.
func (s Style) names() []kmip.AttributeName {
	if s == Custom {
		return []kmip.AttributeName{"x-" + attrKind, "x-" + attrUUID, "x-" + attrGeneration, "x-" + attrUsage, kmip.AttributeNameState}
	}
	return []kmip.AttributeName{kmip.AttributeNameApplicationSpecificInformation, kmip.AttributeNameState}
}

// object has the attributes of one of luksplug's objects.
type object struct {
	id         string // the server's
	uuid       uuid.UUID
	generation uint64
	state      kmip.State // 0 for types of objects without state
	fields     map[string]string
}

// decode is the inverse of [Style.encode]. It ignores other attributes.
func decode(id string, attributes []kmip.Attribute) (object, error) {
	o := object{id: id, fields: map[string]string{}}
	for _, a := range attributes {
		switch v := a.AttributeValue.(type) {
		case kmip.ApplicationSpecificInformation:
			o.fields[v.ApplicationNamespace] = v.ApplicationData
		case kmip.State:
			o.state = v
		default:
			name, custom := cutX(a.AttributeName)
			if text, ok := textOf(v); ok && custom {
				o.fields[name] = text
			}
		}
	}
	var err error
	if o.uuid, err = secrets.ParseUUID(o.fields[attrUUID]); err != nil {
		return o, fmt.Errorf("%w: object %s: attribute %s: %s", secrets.ErrDamaged, id, attrUUID, err.Error())
	}
	if o.generation, err = strconv.ParseUint(o.fields[attrGeneration], 10, 63); err != nil {
		return o, fmt.Errorf("%w: object %s (uuid %s): attribute %s is not a number", secrets.ErrDamaged, id, o.uuid, attrGeneration)
	}
	return o, nil
}

// textOf returns the value of a text attribute. The library does not decode the
// values of attributes with unknown names.
func textOf(value any) (string, bool) {
	if v, ok := value.(ttlv.Value); ok {
		value = v.Value
	}
	text, ok := value.(string)
	return text, ok
}

func cutX(name kmip.AttributeName) (string, bool) {
	if len(name) > 2 && name.IsCustom() {
		return string(name[2:]), true
	}
	return "", false
}

// revoked reports whether the object was revoked.
func (o object) revoked() bool { return o.state > kmip.StateActive }

// perMessage is the largest number of requests in one message.
const perMessage = 32

// locate returns luksplug's objects that have all the fields, for each uuid the
// valid one first. damaged is the error for invalid objects.
func (c *connection) locate(style Style, want ...field) (found []object, damaged, err error) {
	located, err := ask[*payloads.LocateResponsePayload](c, &payloads.LocateRequestPayload{Attribute: style.encode(want...)})
	if err != nil {
		return nil, nil, err
	}
	for ids := range slices.Chunk(located.UniqueIdentifier, perMessage) {
		var requests []kmip.OperationPayload
		for _, id := range ids {
			requests = append(requests, &payloads.GetAttributesRequestPayload{UniqueIdentifier: id, AttributeName: style.names()})
		}
		replies, err := c.exchange(requests...)
		if err != nil {
			return nil, nil, err
		}
		for i, reply := range replies {
			o, err := attributesOf(ids[i], reply)
			switch {
			case errors.Is(err, secrets.ErrDamaged):
				damaged = errors.Join(damaged, err)
			case errors.Is(err, secrets.ErrNotFound): // another client has destroyed it
			case err != nil:
				return nil, nil, err
			case o.has(want): // or the server has found more than that
				found = append(found, o)
			}
		}
	}
	slices.SortFunc(found, func(a, b object) int {
		return cmp.Or(cmp.Compare(a.uuid.String(), b.uuid.String()), cmp.Compare(b.generation, a.generation), cmp.Compare(b.id, a.id))
	})
	return found, damaged, nil
}

func attributesOf(id string, r reply) (object, error) {
	if r.err != nil {
		return object{}, r.err
	}
	p, ok := r.payload.(*payloads.GetAttributesResponsePayload)
	if !ok {
		return object{}, nonsense("unexpected payload in the response to Get Attributes")
	}
	return decode(id, p.Attribute)
}

func (o object) has(want []field) bool {
	for _, f := range want {
		if o.fields[f.name] != f.value {
			return false
		}
	}
	return true
}

// newest returns the first object of each uuid.
func newest(objects []object) []object {
	return slices.CompactFunc(slices.Clone(objects), func(a, b object) bool { return a.uuid == b.uuid })
}

// register creates the next generation of an object and destroys the older ones. Two concurrent calls both succeed, and
// all clients agree on which of the two takes precedence.
func (c *connection) register(style Style, kind string, id uuid.UUID, content kmip.Object, more ...field) error {
	fields := []field{{attrKind, kind}, {attrUUID, id.String()}}
	there, _, err := c.locate(style, fields...)
	if err != nil {
		return err
	}
	generation := uint64(1)
	if len(there) > 0 {
		generation += there[0].generation
	}
	fields = append(append(fields, field{attrGeneration, strconv.FormatUint(generation, 10)}), more...)
	// Random, because two clients may create the same generation at once, and names
	// are unique.
	name := fmt.Sprintf("luksplug %s %s %d %s", kind, id, generation, rand.Text())
	attributes := append(style.encode(fields...), kmip.Attribute{
		AttributeName: kmip.AttributeNameName, AttributeValue: kmip.Name{NameValue: name, NameType: kmip.NameTypeUninterpretedTextString},
	})
	if kind == kindValue {
		attributes = append(attributes, kmip.Attribute{AttributeName: kmip.AttributeNameCryptographicUsageMask, AttributeValue: kmip.CryptographicUsageDeriveKey})
	}
	made, err := ask[*payloads.RegisterResponsePayload](c, &payloads.RegisterRequestPayload{
		ObjectType: content.ObjectType(), Object: content, TemplateAttribute: kmip.TemplateAttribute{Attribute: attributes},
	})
	if err != nil {
		return err
	}
	var inactive error
	if kind == kindValue {
		_, inactive = ask[*payloads.ActivateResponsePayload](c, &payloads.ActivateRequestPayload{UniqueIdentifier: made.UniqueIdentifier})
	}
	there, _, err = c.locate(style, fields[:2]...)
	switch {
	case err != nil:
		return err
	case len(there) == 0: // the secret has been removed
		return nil
	case inactive != nil && there[0].id == made.UniqueIdentifier:
		return inactive // otherwise another client has set it again and revoked ours
	}
	return c.destroy(style, there[1:], kmip.RevocationReasonCodeSuperseded)
}

// destroy destroys objects.
func (c *connection) destroy(style Style, objects []object, reason kmip.RevocationReasonCode) error {
	for _, o := range objects {
		if err := c.destroyOne(style, o, reason); err != nil {
			return err
		}
	}
	return nil
}

// destroyOne destroys an object. An active object must be revoked first (section
// 4.21). It is not an error if another client does either concurrently.
func (c *connection) destroyOne(style Style, o object, reason kmip.RevocationReasonCode) error {
	for {
		if o.state == kmip.StateActive {
			_, err := ask[*payloads.RevokeResponsePayload](c, &payloads.RevokeRequestPayload{
				UniqueIdentifier: o.id, RevocationReason: kmip.RevocationReason{RevocationReasonCode: reason},
			})
			var r *refusal
			if err != nil && !errors.As(err, &r) {
				return err
			}
		}
		_, err := ask[*payloads.DestroyResponsePayload](c, &payloads.DestroyRequestPayload{UniqueIdentifier: o.id})
		if err == nil || errors.Is(err, secrets.ErrNotFound) {
			return nil
		}
		now, stateErr := c.stateOf(style, o.id)
		switch {
		case errors.Is(stateErr, secrets.ErrNotFound):
			return nil
		case stateErr != nil:
			return stateErr
		case now <= o.state: // states only increase, so the loop ends
			return err
		}
		o.state = now
	}
}

// stateOf returns the state of one of luksplug's objects.
func (c *connection) stateOf(style Style, id string) (kmip.State, error) {
	got, err := ask[*payloads.GetAttributesResponsePayload](c, &payloads.GetAttributesRequestPayload{UniqueIdentifier: id, AttributeName: style.names()})
	if err != nil {
		return 0, err
	}
	return stateOf(got.Attribute), nil
}
