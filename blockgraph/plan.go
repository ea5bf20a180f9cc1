package blockgraph

import "slices"

// Plan is a graph in the order in which QEMU is told: one QMP command a step.
// It is a plain value; printing it needs no VM and no secret.
type Plan struct {
	Graph *Graph
	Steps []Step
}

// Step is one command and its inverse.
type Step struct {
	// Kind says what the step makes, or that it releases something.
	Kind StepKind
	// Subject is the name of what it makes or releases: an object id, a
	// node-name, a device id, or the name that a descriptor set carries.
	Subject string
	// Header is the ephemeral header that the step hands over, File the device
	// of the host: its command goes with a descriptor. Both are nil for all
	// other steps.
	Header *EphemeralHeader
	File   *PassedFile
	// Overlay is the overlay that the step's node is opened from: the file is made
	// just before, and its name removed just after. It is nil for all other steps.
	Overlay *Overlay
	// Do is the command.
	Do Command
	// Undo is the inverse of Do. Its Execute is empty for a release, which itself
	// undoes an earlier step for good, and for a limit.
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

// Command is a QMP command. A [SecretData] among its arguments stands for a
// value that the executor puts in.
type Command struct {
	Execute   string
	Arguments Object
}

// Plan orders the graph into steps. A secret exists from just before what reads
// it is made until just after, and so does the descriptor set that a node is
// opened from. The steps in a storage daemon are not among them: they are the plan
// of [Graph.Daemon].
func (g *Graph) Plan() *Plan {
	p := &Plan{Graph: g}
	for i, n := range g.Nodes {
		for _, id := range n.Objects {
			p.addObject(g.ObjectByID(id))
		}
		for _, id := range n.Secrets {
			p.addObject(g.ObjectByID(id))
		}
		set := p.addFDSet(n.Name)
		p.addNode(n)
		if set != nil {
			p.Steps = append(p.Steps, Step{Kind: StepRelease, Subject: set.Subject, Do: set.Undo})
		}
		for _, id := range n.Secrets {
			if !usedAfter(g.Nodes[i+1:], id) {
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
	switch h, f := p.Graph.HeaderOf(node), p.Graph.FileOf(node); {
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

func usedAfter(nodes []Node, id string) bool {
	return slices.ContainsFunc(nodes, func(n Node) bool { return slices.Contains(n.Secrets, id) })
}

// addObject adds an object, unless it is there, and what it reads itself.
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

func (p *Plan) addNode(n Node) {
	p.Steps = append(p.Steps, Step{Kind: StepNode, Subject: n.Name, Overlay: p.Graph.OverlayOf(n.Name),
		Do: Command{"blockdev-add", n.Options}, Undo: command("blockdev-del", "node-name", n.Name)})
}

func command(name, argument, value string) Command {
	return Command{name, Object{{argument, value}}}
}

// CheckHotplug checks that a running VM can take the disk. The error is an
// [*UnsupportedError] or [*InvalidError], in libvirt's words where libvirt refuses
// it too, or for a device that could not be removed or found again: limits, which
// QEMU is told last, are checked here by its rules.
func (d *Disk) CheckHotplug() error {
	switch {
	case !d.Bus.Hotpluggable():
		return unsupported("disk/target@bus", "disk bus '"+string(d.Bus)+"' cannot be hotplugged: use virtio, scsi or usb")
	case d.Empty && d.Alias != "":
		return unsupported("disk/alias", "an empty drive is known by its device's name alone, which is luksplug's: remove the alias")
	case d.IOTune != nil:
		return d.IOTune.feasible("disk/iotune")
	}
	return nil
}
