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
// int64, or uint64 where they are greater; others than whole ones are refused.
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

// readValue reads a value whose objects are nested at most this deep.
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
		if t == '[' {
			return readArray(d, depth-1)
		}
		return readObject(d, depth-1)
	}
	return token, nil
}

func readArray(d *json.Decoder, depth int) (any, error) {
	out := []any{}
	for d.More() {
		e, err := readValue(d, depth)
		if err != nil {
			return nil, err
		}
		out = append(out, e)
	}
	_, err := d.Token()
	return out, err
}

func readObject(d *json.Decoder, depth int) (any, error) {
	out := Object{}
	for d.More() {
		name, err := d.Token()
		if err != nil {
			return nil, err
		}
		value, err := readValue(d, depth)
		if err != nil {
			return nil, err
		}
		text, _ := name.(string) // the decoder takes nothing else here
		if out.Has(text) {
			return nil, fmt.Errorf("the member %q is there twice", text)
		}
		out.Add(text, value)
	}
	_, err := d.Token()
	return out, err
}
