package libvirtvm

import (
	"context"
	"errors"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/hotplug/hook"
	"github.com/luksplug/luksplug/hotplug/internal/domainxml"
)

// Change is a change of a domain's definition that was not made yet.
type Change struct {
	// Before and After are the definition as it is and as it is going to be. They are
	// equal if there is nothing to change.
	Before, After string

	at     descriptions
	change func(*domainxml.Document) (*domainxml.Document, error)
}

// Enable returns the change that gives the domain what the hook needs: a monitor of
// luksplug's own, and root ports that libvirt gives to no other device. It takes
// effect at the domain's next start. A change that is not possible is a
// [*hotplug.PreflightError] that wraps [hook.ErrPorts].
func (d *Domain) Enable(ctx context.Context, e hook.Enabling) (*Change, error) {
	return newChange(ctx, d, func(doc *domainxml.Document) (*domainxml.Document, error) {
		return hook.Definition{}.Enable(ctx, doc, e)
	})
}

// Disable returns the change that removes what [Domain.Enable] has added. A domain
// with disks of luksplug's is refused by a [*hotplug.PreflightError] that wraps
// [hook.ErrDisks].
func (d *Domain) Disable(ctx context.Context) (*Change, error) {
	return newChange(ctx, d, hook.Definition{}.Disable)
}

func newChange(ctx context.Context, at descriptions, change func(*domainxml.Document) (*domainxml.Document, error)) (*Change, error) {
	before, err := at.definition(ctx)
	if err != nil {
		return nil, err
	}
	after, err := change(before)
	if errors.Is(err, hook.ErrDisks) || errors.Is(err, hook.ErrPorts) {
		return nil, &hotplug.PreflightError{Reason: "the definition of domain " + before.Name() + " is not changed", Err: err}
	}
	if err != nil {
		return nil, err
	}
	return &Change{Before: string(before.Text()), After: string(after.Text()), at: at, change: change}, nil
}

// Apply makes the change, in the definition as it is now. libvirt validates it.
func (c *Change) Apply(ctx context.Context) error { return redefine(ctx, c.at, c.change) }
