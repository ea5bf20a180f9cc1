package check

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/hotplug/internal/host"
	"github.com/luksplug/luksplug/hotplug/internal/monitor"
	"github.com/luksplug/luksplug/hotplug/internal/outcome"
	"github.com/luksplug/luksplug/hotplug/internal/unlock"
	"github.com/luksplug/luksplug/qmp"
)

// Schema checks that the VM's QEMU supports every command of the plan, and changes
// nothing. Arguments are validated against QEMU's schema (query-qmp-schema), those of
// devices, which the schema lacks, against the devices' properties
// (device-list-properties). Known bugs of this version are refused. Errors that QEMU
// detects only when it executes a command, such as an occupied port, are not found.
//
// The error is an [*outcome.VersionError], or that of a query.
func (vm *VM) Schema(ctx context.Context, h *host.Host, plan *blockgraph.Plan) error {
	schema, err := vm.Conn.Client().Schema(ctx)
	if err != nil {
		return fmt.Errorf("query QEMU for its schema: %w", err)
	}
	for _, s := range plan.Steps {
		if err := vm.checkCommand(h, schema, plan, s.Do); err != nil {
			return err
		}
	}
	for _, d := range plan.Graph.Devices {
		if err := vm.checkDevice(ctx, plan, d); err != nil {
			return err
		}
	}
	return nil
}

func (vm *VM) version() string { return vm.Conn.Client().VersionString() }

func (vm *VM) lacks(plan *blockgraph.Plan, feature blockgraph.Feature, err error) error {
	return &outcome.VersionError{Target: plan.Graph.Target, Feature: feature, Version: vm.version(), Err: err}
}

// checkCommand validates a command against the schema.
func (vm *VM) checkCommand(h *host.Host, schema *qmp.Schema, plan *blockgraph.Plan, c blockgraph.Command) error {
	cmd, err := unlock.Placeholders(plan).Command(c)
	if err != nil {
		return err
	}
	err = schema.Validate(cmd.Execute, cmd.Arguments)
	var argument *qmp.ArgumentError
	if errors.As(err, &argument) {
		return vm.lacks(plan, c.Feature(argument.Path), err)
	}
	if err != nil {
		return err
	}
	// An option that takes any text, but not always this text.
	for _, o := range passedByPath {
		if c.Execute == "blockdev-add" && c.Arguments.Text("driver") == o.driver && strings.HasPrefix(c.Arguments.Text(o.option), "/dev/fdset/") &&
			!schema.Supports(c.Execute, o.driver+".$fdset") {
			return vm.lacks(plan, c.Feature(o.option), nil)
		}
	}
	if f := vm.knownBug(h, c); f != nil {
		return vm.lacks(plan, *f, nil)
	}
	return nil
}

// passedByPath are the options that take the path of a descriptor set where
// QEMU's schema has the feature fdset. (The driver file has taken it since before
// there were features.)
var passedByPath = []struct{ driver, option string }{{"virtio-blk-vhost-vdpa", "path"}}

// checkDevice checks that QEMU has the device, with each of its properties.
func (vm *VM) checkDevice(ctx context.Context, plan *blockgraph.Plan, d blockgraph.Device) error {
	add := blockgraph.Command{Execute: "device_add", Arguments: d.Options}
	known, err := vm.DeviceProperties(ctx, d.Options.Text("driver"))
	var refusal *qmp.Error
	if errors.As(err, &refusal) {
		return vm.lacks(plan, add.Feature("driver"), err)
	}
	if err != nil {
		return err
	}
	for _, m := range d.Options {
		if !slices.Contains([]string{"driver", "id", "bus"}, m.Name) && !known[m.Name] { // those are device_add's own
			return vm.lacks(plan, add.Feature(m.Name), nil)
		}
	}
	return nil
}

// aliases maps device_add's other names of devices in plans (QEMU's
// softmmu/qdev-monitor.c, qdev_alias_table) to the names of their types.
var aliases = map[string]string{"lsi": "lsi53c895a"}

// DeviceProperties returns the names of the properties of a device's type.
func (vm *VM) DeviceProperties(ctx context.Context, driver string) (map[string]bool, error) {
	if known, ok := vm.Properties[driver]; ok {
		return known, nil
	}
	name := driver
	if alias, ok := aliases[driver]; ok {
		name = alias
	}
	list, err := monitor.Get[[]struct{ Name string }](ctx, vm.Conn, qmp.Command{Execute: "device-list-properties", Arguments: qmp.Object{{Name: "typename", Value: name}}})
	if err != nil {
		return nil, err
	}
	known := make(map[string]bool, len(list))
	for _, p := range list {
		known[p.Name] = true
	}
	vm.Properties[driver] = known
	return known, nil
}
