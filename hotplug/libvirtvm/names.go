package libvirtvm

import (
	"context"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/internal/libvirtconn"
)

// Names returns the names of all domains of the libvirt at uri, running or not.
func Names(ctx context.Context, uri string) ([]string, error) {
	u, err := libvirtconn.Parse(uri)
	if err != nil {
		return nil, err
	}
	l, disconnect, err := u.Connect(ctx)
	if err != nil {
		return nil, err
	}
	defer disconnect()
	domains, err := libvirtconn.Within(ctx, func() ([]libvirt.Domain, error) {
		domains, _, err := l.ConnectListAllDomains(1, 0)
		return domains, err
	})
	var names []string
	for _, d := range domains {
		names = append(names, d.Name)
	}
	return names, err
}
