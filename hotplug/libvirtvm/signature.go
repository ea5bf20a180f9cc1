package libvirtvm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/internal/record"
	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// A client who may write a domain's metadata can write a record of luksplug's into it. So
// records are signed with a key of the domain's host, and one that does not verify is
// not acted on: see [Domain.Adopt].
var (
	// ErrUnverified reports a record that does not verify. The errors below wrap it.
	ErrUnverified = record.ErrUnverified
	// ErrUnsigned: an earlier luksplug, another host or another user has written it.
	ErrUnsigned = record.ErrUnsigned
	// ErrSignature: it was changed after it was signed, or signed for another domain or
	// by another key.
	ErrSignature = record.ErrSignature
	// ErrNoKey: this host has no key.
	ErrNoKey = record.ErrNoKey
	// ErrKeyFile: the file of the key is not to be trusted, or damaged.
	ErrKeyFile = record.ErrKeyFile
)

// ErrNotHere reports that records of the domain can be signed only by another user, or on
// another host.
var ErrNotHere = errors.New("only the user of the domain's libvirt can sign its record, which is usually root, on its own host")

// keyPath returns the path of the key of the domain's host. The error wraps [ErrNotHere].
func (d *Domain) keyPath() (string, error) {
	switch {
	case !d.uri.Local(), d.uri.Session != (os.Geteuid() != 0) && d.opts.RecordKey == "":
		return "", ErrNotHere
	case d.opts.RecordKey != "":
		return d.opts.RecordKey, nil
	}
	return record.DefaultKey()
}

// signer implements descriptions. The key is made if it is absent.
func (d *Domain) signer() (record.Signer, error) {
	return d.signerOf(func(path string) (*record.Key, error) {
		key, made, err := record.MakeKey(path)
		if made {
			d.log.Infof("made %s, the key that signs luksplug's records of disks on this host", path)
		}
		return key, err
	})
}

// verifier is signer that makes no key.
func (d *Domain) verifier() (record.Signer, error) { return d.signerOf(record.LoadKey) }

// signerOf returns the signer with the key that load returns for its path; one without a
// key if this run cannot use that of the domain's host.
func (d *Domain) signerOf(load func(path string) (*record.Key, error)) (record.Signer, error) {
	s := record.Signer{UUID: d.UUID()}
	path, err := d.keyPath()
	if err == nil {
		s.Key, err = load(path)
	}
	if errors.Is(err, ErrNotHere) || errors.Is(err, unix.EROFS) || errors.Is(err, fs.ErrPermission) {
		d.log.Debug(err)
		err = nil
	}
	return s, err
}

// warnUnverified logs which records of the domain do not verify: the domain would not start
// with them.
func (d *Domain) warnUnverified(records map[Scope]record.Record) {
	s, err := d.verifier()
	if err == nil && s.Key == nil {
		return // unknown here
	}
	for scope, r := range records {
		if len(r.Disks) == 0 {
			continue
		}
		failed := err
		if failed == nil {
			failed = s.Verify(r)
		}
		if failed != nil {
			d.log.WithField(hotplug.CauseField, failed).Warnf("domain %s, %s: %v: it does not start, restore or migrate with these disks", d.name, scope, failed)
		}
	}
}

// unsigned implements descriptions: it warns once.
func (d *Domain) unsigned(r record.Record) {
	if d.warned || r.Empty() {
		return
	}
	d.warned = true
	d.log.WithField(hotplug.CauseField, ErrUnsigned).Warnf("the record of the disks of domain %s is not signed, since this run cannot use the key of the domain's host: it does not start, restore or migrate with them until root has adopted the record there", d.name)
}

// sign signs a record that is about to be written. Without a key, unsigned is called.
func sign(at descriptions, r record.Record) (record.Record, error) {
	s, err := at.signer()
	if err != nil {
		return r, err
	}
	if s.Key == nil {
		at.unsigned(r)
	}
	return s.Sign(r)
}

// verify returns nil for a record that may be changed: it verifies, or its change will not
// be signed here anyway. Otherwise the change would lend luksplug's signature to what
// another user has written.
func verify(at descriptions, r record.Record) error {
	s, err := at.signer()
	if err != nil {
		return err
	}
	if s.Key == nil {
		return nil
	}
	return s.Verify(r)
}

// NoteUser writes down on this host which user libvirt runs QEMU as, for the hook, which
// cannot ask libvirt. It does nothing for a libvirt of another host or another user.
func NoteUser(ctx context.Context, uri string) error {
	u, err := libvirtconn.Parse(uri)
	if err != nil {
		return err
	}
	if !u.Local() || u.Session || os.Geteuid() != 0 {
		return nil
	}
	l, disconnect, err := u.Connect(ctx)
	if err != nil {
		return err
	}
	defer disconnect()
	label, err := libvirtconn.Within(ctx, func() (string, error) { return baseLabel(l) })
	if err != nil {
		return fmt.Errorf("libvirt's user for QEMU: %w", err)
	}
	return noteLabel(label)
}
