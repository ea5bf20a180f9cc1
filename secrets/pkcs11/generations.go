//go:build pkcs11 && cgo

package pkcs11

import (
	"bytes"
	"cmp"
	"errors"
	"slices"
	"strconv"
	"strings"
	"time"

	p11 "github.com/miekg/pkcs11"

	"github.com/luksplug/luksplug/secrets"
)

// object is one of luksplug's data objects.
type object struct {
	handle     p11.ObjectHandle
	label      string
	generation uint64
}

// vanished reports whether err means that an object was destroyed after it was found.
func vanished(err error) bool { return errors.Is(err, p11.Error(p11.CKR_OBJECT_HANDLE_INVALID)) }

// unsteady reports whether err may result from a concurrent change of the same objects.
// SoftHSM returns several codes for that: it reads a file while another thread or
// process writes it, or destroys an object that no longer exists.
func unsteady(err error) bool {
	if vanished(err) {
		return true
	}
	for _, code := range []p11.Error{p11.CKR_GENERAL_ERROR, p11.CKR_FUNCTION_FAILED, p11.CKR_ATTRIBUTE_VALUE_INVALID} {
		if errors.Is(err, code) {
			return true
		}
	}
	return false
}

// steady retries f while its error is unsteady, for less than half a second in all, and
// returns the last error. A token has no event to wait for.
func steady(f func() error) error {
	const attempts, longest = 30, 20 * time.Millisecond
	pause := time.Millisecond
	for range attempts - 1 {
		err := f()
		if !unsteady(err) {
			return err
		}
		time.Sleep(pause)
		pause = min(pause+time.Millisecond, longest)
	}
	return f()
}

// ours returns luksplug's data objects that have the attributes, the newest first, and
// ignores those of other programs.
func ours(c *session, attributes ...*p11.Attribute) (out []object, err error) {
	err = steady(func() error {
		out, err = oursOnce(c, attributes)
		return err
	})
	return out, err
}

func oursOnce(c *session, attributes []*p11.Attribute) ([]object, error) {
	found, err := c.objects(append([]*p11.Attribute{p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA)}, attributes...)...)
	if err != nil {
		return nil, err
	}
	var out []object
	for _, handle := range found {
		got, err := c.module.GetAttributeValue(c.handle, handle, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_LABEL, nil), p11.NewAttribute(p11.CKA_APPLICATION, nil),
		})
		if err != nil {
			return nil, err
		}
		number, is := strings.CutPrefix(string(got[1].Value), generationOf)
		if generation, err := strconv.ParseUint(number, 10, 63); is && err == nil {
			out = append(out, object{handle, string(got[0].Value), generation})
		}
	}
	slices.SortFunc(out, func(a, b object) int { return cmp.Compare(b.generation, a.generation) })
	return out, nil
}

// content returns the value of the newest object with the label. The error wraps
// [secrets.ErrNotFound] if there is none.
func content(c *session, label string) (b []byte, err error) {
	err = steady(func() error {
		objects, err := oursOnce(c, []*p11.Attribute{p11.NewAttribute(p11.CKA_LABEL, label)})
		switch {
		case err != nil:
			return err
		case len(objects) == 0:
			return secrets.ErrNotFound
		}
		_, b, err = newest(c, objects)
		return err
	})
	return b, err
}

// newest returns the object of the highest generation, and its value; objects is sorted
// like the result of ours. If two processes created the same generation at once, the
// greater value is the newest: handles differ between processes, so only the value
// gives the same result in each.
func newest(c *session, objects []object) (best object, content []byte, err error) {
	for _, o := range objects {
		if o.generation != objects[0].generation {
			break
		}
		b, err := c.read(o.handle, p11.CKA_VALUE)
		if err != nil {
			clear(content)
			return best, nil, err
		}
		if content == nil || bytes.Compare(b, content) > 0 {
			content, b = b, content
			best = o
		}
		clear(b)
	}
	return best, content, nil
}

// write creates the next generation of the object with the label, and destroys the
// older ones: some tokens cannot change a data object.
func write(c *session, label string, content []byte) error {
	byLabel := p11.NewAttribute(p11.CKA_LABEL, label)
	defer overwriteFreed(len(content))
	// A retry may create the same object twice: newest takes either.
	err := steady(func() error {
		there, err := oursOnce(c, []*p11.Attribute{byLabel})
		if err != nil {
			return err
		}
		generation := uint64(1)
		if len(there) > 0 {
			generation += there[0].generation
		}
		_, err = c.module.CreateObject(c.handle, []*p11.Attribute{
			p11.NewAttribute(p11.CKA_CLASS, p11.CKO_DATA), p11.NewAttribute(p11.CKA_TOKEN, true), p11.NewAttribute(p11.CKA_PRIVATE, true),
			p11.NewAttribute(p11.CKA_APPLICATION, generationOf+strconv.FormatUint(generation, 10)), byLabel, p11.NewAttribute(p11.CKA_VALUE, content),
		})
		return err
	})
	if err != nil {
		return err
	}
	return steady(func() error {
		there, err := oursOnce(c, []*p11.Attribute{byLabel})
		if err != nil || len(there) == 0 {
			return err
		}
		best, b, err := newest(c, there)
		clear(b)
		if err != nil {
			return err
		}
		return destroy(c, slices.DeleteFunc(there, func(o object) bool { return o.handle == best.handle }))
	})
}

func destroy(c *session, objects []object) error {
	for _, o := range objects {
		if err := c.module.DestroyObject(c.handle, o.handle); err != nil && !vanished(err) {
			return err
		}
	}
	return nil
}
