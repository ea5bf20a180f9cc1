package record

import (
	"bytes"
	"cmp"
	"crypto/hmac"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/google/uuid"

	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
)

// ErrUnverified reports that a record does not verify: a client who may write the domain's
// metadata can have written it. Nothing is done on its word until root has adopted it.
var ErrUnverified = errors.New("luksplug's record of the disks in the domain's metadata is not verified")

// Why a record does not verify. Each wraps [ErrUnverified], as [ErrNoKey] and [ErrKeyFile]
// do.
var (
	// ErrUnsigned: an earlier luksplug, another host or another user has written it.
	ErrUnsigned = fmt.Errorf("%w: it is not signed", ErrUnverified)
	// ErrSignature: it was changed after it was signed, or signed for another domain or by
	// another key.
	ErrSignature = fmt.Errorf("%w: its signature is wrong", ErrUnverified)
)

// Signer signs and verifies the records of one domain.
type Signer struct {
	// Key is nil where there is none: nothing verifies then, and nothing is signed.
	Key *Key
	// UUID is the domain's. A record of one domain does not verify for another one.
	UUID string
}

// Sign returns the record with its signature, and without one if there is no key.
func (s Signer) Sign(r Record) (Record, error) {
	r.MAC = ""
	if s.Key == nil {
		return r, nil
	}
	sum, err := s.sum(r)
	if err != nil {
		return r, err
	}
	r.MAC = base64.StdEncoding.EncodeToString(sum)
	return r, nil
}

// Verify returns nil for a record that was signed by this key for this domain and has not
// been changed since, and for an empty one. All other errors wrap [ErrUnverified].
func (s Signer) Verify(r Record) error {
	if r.Empty() {
		return nil
	}
	if s.Key == nil {
		return ErrNoKey
	}
	if r.MAC == "" {
		return ErrUnsigned
	}
	got, err := base64.StdEncoding.Strict().DecodeString(r.MAC)
	if err != nil {
		return ErrSignature
	}
	want, err := s.sum(r)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrUnverified, err)
	}
	if !hmac.Equal(got, want) {
		return ErrSignature
	}
	return nil
}

func (s Signer) sum(r Record) ([]byte, error) {
	id, err := uuid.Parse(s.UUID)
	if err != nil {
		return nil, fmt.Errorf("the domain's UUID: %w", err)
	}
	content, err := r.canonical()
	if err != nil {
		return nil, err
	}
	return s.Key.mac("luksplug record 1", append([]byte(id.String()+"\n"), content...)), nil
}

// canonical returns the content of the record, without its signature, in a form that does
// not depend on how libvirt lays out the element: libvirt changes prefixes, quotes, empty
// elements, the white space between elements, and the order of nothing. Different content
// has different forms: each part is preceded by its length.
func (r Record) canonical() ([]byte, error) {
	var c canon
	r.MAC = ""
	c.attributes(r.attributes())
	c.number(len(r.Disks))
	for _, d := range r.Disks {
		c.attributes(d.attributes())
		element, err := domainxml.ParseElement([]byte(d.XML))
		if err == nil {
			// As it will be read: see [Parse].
			element, err = domainxml.ParseElement([]byte(element.Plain()))
		}
		if err != nil {
			return nil, fmt.Errorf("the record of disk %s: %w", d.Target, err)
		}
		c.element(element)
		err = errors.Join(values(&c, d.Pools), values(&c, d.Devices), values(&c, d.Owners))
		if err != nil {
			return nil, fmt.Errorf("the record of disk %s: %w", d.Target, err)
		}
	}
	return c.Bytes(), nil
}

// canon writes a canonical form.
type canon struct{ bytes.Buffer }

func (c *canon) number(n int) {
	c.Write(binary.BigEndian.AppendUint64(nil, uint64(n)))
}

func (c *canon) text(s string) {
	c.number(len(s))
	c.WriteString(s)
}

// attributes writes the attributes of one of luksplug's own elements. One without a value
// is the same as none.
func (c *canon) attributes(all []attribute) {
	all = slices.DeleteFunc(all, func(a attribute) bool { return a.value() == "" })
	c.number(len(all))
	for _, a := range all {
		c.text(a.name)
		c.text(a.value())
	}
}

// element writes an element of the disk's XML, without comments and declarations of
// namespaces. White space counts only in an element that has no others in it.
func (c *canon) element(e *domainxml.Element) {
	c.text(e.Name.Space)
	c.text(e.Name.Local)
	attrs := slices.DeleteFunc(slices.Clone(e.Attrs), func(a xml.Attr) bool {
		return a.Name.Space == "xmlns" || a.Name.Space == "" && a.Name.Local == "xmlns"
	})
	slices.SortFunc(attrs, func(a, b xml.Attr) int {
		return cmp.Or(strings.Compare(a.Name.Space, b.Name.Space), strings.Compare(a.Name.Local, b.Name.Local), strings.Compare(a.Value, b.Value))
	})
	c.number(len(attrs))
	for _, a := range attrs {
		c.text(a.Name.Space)
		c.text(a.Name.Local)
		c.text(a.Value)
	}
	text := e.Text
	if strings.TrimSpace(text) == "" {
		text = ""
	}
	c.text(text)
	c.number(len(e.Children))
	for _, child := range e.Children {
		c.element(child)
	}
}

// values writes values as JSON.
func values[T any](c *canon, all []T) error {
	c.number(len(all))
	for _, v := range all {
		text, err := json.Marshal(v)
		if err != nil {
			return err
		}
		c.text(string(text))
	}
	return nil
}
