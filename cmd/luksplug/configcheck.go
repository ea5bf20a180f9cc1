package main

import (
	"errors"
	"fmt"
	"reflect"
	"strings"

	"go.yaml.in/yaml/v4"
)

// checkNode compares a configuration with the type that it is read into: package yaml has
// errors in terms of Go.
func checkNode(n *yaml.Node, name string, t reflect.Type) error {
	if n.Kind == yaml.DocumentNode && len(n.Content) > 0 {
		return checkNode(n.Content[0], name, t)
	}
	if n.Kind == yaml.AliasNode {
		n = n.Alias
	}
	if n == nil || n.Tag == "!!null" {
		return nil
	}
	wrong := func(want string) error {
		if name == "" {
			return fmt.Errorf("line %d: the configuration is not %s", n.Line, want)
		}
		return fmt.Errorf("line %d: %s is not %s", n.Line, name, want)
	}
	switch {
	case t == reflect.TypeFor[configTime]():
		if n.Kind != yaml.ScalarNode {
			return wrong("a time: give a number of seconds, or a time with its unit, such as 90s")
		}
		if err := new(configTime).UnmarshalYAML(n); err != nil {
			return fmt.Errorf("line %d: %s: %w", n.Line, name, err)
		}
	case t.Kind() == reflect.Struct:
		if n.Kind != yaml.MappingNode {
			return wrong("a list of KEY: VALUE")
		}
		return checkMapping(n, name, t)
	case t.Kind() == reflect.Slice:
		if n.Kind != yaml.SequenceNode {
			return wrong("a list: write each item on a line of its own, after a hyphen")
		}
		for _, item := range n.Content {
			if err := checkNode(item, "an item of "+name, t.Elem()); err != nil {
				return err
			}
		}
	case t.Kind() == reflect.Bool:
		if n.Kind != yaml.ScalarNode || n.Tag != "!!bool" {
			return wrong("true or false")
		}
	case n.Kind != yaml.ScalarNode:
		return wrong("a text")
	}
	return nil
}

// checkMapping checks the keys and values of a mapping. The configuration has its keys in
// the tags of the fields of t.
func checkMapping(n *yaml.Node, name string, t reflect.Type) error {
	fields, keys := map[string]reflect.Type{}, []string{}
	for _, f := range reflect.VisibleFields(t) {
		key := f.Tag.Get("yaml")
		fields[key], keys = f.Type, append(keys, key)
	}
	at, where := map[string]int{}, ""
	if name != "" {
		where = " of " + name
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		field, known := fields[key.Value]
		path := strings.TrimPrefix(name+", "+key.Value, ", ")
		switch {
		case !known:
			text := closest(key.Value, keys)
			if text == "" {
				text = ": known are " + strings.Join(keys, ", ")
			}
			return fmt.Errorf("line %d: unknown key %q%s%s", key.Line, key.Value, where, text)
		case at[key.Value] != 0:
			return fmt.Errorf("line %d: %s is already in line %d: remove one", key.Line, path, at[key.Value])
		}
		at[key.Value] = key.Line
		if err := checkNode(value, path, field); err != nil {
			return err
		}
	}
	return nil
}

// notYAML returns the error for a text that is not YAML, without the words of its parser.
func notYAML(err error) error {
	var failed *yaml.LoadError
	if !errors.As(err, &failed) {
		return err
	}
	return fmt.Errorf("line %d, column %d: it is not valid YAML: %s", failed.Mark.Line, failed.Mark.Column, failed.Message)
}
