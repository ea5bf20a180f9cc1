package libvirtvm

import (
	"context"
	"fmt"

	"github.com/digitalocean/go-libvirt"

	"github.com/luksplug/luksplug/hotplug"
)

// agentSeconds is how long libvirt waits for the guest's agent: less than package hotplug waits for libvirt, so that
// libvirt's own message arrives.
const agentSeconds = 4

// agent is the domain's [hotplug.Agent]. The domain's XML has a channel for it, which libvirtd holds
// (virDomainQemuAgentCommand). libvirt marks the domain as tainted (custom-ga-command).
func (d *Domain) agent(ctx context.Context, command []byte) ([]byte, error) {
	reply, err := call(ctx, d, func() (libvirt.OptString, error) {
		return d.libvirt.QEMUDomainAgentCommand(d.handle, string(command), agentSeconds, 0)
	})
	switch {
	case isLibvirt(err, libvirt.ErrArgumentUnsupported), isLibvirt(err, libvirt.ErrAgentUnresponsive):
		// The domain has no channel, or nothing in the guest has opened it.
		return nil, fmt.Errorf("%w: %w", hotplug.ErrNoAgent, err)
	case err != nil:
		return nil, d.failed(err)
	case len(reply) == 0:
		return nil, fmt.Errorf("domain %s at libvirt %s: the guest agent's answer is empty", d.name, d.uri)
	}
	return []byte(reply[0]), nil
}
