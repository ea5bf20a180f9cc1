package kmip

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Style is the form of the attributes of luksplug's objects.
type Style string

// The styles.
const (
	Application Style = "application" // Application Specific Information
	Custom      Style = "custom"      // custom attributes, x-luksplug-...
)

// Options configure the connection to the server. Address is required; nearly all
// servers require a certificate and its key.
type Options struct {
	Address     string        // host:port
	Certificate string        // file with the client's certificate, in PEM
	Key         string        // file with its key, in PEM
	CA          string        // file with the authorities of the server's certificate, in PEM; "" means the system's
	ServerName  string        // name in the server's certificate; "" means the host of Address
	Timeout     time.Duration // for each call; 0 means 10 seconds
	Style       Style         // of attributes; "" means Application
}

// Store is a [secrets.Keeper] on a KMIP server. Make one with [New].
type Store struct{ server }

// New returns the store of a server. Each call reads the files and opens a new
// connection.
func New(o Options) *Store {
	if o.Style == "" {
		o.Style = Application
	}
	return &Store{server{o.withTimeout()}}
}

func (o Options) withTimeout() Options {
	const enough = 10 * time.Second
	if o.Timeout == 0 {
		o.Timeout = enough
	}
	return o
}

// server has the fields and methods that Store and Finder share.
type server struct{ options Options }

// String returns "kmip://" and the address.
func (s server) String() string { return "kmip://" + s.options.Address }

// with runs f with a connection.
func (s server) with(ctx context.Context, ref secrets.Reference, f func(c *connection) error) error {
	return storecall.Fail(s, ref, storecall.Bounded(ctx, s.options.Timeout, "the server", func(ctx context.Context) error {
		c, err := dial(ctx, s.options)
		if err != nil {
			return err
		}
		defer c.close()
		return f(c)
	}))
}

// errChanged: another client has destroyed an object between two requests.
var errChanged = errors.New("it has been changed meanwhile")

// steady runs f, and again if it returns errChanged.
func steady(f func() error) error {
	const attempts = 20
	for range attempts {
		if err := f(); !errors.Is(err, errChanged) {
			return err
		}
	}
	return fmt.Errorf("%w: other clients change the secret faster than it can be read", secrets.ErrUnreachable)
}

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (*secrets.Secret, error) {
	var value *secrets.Secret
	err := s.with(ctx, ref, func(c *connection) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		return steady(func() error {
			d, err := s.find(c, ref)
			if err != nil {
				return err
			}
			value, err = s.value(c, d.UUID)
			return err
		})
	})
	return value, err
}

// value returns the value of the secret with that uuid.
func (s *Store) value(c *connection, id uuid.UUID) (*secrets.Secret, error) {
	fields := []field{{attrKind, kindValue}, {attrUUID, id.String()}}
	found, damaged, err := c.locate(s.options.Style, fields...)
	switch {
	case err != nil:
		return nil, err
	case damaged != nil:
		return nil, damaged
	case len(found) == 0:
		return nil, secrets.ErrNoValue
	}
	if found[0].revoked() {
		// Another client may have replaced the object.
		again, _, err := c.locate(s.options.Style, fields...)
		if err == nil && (len(again) == 0 || again[0].id != found[0].id) {
			err = errChanged
		}
		if err != nil {
			return nil, err
		}
		return nil, revoked(found[0].id)
	}
	value, err := c.get(found[0].id)
	if errors.Is(err, secrets.ErrNotFound) {
		return nil, errChanged
	}
	return value, err
}

func revoked(id string) error {
	return fmt.Errorf("%w: the server's object %s has been revoked: set a new value, after changing the passphrase of the volume", secrets.ErrDenied, id)
}

// find returns the document of the secret that ref names.
func (s *Store) find(c *connection, ref secrets.Reference) (secrets.Document, error) {
	by := field{attrUUID, ref.UUID.String()}
	if ref.UUID == uuid.Nil {
		if !secrets.IsText(ref.Usage) {
			return secrets.Document{}, secrets.ErrNotFound // no document can have it
		}
		by = usageField(ref.Type.UsageType(), ref.Usage)
	}
	documents, damaged, err := s.documents(c, by)
	switch {
	case err != nil:
		return secrets.Document{}, err
	case damaged != nil:
		return secrets.Document{}, damaged
	case len(documents) > 1:
		return secrets.Document{}, fmt.Errorf("%w: %d secrets have this usage: undefine all but one, by uuid", secrets.ErrDamaged, len(documents))
	}
	return secrets.Find(documents, ref)
}

// documents returns the documents with these fields. damaged is the error for
// invalid ones.
func (s *Store) documents(c *connection, by ...field) (documents []secrets.Document, damaged, err error) {
	err = steady(func() error {
		documents, damaged, err = s.readDocuments(c, by)
		return err
	})
	return documents, damaged, err
}

func (s *Store) readDocuments(c *connection, by []field) (documents []secrets.Document, damaged, err error) {
	found, damaged, err := c.locate(s.options.Style, append([]field{{attrKind, kindDocument}}, by...)...)
	if err != nil {
		return nil, nil, err
	}
	for objects := range slices.Chunk(newest(found), perMessage) {
		var requests []kmip.OperationPayload
		for _, o := range objects {
			requests = append(requests, &payloads.GetRequestPayload{UniqueIdentifier: o.id})
		}
		replies, err := c.exchange(requests...)
		if err != nil {
			return nil, nil, err
		}
		for i, reply := range replies {
			d, err := parse(objects[i], reply)
			switch {
			case err == nil:
				documents = append(documents, d)
			case errors.Is(err, secrets.ErrNotFound):
				return nil, nil, errChanged
			case errors.Is(err, secrets.ErrDamaged), errors.Is(err, secrets.ErrDenied):
				damaged = errors.Join(damaged, fmt.Errorf("secret with uuid %s: %w", objects[i].uuid, err))
			default:
				return nil, nil, err
			}
		}
	}
	return documents, damaged, nil
}

// parse returns the document in an object.
func parse(o object, r reply) (secrets.Document, error) {
	if r.err != nil {
		return secrets.Document{}, r.err
	}
	got, ok := r.payload.(*payloads.GetResponsePayload)
	if !ok {
		return secrets.Document{}, nonsense("unexpected payload in the response to Get")
	}
	content, ok := got.Object.(*kmip.OpaqueObject)
	if !ok {
		return secrets.Document{}, fmt.Errorf("%w: object %s is not an opaque object", secrets.ErrDamaged, o.id)
	}
	return storecall.ParseDocument(content.OpaqueDataValue, o.uuid, "object "+o.id)
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	err = s.change(ctx, ref, func(_ *connection, found secrets.Document) error {
		d = found
		return nil
	})
	return d, err
}

// List implements [secrets.Lister].
func (s *Store) List(ctx context.Context) ([]secrets.Document, error) {
	var documents []secrets.Document
	err := s.with(ctx, secrets.Reference{}, func(c *connection) error {
		var damaged, err error
		documents, damaged, err = s.documents(c)
		return errors.Join(err, damaged)
	})
	return documents, err
}

// Define implements [secrets.Keeper]. The server has no locks: two callers that define the
// same usage at the same moment may both succeed.
func (s *Store) Define(ctx context.Context, d secrets.Document) error {
	return s.with(ctx, d.Reference(), func(c *connection) error {
		if err := storecall.Definable(d); err != nil {
			return err
		}
		if d.Ephemeral {
			return fmt.Errorf("%w: keep it in dir: on a tmpfs", secrets.ErrPersistent)
		}
		documents, _, err := s.documents(c) // defining a damaged secret again repairs it
		if err != nil {
			return err
		}
		if err := secrets.CheckDefine(documents, d); err != nil {
			return err
		}
		var more []field
		if d.Usage != "" {
			more = append(more, usageField(d.UsageType, d.Usage))
		}
		const opaqueDocument = 0x80000000 // the standard defines only extensions (section 9.1.3.2.10)
		return c.register(s.options.Style, kindDocument, d.UUID, &kmip.OpaqueObject{OpaqueDataType: opaqueDocument, OpaqueDataValue: d.XML()}, more...)
	})
}

// Set implements [secrets.Keeper]. An empty value cannot be kept.
func (s *Store) Set(ctx context.Context, ref secrets.Reference, value *secrets.Secret) error {
	return s.change(ctx, ref, func(c *connection, d secrets.Document) error {
		return value.Use(func(b []byte) error {
			if len(b) == 0 {
				return errors.New("a key server keeps no empty values")
			}
			own := bytes.Clone(b) // the library's types may outlive the secret's memory
			defer clear(own)
			c.room = ordinary + len(own)
			return c.register(s.options.Style, kindValue, d.UUID, &kmip.SecretData{
				SecretDataType: kmip.SecretDataTypePassword,
				KeyBlock: kmip.KeyBlock{
					KeyFormatType: kmip.KeyFormatTypeOpaque,
					KeyValue:      &kmip.KeyValue{Plain: &kmip.PlainKeyValue{KeyMaterial: kmip.KeyMaterial{Bytes: &own}}},
				},
			})
		})
	})
}

// Remove implements [secrets.Keeper]. All generations of the value are destroyed.
func (s *Store) Remove(ctx context.Context, ref secrets.Reference) error {
	return s.change(ctx, ref, func(c *connection, d secrets.Document) error {
		for _, kind := range []string{kindValue, kindDocument} {
			found, _, err := c.locate(s.options.Style, field{attrKind, kind}, field{attrUUID, d.UUID.String()})
			if err != nil {
				return err
			}
			if err := c.destroy(s.options.Style, found, kmip.RevocationReasonCodeCessationOfOperation); err != nil {
				return err
			}
		}
		return nil
	})
}

// change calls f with the secret that ref names.
func (s *Store) change(ctx context.Context, ref secrets.Reference, f func(*connection, secrets.Document) error) error {
	return s.with(ctx, ref, func(c *connection) error {
		if err := ref.Validate(); err != nil {
			return err
		}
		d, err := s.find(c, ref)
		if err != nil {
			return err
		}
		return f(c, d)
	})
}

// get returns the bytes of an object that is secret data or a symmetric key.
func (c *connection) get(id string) (*secrets.Secret, error) {
	got, err := ask[*payloads.GetResponsePayload](c, &payloads.GetRequestPayload{UniqueIdentifier: id})
	if err != nil {
		return nil, err
	}
	var b []byte
	switch o := got.Object.(type) {
	case *kmip.SecretData:
		b, err = o.Data()
	case *kmip.SymmetricKey:
		b, err = o.KeyMaterial()
	default:
		return nil, fmt.Errorf("%w: object %s is neither secret data nor a symmetric key", secrets.ErrDamaged, id)
	}
	switch {
	case err != nil:
		return nil, fmt.Errorf("%w: object %s: %w", secrets.ErrDamaged, id, err)
	case len(b) == 0:
		return nil, secrets.ErrNoValue
	}
	return secrets.New(b), nil
}
