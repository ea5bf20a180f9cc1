package main

import (
	"context"
	"errors"
	"fmt"
	"os/user"
	"strconv"

	"github.com/luksplug/luksplug/blockgraph/storagevol"
	"github.com/luksplug/luksplug/hotplug/volume"
	"github.com/luksplug/luksplug/secrets"
)

// wantedVolume is a volume that is to be made.
type wantedVolume struct {
	volume.Request
	name string
	// secret is the argument of --secret, or what the document's <secret> would be as such; "" for a new one.
	secret string
	// given is what describes the volume: a document, or what the flags would be in one.
	given storagevol.Volume
}

// document returns the <volume> of the volume that was made.
func (w wantedVolume) document(v *volume.Volume) storagevol.Volume {
	return v.Document(w.name, w.given)
}

// wanted returns the volume that the flags and the argument describe.
func (o *volumeOptions) wanted(ctx context.Context, a *app, argument string) (wantedVolume, error) {
	w := wantedVolume{name: argument, secret: o.secret}
	var err error
	if isDocument(argument) {
		w, err = o.fromDocument(ctx, a, argument)
	} else {
		w.Request, err = o.request(argument)
		w.given = described(w.Request)
	}
	if err != nil {
		return w, err
	}
	w.Request, err = o.common(w.Request)
	return w, err
}

// described returns the description of a volume that flags describe.
func described(r volume.Request) storagevol.Volume {
	mode := uint32(r.Mode)
	v := storagevol.Volume{
		Compat: r.Qcow2.Compat, ClusterSize: uint64(r.Qcow2.ClusterSize), NoCOW: r.NoCOW, //nolint:gosec // parseSize returns no negative size
		Features:    storagevol.Features{LazyRefcounts: r.Qcow2.LazyRefcounts, ExtendedL2: r.Qcow2.ExtendedL2},
		Permissions: storagevol.Permissions{Owner: r.Owner, Group: r.Group, Mode: &mode, Label: r.Label},
	}
	if r.Backing != nil {
		v.Backing = &storagevol.Backing{Path: r.Backing.Path, Format: r.Backing.Format}
	}
	return v
}

// fromDocument reads the volume that a <volume> document describes.
func (o *volumeOptions) fromDocument(ctx context.Context, a *app, path string) (wantedVolume, error) {
	if path == "-" && a.flags.passphrase == "-" {
		return wantedVolume{}, &usageError{errors.New("standard input cannot be both the volume XML and the passphrase: give one as a file")}
	}
	data, err := a.readInput(ctx, path)
	if err != nil {
		return wantedVolume{}, &usageError{fmt.Errorf("read the volume XML: %w", err)}
	}
	v, err := readVolume(ctx, a, data, o.pool)
	if err != nil {
		return wantedVolume{}, err
	}
	if o.path != "" {
		v.Path = absolute(o.path)
	}
	if v.Path == "" {
		return wantedVolume{}, &usageError{fmt.Errorf("the volume %s has no <path> in its <target>: add it, or give --path, or --pool-xml with the pool whose directory is to have the image", v.Name)}
	}
	w := wantedVolume{name: v.Name, given: v}
	if w.Request, err = volume.FromDocument(v); err != nil {
		return w, err
	}
	switch ref := v.Encryption.Secret; {
	case ref == (secrets.Reference{}):
	case a.flags.passphrase != "":
		return w, &usageError{fmt.Errorf("--passphrase-file and the <secret> in %s contradict each other: the secret has its passphrase", path)}
	case ref.Usage != "":
		w.secret = string(ref.Type.UsageType()) + ":" + ref.Usage
	default:
		w.secret = ref.UUID.String()
	}
	return w, nil
}

// idOf returns the number of the user or group that a flag gives by name or number, nil for none.
func idOf(flag, text string, lookUp func(name string) (id string, err error)) (*int, error) {
	if text == "" {
		return nil, nil
	}
	if found, err := lookUp(text); err == nil {
		text = found
	}
	id, err := strconv.ParseUint(text, 10, 31)
	if err != nil {
		return nil, &usageError{fmt.Errorf("--%s %q: this host has no such name", flag, text)}
	}
	number := int(id)
	return &number, nil
}

func userNumber(name string) (string, error) {
	account, err := user.Lookup(name)
	if err != nil {
		return "", err
	}
	return account.Uid, nil
}

func groupNumber(name string) (string, error) {
	group, err := user.LookupGroup(name)
	if err != nil {
		return "", err
	}
	return group.Gid, nil
}
