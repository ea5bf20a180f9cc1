package libvirtstore

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"time"

	"github.com/digitalocean/go-libvirt"
	"github.com/google/uuid"

	"github.com/luksplug/luksplug/internal/libvirtconn"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storecall"
)

// Store is a [secrets.Lister] of libvirt's secrets. Make one with [New].
type Store struct {
	uri     *libvirtconn.URI
	timeout time.Duration
}

// New returns the store of the libvirt that uri names, such as qemu:///system
// (https://libvirt.org/uri.html). timeout bounds each call; 0 means 10 seconds.
// Each call opens a new connection. The error wraps [ErrInvalidURI].
func New(uri *url.URL, timeout time.Duration) (*Store, error) {
	u, err := parse(uri)
	if err != nil {
		return nil, err
	}
	const enough = 10 * time.Second
	if timeout == 0 {
		timeout = enough
	}
	return &Store{u, timeout}, nil
}

// String returns "libvirt+" and the URI.
func (s *Store) String() string { return "libvirt+" + s.uri.String() }

// Lookup implements [secrets.Store].
func (s *Store) Lookup(ctx context.Context, ref secrets.Reference) (value *secrets.Secret, err error) {
	if err = ref.Validate(); err == nil {
		err = s.with(ctx, func(ctx context.Context, l *libvirt.Libvirt, conn *valueConn) error {
			value, err = lookup(ctx, l, conn, ref)
			return err
		})
	}
	return value, storecall.Fail(s, ref, err)
}

// Describe implements [secrets.Describer].
func (s *Store) Describe(ctx context.Context, ref secrets.Reference) (d secrets.Document, err error) {
	if err = ref.Validate(); err == nil {
		err = s.with(ctx, func(ctx context.Context, l *libvirt.Libvirt, _ *valueConn) error {
			d, err = describeReference(ctx, l, ref)
			return err
		})
	}
	return d, storecall.Fail(s, ref, err)
}

// List implements [secrets.Lister].
func (s *Store) List(ctx context.Context) (documents []secrets.Document, err error) {
	err = s.with(ctx, func(ctx context.Context, l *libvirt.Libvirt, _ *valueConn) error {
		documents, err = list(ctx, l)
		return err
	})
	return documents, storecall.Fail(s, secrets.Reference{}, err)
}

// with runs f with a connection.
func (s *Store) with(ctx context.Context, f func(ctx context.Context, l *libvirt.Libvirt, conn *valueConn) error) error {
	return storecall.Bounded(ctx, s.timeout, "libvirt", func(ctx context.Context) error {
		conn := &valueConn{}
		l, close, err := s.uri.ConnectThrough(ctx, func(c net.Conn) net.Conn {
			conn.Conn = c
			return conn
		})
		switch {
		case errors.Is(err, fs.ErrPermission):
			return fmt.Errorf("%w: %w", secrets.ErrDenied, err)
		case err != nil:
			return answer(err)
		}
		defer func() {
			close()
			conn.wipe()
		}()
		return f(ctx, l, conn)
	})
}

// within calls f, a method of go-libvirt without context, and returns when ctx ends.
func within[T any](ctx context.Context, f func() (T, error)) (T, error) {
	return storecall.Await(ctx, f, nil)
}

func lookup(ctx context.Context, l *libvirt.Libvirt, conn *valueConn, ref secrets.Reference) (*secrets.Secret, error) {
	handle, err := find(ctx, l, ref)
	if err != nil {
		return nil, err
	}
	d, err := describe(ctx, l, handle)
	if err != nil {
		return nil, err
	}
	if _, err := d.Answers(ref); err != nil {
		return nil, err
	}
	if d.Private {
		return nil, private()
	}
	_, err = within(ctx, func() ([]byte, error) { return l.SecretGetValue(handle, 0) }) // zeros, see valueConn
	var from libvirt.Error
	switch {
	case errors.As(err, &from) && from.Code == uint32(libvirt.ErrNoSecret):
		return nil, fmt.Errorf("%w: virsh secret-set-value sets it", secrets.ErrNoValue)
	case errors.As(err, &from) && from.Code == uint32(libvirt.ErrInvalidSecret):
		return nil, private() // made private since its document was read
	case err != nil:
		return nil, answer(err)
	}
	value := conn.take()
	if value == nil {
		return nil, fmt.Errorf("%w: libvirt's answer has no value", secrets.ErrUnreachable)
	}
	return value, nil
}

func describeReference(ctx context.Context, l *libvirt.Libvirt, ref secrets.Reference) (secrets.Document, error) {
	handle, err := find(ctx, l, ref)
	if err != nil {
		return secrets.Document{}, err
	}
	d, err := describe(ctx, l, handle)
	if err == nil {
		_, err = d.Answers(ref)
	}
	return d, err
}

// private returns the error for a secret whose value libvirt returns to no client.
func private() error {
	return fmt.Errorf("%w: libvirt uses it for its own attach-device and returns it to no client, not even to root: "+
		"set the same passphrase in another key store (luksplug secret set-value), or define the secret again with private='no'", secrets.ErrPrivate)
}

func find(ctx context.Context, l *libvirt.Libvirt, ref secrets.Reference) (libvirt.Secret, error) {
	handle, err := within(ctx, func() (libvirt.Secret, error) {
		if ref.UUID != uuid.Nil {
			return l.SecretLookupByUUID(libvirt.UUID(ref.UUID))
		}
		return l.SecretLookupByUsage(int32(usageType(ref.Type)), ref.Usage)
	})
	if err != nil {
		return handle, answer(err)
	}
	return handle, nil
}

// usageType returns libvirt's number for the usage type of references of type t.
func usageType(t secrets.Type) libvirt.SecretUsageType {
	switch t.UsageType() {
	case secrets.UsageVolume:
		return libvirt.SecretUsageTypeVolume
	case secrets.UsageCeph:
		return libvirt.SecretUsageTypeCeph
	case secrets.UsageISCSI:
		return libvirt.SecretUsageTypeIscsi
	case secrets.UsageTLS:
		return libvirt.SecretUsageTypeTLS
	case secrets.UsageVTPM:
		return libvirt.SecretUsageTypeVtpm
	}
	return libvirt.SecretUsageTypeNone
}

func list(ctx context.Context, l *libvirt.Libvirt) ([]secrets.Document, error) {
	handles, err := within(ctx, func() ([]libvirt.Secret, error) {
		handles, _, err := l.ConnectListAllSecrets(1, 0) // 1 requests the handles, not only their number
		return handles, err
	})
	if err != nil {
		return nil, answer(err)
	}
	var documents []secrets.Document
	var failed []error
	for _, handle := range handles {
		d, err := describe(ctx, l, handle)
		switch {
		case err == nil:
			documents = append(documents, d)
		case errors.Is(err, secrets.ErrDamaged), errors.Is(err, secrets.ErrDenied):
			failed = append(failed, fmt.Errorf("secret with uuid %s: %w", uuid.UUID(handle.UUID), err))
		case !errors.Is(err, secrets.ErrNotFound): // undefined since it was listed
			return nil, err
		}
	}
	return documents, errors.Join(failed...)
}

// describe returns the document of a secret.
func describe(ctx context.Context, l *libvirt.Libvirt, handle libvirt.Secret) (secrets.Document, error) {
	text, err := within(ctx, func() (string, error) { return l.SecretGetXMLDesc(handle, 0) })
	if err != nil {
		return secrets.Document{}, answer(err)
	}
	return storecall.ParseDocument([]byte(text), uuid.UUID(handle.UUID), "libvirt's description of it")
}
