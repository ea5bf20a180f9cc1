package libvirtstore

import (
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// libvirtParameters returns the parameters of libvirt's own URIs that package
// libvirtconn supports.
func libvirtParameters() []string {
	return []string{"socket", "mode", "name", "keyfile", "command", "proxy", "netcat", "no_tty", "no_verify", "no_sanity", "pkipath"}
}

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, _ storeuri.Options) (secrets.Store, error) {
	uri := &url.URL{Scheme: "qemu", Path: "/system"}
	if rest, other := strings.CutPrefix(l.Scheme, "libvirt+"); other {
		var err error
		// The error of url.Parse would quote the whole URI.
		if uri, err = url.Parse(rest + ":" + l.Rest); err != nil {
			return nil, fmt.Errorf("%w: libvirt+ must be followed by libvirt's URI, like libvirt+qemu:///system", storeuri.ErrInvalid)
		}
	} else if l.Rest != "" {
		return nil, fmt.Errorf("%w: libvirt: may be followed only by parameters: write libvirt+URI for another libvirt", storeuri.ErrInvalid)
	}
	query := url.Values{}
	for _, name := range libvirtParameters() {
		if value := l.Take(name); value != "" {
			query.Set(name, value)
		}
	}
	uri.RawQuery = strings.ReplaceAll(query.Encode(), "%2F", "/") // a query may contain / unencoded
	const enough = 10 * time.Second
	timeout, err := l.TakeDuration("timeout", enough)
	if err != nil {
		return nil, err
	}
	store, err := New(uri, timeout)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", storeuri.ErrInvalid, err)
	}
	return store, nil
}
