package record

import (
	"bytes"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/secrets"
)

// Namespace is that of the element, Prefix what it is called by.
const (
	Namespace = "https://github.com/luksplug/luksplug/disks/1"
	Prefix    = "luksplug"
)

// Record is what luksplug has in a domain.
type Record struct {
	// User is the user that the domain's QEMU runs as, in libvirt's form "+UID:+GID";
	// "" if it is unknown.
	User string
	// ColdPlug is true if the domain's definition has the disks among QEMU's
	// arguments, so that they are there from the start.
	ColdPlug bool
	// Disks are the disks, in the order in which they were attached.
	Disks []Disk
}

// Disk is one disk.
type Disk struct {
	// Target is the disk's target, such as "vdb".
	Target string
	// XML is the <disk>, as its user wrote it, and Pools the storage pools that
	// it refers to, as they were known then.
	XML   string
	Pools []blockgraph.Pool
	// Reading is how the XML is read.
	Reading
	// Start is how its volume is opened when the VM starts with it.
	Start blockgraph.Method
	// Optional is true if the VM may start without it.
	Optional bool
	// Spec says how it is attached. Its Devices are as device_add was told, nil where the
	// disk was never attached; its Owners are those of images that were given away.
	spec.Spec
}

// Reading is how a disk's XML is read, and what it leaves to the host.
type Reading struct {
	// IgnoreUnknown is that of [diskxml.ParseOptions].
	IgnoreUnknown bool
	// TLSFolder is where the VM's host has the certificates of a TLS client, ""
	// for [blockgraph.DefaultTLSDir], and TLSSecret the UUID of the secret that
	// decrypts its key, "" for one that is not encrypted.
	TLSFolder, TLSSecret string
	// TLSUser is the user whose pre-shared key takes the place of certificates,
	// "" for certificates.
	TLSUser string
}

// Parse reads the XML of a disk.
func (r Reading) Parse(text []byte) (*blockgraph.Disk, error) {
	disk, err := diskxml.ParseOptions{IgnoreUnknown: r.IgnoreUnknown}.ParseDisk(text)
	if err != nil {
		return nil, err
	}
	return disk, nil
}

// Complete gives the images' TLS clients what the XML leaves to the host. The
// disk's volumes have been looked up before.
func (r Reading) Complete(disk *blockgraph.Disk) error {
	var key *secrets.Reference
	if r.TLSSecret != "" {
		id, err := secrets.ParseUUID(r.TLSSecret)
		if err != nil {
			return fmt.Errorf("the secret of the TLS client: %w", err)
		}
		key = &secrets.Reference{Type: secrets.TLS, UUID: id}
	}
	for _, image := range disk.Images() {
		if tls := image.Source.TLS(); tls != nil {
			tls.Dir, tls.Key, tls.PSKUser = r.TLSFolder, key, r.TLSUser
		}
	}
	return nil
}

// ErrSecretInXML reports that the disk's XML has a secret in it, which may not be
// recorded.
var ErrSecretInXML = errors.New("the disk's XML has a secret in it (cookies), which may not be written into the domain's metadata: name it by <secret>")

// New returns the record of a disk whose XML was read. The XML is kept as it is,
// without what is around the element.
func New(text []byte, pools blockgraph.Pools, reading Reading) (Disk, error) {
	disk, err := reading.Parse(text)
	if err != nil {
		return Disk{}, err
	}
	for _, image := range disk.Images() {
		if c, ok := image.Source.Network.(*blockgraph.Curl); ok && len(c.Cookies) > 0 {
			return Disk{}, ErrSecretInXML
		}
	}
	d := Disk{Target: disk.Target, Reading: reading}
	if d.XML, err = trim(text); err != nil {
		return Disk{}, err
	}
	for _, image := range disk.Images() {
		if image.Source.Kind != blockgraph.SourceVolume {
			continue
		}
		pool := pools[image.Source.Volume.Pool]
		if pool != nil && !slices.ContainsFunc(d.Pools, func(p blockgraph.Pool) bool { return p.Name == pool.Name }) {
			d.Pools = append(d.Pools, *pool)
		}
	}
	return d, nil
}

// trim returns the one element of a document.
func trim(text []byte) (string, error) {
	d := xml.NewDecoder(bytes.NewReader(text))
	start, depth := int64(-1), 0
	for {
		at := d.InputOffset()
		token, err := d.Token()
		if err != nil {
			return "", fmt.Errorf("the XML to record: %w", err)
		}
		switch token.(type) {
		case xml.StartElement:
			if start < 0 {
				start = at
			}
			depth++
		case xml.EndElement:
			if depth--; depth == 0 {
				return string(text[start:d.InputOffset()]), nil
			}
		}
	}
}

// Parsed returns the disk, with its volume looked up in the recorded pools.
func (d Disk) Parsed() (*blockgraph.Disk, error) {
	disk, err := d.Parse([]byte(d.XML))
	if err != nil {
		return nil, fmt.Errorf("the record of disk %s: %w", d.Target, err)
	}
	if disk.Target != d.Target {
		return nil, fmt.Errorf("the record of disk %s is of %s", d.Target, disk.Target)
	}
	pools := blockgraph.Pools{}
	for i := range d.Pools {
		pools[d.Pools[i].Name] = &d.Pools[i]
	}
	if disk, err = disk.Translate(pools); err != nil {
		return nil, err
	}
	return disk, d.Complete(disk)
}

// FromDomain returns the record in a domain's XML; an empty one where there is
// none.
func FromDomain(doc *domainxml.Document) (Record, error) {
	text := doc.Metadata(Namespace)
	if text == nil {
		return Record{}, nil
	}
	return Parse(text)
}

// Disk returns the record of the disk at target, nil where there is none.
func (r Record) Disk(target string) *Disk {
	i := slices.IndexFunc(r.Disks, func(d Disk) bool { return d.Target == target })
	if i < 0 {
		return nil
	}
	return &r.Disks[i]
}

// With returns the record with this disk, in the place of the one at its target.
func (r Record) With(d Disk) Record {
	r.Disks = slices.Clone(r.Disks)
	if old := r.Disk(d.Target); old != nil {
		*old = d
	} else {
		r.Disks = append(r.Disks, d)
	}
	return r
}

// Without returns the record without the disk at target.
func (r Record) Without(target string) Record {
	r.Disks = slices.DeleteFunc(slices.Clone(r.Disks), func(d Disk) bool { return d.Target == target })
	return r
}

// Empty reports whether there is nothing to keep.
func (r Record) Empty() bool { return len(r.Disks) == 0 && !r.ColdPlug }

// XML returns the element as it is in a domain's XML.
func (r Record) XML() (string, error) {
	return r.text(Prefix+":", ` xmlns:`+Prefix+`="`+Namespace+`"`)
}

// Plain returns the element without its namespace, as libvirt's interface for
// metadata takes it.
func (r Record) Plain() (string, error) { return r.text("", "") }

// text returns the element, whose own elements have names with this prefix.
func (r Record) text(prefix, declaration string) (string, error) {
	w := writer{prefix: prefix}
	w.begin("disks", declaration, attribute{"user", r.User}, attribute{"cold-plug", yes(r.ColdPlug)})
	for _, d := range r.Disks {
		w.begin("disk", "", attribute{"target", d.Target}, attribute{"start", string(d.Start)}, attribute{"optional", yes(d.Optional)},
			attribute{"shared-header", yes(d.AllowSharedHeader)}, attribute{"relabel", yes(d.Relabel)}, attribute{"ignore-unknown", yes(d.IgnoreUnknown)},
			attribute{"tls-dir", d.TLSFolder}, attribute{"tls-secret", d.TLSSecret}, attribute{"tls-psk", d.TLSUser})
		w.WriteString(d.XML + "\n")
		for _, pool := range d.Pools {
			if err := w.json("pool", pool); err != nil {
				return "", fmt.Errorf("the record of disk %s: %w", d.Target, err)
			}
		}
		for _, o := range d.Devices {
			if err := w.json("device", o); err != nil {
				return "", fmt.Errorf("the record of disk %s: %w", d.Target, err)
			}
		}
		for _, o := range d.Owners {
			if err := w.json("owner", o); err != nil {
				return "", fmt.Errorf("the record of disk %s: %w", d.Target, err)
			}
		}
		w.end("disk")
		w.WriteString("\n")
	}
	w.end("disks")
	return w.String(), nil
}

// writer writes elements.
type writer struct {
	strings.Builder
	prefix string
}

type attribute struct{ name, value string }

// begin begins an element. Attributes without a value are left out.
func (w *writer) begin(name, declaration string, attributes ...attribute) {
	w.WriteString("<" + w.prefix + name + declaration)
	for _, a := range attributes {
		if a.value != "" {
			w.WriteString(" " + a.name + `="`)
			_ = xml.EscapeText(w, []byte(a.value)) // a Builder takes everything
			w.WriteString(`"`)
		}
	}
	w.WriteString(">\n")
}

func (w *writer) end(name string) { w.WriteString("</" + w.prefix + name + ">") }

// json writes an element that holds JSON.
func (w *writer) json(name string, value any) error {
	text, err := json.Marshal(value)
	if err != nil {
		return err
	}
	w.WriteString("<" + w.prefix + name + ">")
	_ = xml.EscapeText(w, text) // a Builder takes everything
	w.end(name)
	w.WriteString("\n")
	return nil
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return ""
}
