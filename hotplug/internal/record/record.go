package record

import (
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"unicode"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
	"github.com/luksplug/luksplug/hotplug/internal/spec"
	"github.com/luksplug/luksplug/secrets"
)

// Namespace is the element's namespace, Prefix its usual prefix.
const (
	Namespace = "https://github.com/luksplug/luksplug/disks/1"
	Prefix    = "luksplug"
)

// Record is the content of the element. Its methods return changed copies, without a
// signature.
//
// A client who may write the domain's metadata can write it. Only one that [Signer.Verify] has
// verified is acted on.
type Record struct {
	User     string // of the domain's QEMU, in libvirt's form "+UID:+GID"; "" if unknown
	ColdPlug bool   // the domain's definition has the disks among QEMU's arguments
	MAC      string // the signature, in base64; "" for none
	Disks    []Disk // in the order of their attach
}

// Disk is one disk.
type Disk struct {
	Target string
	// XML is the <disk> as the user wrote it, Pools the storage pools that it refers to,
	// as they were at that time.
	XML   string
	Pools []blockgraph.Pool
	Reading
	Start    blockgraph.Method // how the volume is opened when the VM starts with it
	Optional bool              // the VM may start without it
	Attach
	// Spec describes how it is attached. Devices are those of device_add, nil if the disk was
	// never attached.
	spec.Spec
	// Owners are the owners of images, which earlier versions recorded. They are read for
	// the signature alone: owners are restored from the host's own registry.
	Owners []access.Owner
}

// Attach holds how the user has attached the disk, for the hook that attaches it again.
type Attach struct {
	// Unlock is "qemu" if the user has chosen that QEMU unlocks the volume; "" otherwise.
	Unlock string
	// MaxStall is the longest stall that the user has allowed, as [time.ParseDuration] takes
	// it; "" for the default.
	MaxStall string
}

// Reading holds how a disk's XML is read, and settings that it leaves to the host.
type Reading struct {
	IgnoreUnknown bool // see [diskxml.ParseOptions]
	// TLSDir is the directory with the certificates of a TLS client on the VM's host, ""
	// for [blockgraph.DefaultTLSDir]. TLSSecret names the secret that decrypts its
	// key, by its UUID or as tls:USAGE, "" if it is not encrypted.
	TLSDir, TLSSecret string
	TLSUser           string // of a pre-shared key, "" for certificates
	// Recovery recovers the disk, in addition to what its XML says, see
	// [blockgraph.Disk.Recover].
	Recovery blockgraph.Recovery
}

// Parse reads the XML of a disk.
func (r Reading) Parse(text []byte) (*blockgraph.Disk, error) {
	disk, err := diskxml.ParseOptions{IgnoreUnknown: r.IgnoreUnknown}.ParseDisk(text)
	if err == nil && r.Recovery != blockgraph.NoRecovery {
		if err = disk.Recover(r.Recovery); err == nil {
			err = disk.Validate()
		}
	}
	if err != nil {
		return nil, err
	}
	return disk, nil
}

// Complete sets the TLS clients of the images, which the XML leaves to the host. The
// disk's volumes have to be looked up before.
func (r Reading) Complete(disk *blockgraph.Disk) error {
	var key *secrets.Reference
	if r.TLSSecret != "" {
		ref, err := r.tlsKey()
		if err != nil {
			return fmt.Errorf("the secret of the TLS client: %w", err)
		}
		key = &ref
	}
	for _, image := range disk.Images() {
		if tls := image.Source.TLS(); tls != nil {
			tls.Dir, tls.Key, tls.PSKUser = r.TLSDir, key, r.TLSUser
		}
	}
	return nil
}

// tlsKey returns the reference of TLSSecret.
func (r Reading) tlsKey() (secrets.Reference, error) {
	ref := secrets.Reference{Type: secrets.TLS}
	if usage, ok := strings.CutPrefix(r.TLSSecret, "tls:"); ok {
		ref.Usage = usage
		return ref, ref.Validate()
	}
	id, err := secrets.ParseUUID(r.TLSSecret)
	if err != nil {
		return ref, fmt.Errorf("%w, or tls:USAGE", err)
	}
	ref.UUID = id
	return ref, nil
}

// ErrTLS reports a directory or user of a TLS client that may not be recorded.
var ErrTLS = errors.New("the TLS client cannot be recorded")

// check refuses what would become another argument of QEMU, or another file, for the VM's
// next QEMU.
func (r Reading) check() error {
	control := func(s string) bool { return strings.ContainsFunc(s, unicode.IsControl) }
	switch {
	case control(r.TLSDir) || r.TLSDir != "" && !filepath.IsAbs(r.TLSDir):
		return fmt.Errorf("%w: its directory %q is not an absolute path without control characters", ErrTLS, r.TLSDir)
	case control(r.TLSSecret):
		return fmt.Errorf("%w: the name of its secret, %q, has control characters", ErrTLS, r.TLSSecret)
	case control(r.TLSUser):
		return fmt.Errorf("%w: its user %q has control characters", ErrTLS, r.TLSUser)
	}
	return nil
}

// ErrSecretInXML reports that the disk's XML contains a secret, which must not be recorded.
var ErrSecretInXML = errors.New("the disk's XML has a secret in it (cookies), which may not be written into the domain's metadata: name it by <secret>")

// New returns the record of a disk, with the unchanged text of its element. The errors are
// those of [diskxml.ParseOptions.ParseDisk], and [ErrSecretInXML].
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
	if err := reading.check(); err != nil {
		return Disk{}, err
	}
	element, err := domainxml.ParseElement(text)
	if err != nil {
		return Disk{}, fmt.Errorf("the XML to record: %w", err)
	}
	d := Disk{Target: disk.Target, Reading: reading, XML: element.Normalized()}
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

// Parsed returns the disk, with its volumes looked up in the recorded pools.
func (d Disk) Parsed() (*blockgraph.Disk, error) {
	disk, err := d.Parse([]byte(d.XML))
	if err == nil {
		err = d.check()
	}
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

// Options returns the properties of the record that differ from those of most disks, in
// human-readable form.
func (d Disk) Options() []string {
	var out []string
	for _, a := range d.attributes() {
		switch value := a.value(); {
		case value == "" || a.name == "target":
		case a.flag != nil:
			out = append(out, a.name)
		default:
			out = append(out, a.name+"="+value)
		}
	}
	return out
}

// FromDomain returns the record in a domain's XML, an empty one if there is none.
func FromDomain(doc *domainxml.Document) (Record, error) {
	text := doc.Metadata(Namespace)
	if text == nil {
		return Record{}, nil
	}
	return Parse(text)
}

// Disk returns the record of the disk at target, nil if there is none.
func (r Record) Disk(target string) *Disk {
	i := slices.IndexFunc(r.Disks, func(d Disk) bool { return d.Target == target })
	if i < 0 {
		return nil
	}
	return &r.Disks[i]
}

// Targets returns the targets of the recorded disks.
func (r Record) Targets() []string {
	var out []string
	for _, d := range r.Disks {
		out = append(out, d.Target)
	}
	return out
}

// With returns the record with this disk, which replaces the one at its target.
func (r Record) With(d Disk) Record {
	r.Disks, r.MAC = slices.Clone(r.Disks), ""
	if old := r.Disk(d.Target); old != nil {
		*old = d
	} else {
		r.Disks = append(r.Disks, d)
	}
	return r
}

// Without returns the record without the disk at target.
func (r Record) Without(target string) Record {
	r.Disks, r.MAC = slices.DeleteFunc(slices.Clone(r.Disks), func(d Disk) bool { return d.Target == target }), ""
	return r
}

// Empty reports whether there is nothing to keep.
func (r Record) Empty() bool { return len(r.Disks) == 0 && !r.ColdPlug }

// XML returns the element as it is in a domain's XML.
func (r Record) XML() (string, error) {
	return r.text(Prefix+":", ` xmlns:`+Prefix+`="`+Namespace+`"`)
}

// Plain returns the element without its namespace, as libvirt's interface takes it.
func (r Record) Plain() (string, error) { return r.text("", "") }

func (r Record) text(prefix, declaration string) (string, error) {
	w := writer{prefix: prefix}
	w.begin("disks", declaration, r.attributes())
	for _, d := range r.Disks {
		w.begin("disk", "", d.attributes())
		w.WriteString(d.XML + "\n")
		err := errors.Join(writeJSON(&w, "pool", d.Pools), writeJSON(&w, "device", d.Devices), writeJSON(&w, "owner", d.Owners))
		if err != nil {
			return "", fmt.Errorf("the record of disk %s: %w", d.Target, err)
		}
		w.end("disk")
		w.WriteString("\n")
	}
	w.end("disks")
	return w.String(), nil
}

// attribute is an attribute of an element, and the text or flag for it.
type attribute struct {
	name string
	text *string
	flag *bool
}

func (a attribute) set(value string) {
	if a.text != nil {
		*a.text = value
	} else {
		*a.flag = value == "yes"
	}
}

func (a attribute) value() string {
	switch {
	case a.text != nil:
		return *a.text
	case *a.flag:
		return "yes"
	}
	return ""
}

func (r *Record) attributes() []attribute {
	return []attribute{{name: "user", text: &r.User}, {name: "cold-plug", flag: &r.ColdPlug}, {name: "mac", text: &r.MAC}}
}

func (d *Disk) attributes() []attribute {
	return []attribute{
		{name: "target", text: &d.Target}, {name: "start", text: (*string)(&d.Start)}, {name: "optional", flag: &d.Optional},
		{name: "shared-header", flag: &d.AllowSharedHeader}, {name: "relabel", flag: &d.Relabel}, {name: "ignore-unknown", flag: &d.IgnoreUnknown},
		{name: "trust-image-chain", flag: &d.TrustImageChain}, {name: "guest-header", flag: &d.AllowGuestHeader},
		{name: "payload-signature", flag: &d.AllowPayloadSignature},
		{name: "unlock", text: &d.Unlock}, {name: "max-stall", text: &d.MaxStall},
		{name: "tls-dir", text: &d.TLSDir}, {name: "tls-secret", text: &d.TLSSecret}, {name: "tls-psk", text: &d.TLSUser},
		{name: "recover", text: (*string)(&d.Recovery)},
	}
}

// writer writes elements.
type writer struct {
	strings.Builder
	prefix string
}

// begin begins an element. It leaves out attributes without a value.
func (w *writer) begin(name, declaration string, attributes []attribute) {
	w.WriteString("<" + w.prefix + name + declaration)
	for _, a := range attributes {
		if value := a.value(); value != "" {
			w.WriteString(" " + a.name + `="`)
			_ = xml.EscapeText(w, []byte(value)) // a Builder returns no error
			w.WriteString(`"`)
		}
	}
	w.WriteString(">\n")
}

func (w *writer) end(name string) { w.WriteString("</" + w.prefix + name + ">") }

// writeJSON writes elements that hold JSON.
func writeJSON[T any](w *writer, name string, values []T) error {
	for _, value := range values {
		text, err := json.Marshal(value)
		if err != nil {
			return err
		}
		w.WriteString("<" + w.prefix + name + ">")
		_ = xml.EscapeText(w, text) // a Builder returns no error
		w.end(name)
		w.WriteString("\n")
	}
	return nil
}
