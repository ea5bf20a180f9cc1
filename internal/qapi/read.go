package qapi

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
)

// maxReadDepth bounds the nesting of what UnmarshalJSON reads.
const maxReadDepth = 64

// UnmarshalJSON reads one JSON object; members keep their order. Numbers become
// int64, or uint64 if they are greater; fractions are refused.
func (o *Object) UnmarshalJSON(text []byte) error {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	value, err := readValue(d, maxReadDepth)
	if err != nil {
		return err
	}
	object, ok := value.(Object)
	if !ok {
		return errors.New("this is no JSON object")
	}
	*o = object
	return nil
}

// readValue reads a value whose objects and arrays are nested at most this deep.
func readValue(d *json.Decoder, depth int) (any, error) {
	token, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := token.(type) {
	case json.Number:
		if n, err := strconv.ParseInt(t.String(), 10, 64); err == nil {
			return n, nil
		}
		return strconv.ParseUint(t.String(), 10, 64)
	case json.Delim:
		if depth == 0 {
			return nil, errors.New("the JSON is nested too deep")
		}
		return readMembers(d, depth-1, t == '{')
	}
	return token, nil
}

// readMembers reads what follows the beginning of an object or array.
func readMembers(d *json.Decoder, depth int, object bool) (any, error) {
	members, elements := Object{}, []any{}
	for d.More() {
		name := ""
		if object {
			token, err := d.Token()
			if err != nil {
				return nil, err
			}
			if name, _ = token.(string); members.Has(name) { // the decoder takes only strings here
				return nil, fmt.Errorf("the member %q is given twice", name)
			}
		}
		value, err := readValue(d, depth)
		if err != nil {
			return nil, err
		}
		if object {
			members.Add(name, value)
		} else {
			elements = append(elements, value)
		}
	}
	_, err := d.Token()
	if object {
		return members, err
	}
	return elements, err
}
