package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/libvirtvm"
	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/luks"
)

// inUseError reports that a secret, which a command would remove or replace, is in use.
type inUseError struct {
	secret secrets.Document
	uses   []hotplug.Use
	lost   string // what would be lost
}

func (e *inUseError) Error() string {
	remedy := "detach first"
	if slices.ContainsFunc(e.uses, func(u hotplug.Use) bool { return u.In != "" }) {
		remedy = "end these uses first (of a domain's definition by 'detach --persistent' or 'virsh undefine')"
	}
	return fmt.Sprintf("the secret with %s is in use: %s: %s, or use --force: %s", e.secret, usesText(e.uses), remedy, e.lost)
}

func usesText(uses []hotplug.Use) string {
	var texts []string
	for _, u := range uses {
		texts = append(texts, useText(u))
	}
	return strings.Join(texts, ", ")
}

func useText(u hotplug.Use) string {
	part, images := u.Target, ""
	if !strings.HasPrefix(part, "<") {
		part = "disk " + part
	}
	if u.Payload != "" {
		images = " (" + u.Payload + ")"
	}
	switch {
	case u.VM == "":
		return fmt.Sprintf("the volume %s, to which %s", u.Payload, u.In)
	case u.In == "":
		return fmt.Sprintf("%s of VM %s%s", part, u.VM, images)
	}
	return fmt.Sprintf("%s of %s, in %s%s", part, u.VM, u.In, images)
}

// usesNow returns the known uses of a secret: see the help of secret undefine. With an error
// there may be others.
func usesNow(ctx context.Context, a *app, d secrets.Document) ([]hotplug.Use, error) {
	attached, err := a.uses()
	named, libvirtErr := usesInLibvirt(ctx, a)
	uses := usesOf(d, append(attached, named...))
	bound := d.UsageType == secrets.UsageVolume && filepath.IsAbs(d.Usage)
	if bound && !slices.ContainsFunc(uses, func(u hotplug.Use) bool { return sameVolume(d.Usage, u.Payload) || sameVolume(d.Usage, u.Header) }) {
		if _, err := os.Stat(d.Usage); !errors.Is(err, fs.ErrNotExist) {
			uses = append(uses, hotplug.Use{In: "its document binds it", Payload: d.Usage})
		}
	}
	return uses, errors.Join(err, libvirtErr)
}

// askingLibvirt bounds the time in which libvirt is asked for its documents.
const askingLibvirt = 20 * time.Second

// usesInLibvirt returns what names secrets in the documents of libvirt. If the usual libvirt
// of the host does not answer, its files are read: it may not be installed. A libvirt that
// the user names has to answer.
func usesInLibvirt(ctx context.Context, a *app) ([]hotplug.Use, error) {
	uri, err := a.libvirtURI()
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, askingLibvirt)
	defer cancel()
	uses, err := libvirtvm.SecretUses(ctx, uri.text)
	if !errors.Is(err, libvirtvm.ErrNotConnected) || uri.text != defaultConnect {
		return uses, uri.explain(err)
	}
	uses, known, filesErr := libvirtvm.HostDirectories().SecretUses()
	switch {
	case errors.Is(filesErr, fs.ErrPermission) && os.Geteuid() != 0:
		a.log.Warnf("the domains of libvirt %s were not looked at: %v", uri.text, err)
		return uses, nil
	case filesErr != nil:
		return uses, fmt.Errorf("%w, and of its files: %w", err, filesErr)
	case known:
		a.log.Warnf("libvirt %s does not answer: its definitions and snapshots were read from its files; saved states, and volumes of its pools, were not looked at: %v", uri.text, err)
	default:
		a.log.Infof("this host has no domains of libvirt: %v", err)
	}
	return uses, nil
}

// usesOf returns the disks that were unlocked with a secret or whose path is its usage.
func usesOf(d secrets.Document, uses []hotplug.Use) []hotplug.Use {
	var out []hotplug.Use
	for _, u := range uses {
		same := d.UsageType == secrets.UsageVolume && (sameVolume(d.Usage, u.Payload) || sameVolume(d.Usage, u.Header))
		for _, ref := range u.Secrets {
			answers, err := d.Answers(ref)
			same = same || answers && err == nil
		}
		if same {
			out = append(out, u)
		}
	}
	return out
}

// sameVolume reports whether a usage is the path of an image, perhaps through links. An
// image of a server has no path, and equals only itself.
func sameVolume(usage, image string) bool {
	return usage == image || filepath.IsAbs(usage) && filepath.IsAbs(image) && samePath(usage, image)
}

// checkReplaced refuses a value that would replace the only one that opens a volume. A new
// value that opens every volume of the secret's uses is the passphrase that was changed
// there first. Passwords of servers are theirs to check.
func checkReplaced(ctx context.Context, a *app, f found, value *secrets.Secret) error {
	if f.document.UsageType == secrets.UsageCeph || f.document.UsageType == secrets.UsageISCSI || f.document.UsageType == secrets.UsageTLS {
		return nil
	}
	old, err := f.store.Lookup(ctx, f.document.Reference())
	defer old.Wipe()
	if errors.Is(err, secrets.ErrNoValue) || errors.Is(err, secrets.ErrNotFound) || err == nil && old.Equal(value) {
		return nil
	}
	uses, err := usesNow(ctx, a, f.document)
	if err != nil {
		return fmt.Errorf("check whether the secret is in use: %w: --force sets the value without this check", err)
	}
	var closed []hotplug.Use
	for _, u := range uses {
		if !ofServer(f.document, u) && !opens(ctx, cmp.Or(u.Header, u.Payload), value) {
			closed = append(closed, u)
		}
	}
	if len(closed) > 0 {
		return &inUseError{secret: f.document, uses: closed, lost: "the new value does not open the volume, as far as it can be read, and the present one would be lost"}
	}
	return nil
}

// ofServer reports whether a use takes the secret only as a password of a server.
func ofServer(d secrets.Document, u hotplug.Use) bool {
	for _, ref := range u.Secrets {
		answers, err := d.Answers(ref)
		if answers && err == nil && (ref.Type == secrets.Passphrase || ref.Type == secrets.UsageVTPM.Type()) {
			return false
		}
	}
	return len(u.Secrets) > 0
}

// opens reports whether the value is a passphrase of the LUKS header at the beginning of a
// file.
func opens(ctx context.Context, path string, value *secrets.Secret) bool {
	if !filepath.IsAbs(path) {
		return false
	}
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0) // it may be a pipe
	if err != nil {
		return false
	}
	defer func() { _ = file.Close() }() // only read
	header, err := luks.ReadIncomplete(file)
	if err != nil {
		return false
	}
	return value.Use(func(b []byte) error {
		key, err := header.Unlock(ctx, b)
		key.Wipe()
		return err
	}) == nil
}
