package blockgraph

import "slices"

// Plan lists the steps that create a graph in QEMU, one QMP command each. It is a plain
// value; printing it needs no VM and no secret.
type Plan struct {
	Graph *Graph
	Steps []Step
}

// Step is one command and its inverse.
type Step struct {
	Kind    StepKind
	Subject string // what it makes or releases: an object id, node-name, device id, or the name of a descriptor set
	// Header is the ephemeral header that the step passes as a descriptor, File the
	// device of the host. Both are nil for all other steps.
	Header *EphemeralHeader
	File   *PassedFile
	// Guard is the guard whose image the step passes as a descriptor, or whose node it makes; nil for all other steps.
	Guard *Guard
	// Overlay is the overlay that the step's node is opened from, nil for all other steps:
	// the executor creates the file just before the step, and unlinks it just after.
	Overlay *Overlay
	Do      Command
	// Undo is the inverse of Do. Its Execute is empty for a limit, and for a release,
	// which itself undoes an earlier step.
	Undo Command
}

// StepKind is a kind of step.
type StepKind string

// The kinds of steps.
const (
	StepObject  StepKind = "object"  // object-add; undone by object-del
	StepNode    StepKind = "node"    // blockdev-add; undone by blockdev-del
	StepChardev StepKind = "chardev" // chardev-add; undone by chardev-remove
	StepDevice  StepKind = "device"  // device_add; undone by device_del, which the guest must answer
	StepLimit   StepKind = "limit"   // block_set_io_throttle; ends with its device, and is not undone
	StepFDSet   StepKind = "fdset"   // add-fd; undone by remove-fd
	StepRelease StepKind = "release" // object-del or remove-fd of what is no longer needed; not undone
)

// Command is a QMP command. The executor replaces each [SecretData] among its arguments
// with the secret value.
type Command struct {
	Execute   string
	Arguments Object
}

// Plan orders the graph into steps. A secret, or the descriptor set that a node is opened
// from, exists only while the node or object that reads it is created. The steps in a
// storage daemon are those of the plan of [Graph.Daemon].
func (g *Graph) Plan() *Plan {
	p := &Plan{Graph: g}
	for i, n := range g.Nodes {
		for _, id := range slices.Concat(n.Objects, n.Secrets) {
			p.addObject(g.ObjectByID(id))
		}
		set := p.addFDSet(n.Name)
		p.Steps = append(p.Steps, Step{Kind: StepNode, Subject: n.Name, Overlay: g.OverlayOf(n.Name), Guard: g.GuardOf(n.Name),
			Do: Command{"blockdev-add", n.Options}, Undo: command("blockdev-del", "node-name", n.Name)})
		if set != nil {
			p.Steps = append(p.Steps, Step{Kind: StepRelease, Subject: set.Subject, Do: set.Undo})
		}
		for _, id := range n.Secrets {
			if !slices.ContainsFunc(g.Nodes[i+1:], func(n Node) bool { return slices.Contains(n.Secrets, id) }) {
				p.release(id)
			}
		}
	}
	for _, c := range g.Chardevs {
		p.Steps = append(p.Steps, Step{Kind: StepChardev, Subject: c.ID,
			Do: Command{"chardev-add", c.command()}, Undo: command("chardev-remove", "id", c.ID)})
	}
	for _, d := range g.Devices {
		p.Steps = append(p.Steps, Step{Kind: StepDevice, Subject: d.ID,
			Do: Command{"device_add", d.Options}, Undo: command("device_del", "id", d.ID)})
	}
	if g.Throttling != nil {
		p.Steps = append(p.Steps, Step{Kind: StepLimit, Subject: g.Device().ID, Do: Command{"block_set_io_throttle", g.Throttling}})
	}
	return p
}

// addFDSet adds the step that passes the descriptor which a node is opened from,
// and returns it; nil for a node that needs none.
func (p *Plan) addFDSet(node string) *Step {
	s := Step{Kind: StepFDSet}
	var id int64
	switch h, f, guard := p.Graph.HeaderOf(node), p.Graph.FileOf(node), p.Graph.GuardOf(node); {
	case guard != nil && guard.FDSet != 0:
		s.Guard, s.Subject, id = guard, guard.Opaque, guard.FDSet
	case h != nil && h.FDSet != 0:
		s.Header, s.Subject, id = h, h.Opaque, h.FDSet
	case f != nil:
		s.File, s.Subject, id = f, f.Opaque, f.FDSet
	default:
		return nil
	}
	s.Do = Command{"add-fd", Object{{"fdset-id", id}, {"opaque", s.Subject}}}
	s.Undo = Command{"remove-fd", Object{{"fdset-id", id}}}
	p.Steps = append(p.Steps, s)
	return &s
}

// addObject adds an object, unless it exists, and the secrets that it reads itself.
func (p *Plan) addObject(o GraphObject) {
	if slices.ContainsFunc(p.Steps, func(s Step) bool { return s.Kind == StepObject && s.Subject == o.ID }) {
		return
	}
	for _, id := range o.Secrets {
		p.addObject(p.Graph.ObjectByID(id))
	}
	p.Steps = append(p.Steps, Step{Kind: StepObject, Subject: o.ID,
		Do: Command{"object-add", o.Options}, Undo: command("object-del", "id", o.ID)})
	for _, id := range o.Secrets {
		p.release(id)
	}
}

func (p *Plan) release(id string) {
	p.Steps = append(p.Steps, Step{Kind: StepRelease, Subject: id, Do: command("object-del", "id", id)})
}

func command(name, argument, value string) Command {
	return Command{name, Object{{argument, value}}}
}

// CheckHotplug checks that the disk can be attached to a running VM, and found and removed
// again. Limits are set last, so they are checked here by QEMU's rules. The error is an
// [*UnsupportedError] or [*InvalidError].
func (d *Disk) CheckHotplug() error {
	switch {
	case !d.Bus.Hotpluggable():
		return unsupported("disk/target@bus", "disk bus '"+string(d.Bus)+"' cannot be hotplugged: use virtio, scsi or usb")
	case d.Empty && d.Alias != "":
		return unsupported("disk/alias", "an empty drive is only identified by luksplug's device id: remove the alias")
	case d.IOTune != nil:
		return d.IOTune.feasible("disk/iotune")
	}
	return nil
}
