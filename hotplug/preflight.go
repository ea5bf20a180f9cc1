package hotplug

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/qmp"
)

// preflight checks a plan against the VM before the first command that changes
// anything: what QEMU can do, which names are free, and what the files are.
//
// It returns the size in bytes that the volume must have, 0 for any.
func (a *attach) preflight(ctx context.Context, plan *blockgraph.Plan, unlock blockgraph.Unlock, state *State) (int64, error) {
	if err := a.vm.checkNames(plan, state); err != nil {
		return 0, err
	}
	if err := a.vm.checkSchema(ctx, plan); err != nil {
		return 0, err
	}
	if err := a.vm.checkDevices(ctx, plan); err != nil {
		return 0, err
	}
	return a.checkFiles(ctx, unlock, state)
}

func (vm *VM) checkNames(plan *blockgraph.Plan, state *State) error {
	refuse := func(what, name string) error {
		return &PreflightError{Target: plan.Graph.Target, Reason: fmt.Sprintf("the name of %s %s is taken in this VM: give the disk another target or alias", what, name)}
	}
	for _, n := range plan.Graph.Nodes {
		if state.Node(n.Name) != nil {
			return refuse("node", n.Name)
		}
	}
	for _, o := range plan.Graph.Objects {
		if _, taken := state.Objects[o.ID]; taken {
			return refuse("object", o.ID)
		}
	}
	for _, d := range plan.Graph.Devices {
		if _, taken := state.Devices[d.ID]; taken {
			return refuse("device", d.ID)
		}
	}
	return nil
}

// checkSchema validates every command against what this very QEMU says that it
// takes (query-qmp-schema).
func (vm *VM) checkSchema(ctx context.Context, plan *blockgraph.Plan) error {
	target := plan.Graph.Target
	schema, err := vm.client.Schema(ctx)
	if err != nil {
		return fmt.Errorf("ask QEMU for its schema: %w", err)
	}
	detached := slices.ContainsFunc(plan.Graph.Nodes, func(n blockgraph.Node) bool {
		return n.Options.Text("driver") == "luks" && n.Options.Get("header") != nil
	})
	if detached && !schema.Supports("blockdev-add", headerMember) {
		return &VersionError{Target: target, Feature: "a detached LUKS header", Since: "9.0", Version: vm.client.VersionString()}
	}
	for _, s := range plan.Steps {
		cmd, err := placeholders(plan).command(s.Do)
		if err != nil {
			return err
		}
		err = schema.Validate(cmd.Execute, cmd.Arguments)
		var argument *qmp.ArgumentError
		if errors.As(err, &argument) {
			return &VersionError{Target: target, Feature: "the argument " + argument.Path + " of " + argument.Command, Version: vm.client.VersionString(), Err: err}
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// checkDevices checks the devices' properties, which the schema does not hold
// (device_add takes any argument there).
func (vm *VM) checkDevices(ctx context.Context, plan *blockgraph.Plan) error {
	for _, d := range plan.Graph.Devices {
		driver := d.Options.Text("driver")
		known, err := vm.deviceProperties(ctx, driver)
		var refusal *qmp.Error
		if errors.As(err, &refusal) {
			return &VersionError{Target: plan.Graph.Target, Feature: "the device " + driver, Version: vm.client.VersionString(), Err: err}
		}
		if err != nil {
			return err
		}
		for _, m := range d.Options {
			switch m.Name {
			case "driver", "id", "bus": // arguments of device_add itself
				continue
			}
			if !known[m.Name] {
				return &VersionError{Target: plan.Graph.Target, Feature: "the property " + m.Name + " of " + driver, Version: vm.client.VersionString()}
			}
		}
	}
	return nil
}

func (vm *VM) deviceProperties(ctx context.Context, driver string) (map[string]bool, error) {
	if known, ok := vm.properties[driver]; ok {
		return known, nil
	}
	value, err := vm.query(ctx, qmp.Command{Execute: "device-list-properties", Arguments: qmp.Object{{Name: "typename", Value: driver}}})
	if err != nil {
		return nil, err
	}
	var list []struct{ Name string }
	if err := json.Unmarshal(value, &list); err != nil {
		return nil, fmt.Errorf("the answer to device-list-properties is not what QEMU documents: %w", err)
	}
	known := make(map[string]bool, len(list))
	for _, p := range list {
		known[p.Name] = true
	}
	vm.properties[driver] = known
	return known, nil
}
