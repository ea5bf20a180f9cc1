package integration

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/integration/internal/peer"
	"github.com/luksplug/luksplug/internal/must"
	"github.com/luksplug/luksplug/qmp"
)

// plannedDisk is a disk, and the machine for which it is planned.
type plannedDisk struct {
	name    string
	disk    *blockgraph.Disk
	machine blockgraph.Machine
}

// unlocks are all methods to open a volume.
var unlocks = []blockgraph.Unlock{
	{Method: blockgraph.MethodQEMU},
	{Method: blockgraph.MethodEphemeralHeader},
	{Method: blockgraph.MethodEphemeralHeader, Dir: "/run/luksplug/vm/x/vdb"},
	{Method: blockgraph.MethodStorageDaemon, Dir: "/run/luksplug/vm/x/vdb"},
}

// TestPlansOfVersions: every command of every plan matches QEMU's own schema, or the plan is refused for a
// feature that this version is known to lack.
func TestPlansOfVersions(t *testing.T) {
	t.Parallel()
	eachEmulator(t, peer.Options{}, func(t *testing.T, e emulator) {
		for name, disks := range map[string]func(*testing.T) []plannedDisk{"golden": goldenDisks, "conformance": kitDisks} {
			t.Run(name, func(t *testing.T) { e.checkPlans(t, disks(t)) })
		}
	})
}

// checkPlans plans each disk with all methods, and checks the commands for the VM and for a storage daemon of
// its version.
func (e emulator) checkPlans(t *testing.T, disks []plannedDisk) {
	t.Helper()
	ctx := bounded(t)
	if least := 150; len(disks) < least {
		t.Fatalf("%d disks, and there should be %d", len(disks), least)
	}
	daemon := daemonSchema(t, e.daemon())
	plans, refused := 0, map[string]int{}
	for _, d := range disks {
		d.machine.ReconnectSeconds = e.before(t, "9.2")
		for _, u := range unlocks {
			graph, err := blockgraph.Build(d.disk, d.machine, u)
			var unsupported *blockgraph.UnsupportedError
			if u.Method == blockgraph.MethodStorageDaemon && errors.As(err, &unsupported) {
				continue // a daemon cannot serve every disk
			}
			if err != nil {
				t.Fatalf("%s: %v", d.name, err)
			}
			plans++
			var lacks blockgraph.Feature
			var version *hotplug.VersionError
			err = e.vm.CheckPlan(ctx, graph.Plan())
			if errors.As(err, &version) {
				lacks = version.Feature
			} else if err == nil && graph.Daemon != nil {
				lacks, err = checkDaemon(t, daemon, graph.Daemon.Plan())
			}
			switch {
			case err == nil:
			case e.mayLack(t, lacks):
				refused[lacks.Describe()]++
			default:
				t.Errorf("%s, unlocked by %q: %v", d.name, u.Method, err)
			}
		}
	}
	t.Logf("QEMU %s: %d plans, refused: %v", e.vm.Client().VersionString(), plans, refused)
}

// checkDaemon validates the commands for a storage daemon against its schema.
func checkDaemon(t *testing.T, schema *qmp.Schema, plan *blockgraph.Plan) (blockgraph.Feature, error) {
	t.Helper()
	for _, s := range plan.Steps {
		text := must.Get(json.Marshal(s.Do.Arguments))(t) // a secret is the text [redacted]
		var members map[string]json.RawMessage
		must.OK(t, json.Unmarshal(text, &members))
		var arguments qmp.Object
		for name, value := range members {
			arguments = append(arguments, qmp.Member{Name: name, Value: value})
		}
		err := schema.Validate(s.Do.Execute, arguments)
		var argument *qmp.ArgumentError
		if errors.As(err, &argument) {
			return s.Do.Feature(argument.Path), err
		} else if err != nil {
			return blockgraph.Feature{}, err
		}
	}
	return blockgraph.Feature{}, nil
}

// mayLack reports whether a refusal is right: the feature is newer than the emulator or was dropped before it,
// and the error names its element. Of the optional libraries, Debian's QEMUs lack only libblkio.
func (e emulator) mayLack(t *testing.T, f blockgraph.Feature) bool {
	t.Helper()
	switch {
	case f.Element == "":
		return false
	case f.Since != "" && e.before(t, f.Since), f.Until != "" && !e.before(t, f.Until):
		return true
	}
	unsupported := f.Since == "" && f.Until == "" && f.Library == ""
	return f.Library == "libblkio" || unsupported && f.Instead != ""
}

// goldenDisks returns the disks of package render's golden plans, each for several machines.
func goldenDisks(t *testing.T) []plannedDisk {
	t.Helper()
	machines := map[string]blockgraph.Machine{
		"no machine": {},
		"q35":        {Type: "q35", Ports: []blockgraph.Port{{Bus: "rp1"}}, USB: true},
		"pc":         {Type: "pc", RootSlots: []uint{0, 1}, USB: true, SCSI: []blockgraph.SCSIController{{ID: "scsi0"}}},
	}
	files := must.Get(filepath.Glob(filepath.Join(repository, "blockgraph", "render", "testdata", "*", "*.txtar")))(t)
	var out []plannedDisk
	for _, file := range files {
		data := must.Get(os.ReadFile(file))(t)
		_, rest, ok := strings.Cut(string(data), "-- disk.xml --\n")
		if !ok {
			t.Fatalf("%s has no disk", file)
		}
		if strings.Contains(rest, "-- refused.txt --\n") {
			continue
		}
		doc, _, _ := strings.Cut(rest, "\n-- ")
		disk := parseDisk(t, file, doc)
		for _, name := range slices.Sorted(maps.Keys(machines)) {
			// Package blockgraph tests addresses that a machine lacks.
			if _, err := blockgraph.Build(disk, machines[name], blockgraph.Unlock{}); err == nil || name == "no machine" {
				out = append(out, plannedDisk{filepath.Base(file) + " for " + name, disk, machines[name]})
			}
		}
	}
	return out
}

func parseDisk(t *testing.T, name, doc string) *blockgraph.Disk {
	t.Helper()
	disk, err := diskxml.ParseDisk([]byte(doc))
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return disk
}

// kitDisks returns the disks of the conformance kit, each with its machine.
func kitDisks(t *testing.T) []plannedDisk {
	t.Helper()
	files := must.Get(filepath.Glob(filepath.Join(conformanceKit(t), "corpus", "*", "disk.xml")))(t)
	var out []plannedDisk
	for _, file := range files {
		name := filepath.Base(filepath.Dir(file))
		if _, no := unreachable[name]; no {
			continue
		}
		doc := must.Get(os.ReadFile(file))(t)
		machine, pools := kitMachine(t, filepath.Dir(file))
		disk, err := parseDisk(t, name, string(doc)).Translate(pools)
		if err != nil {
			t.Fatalf("%s: %v", name, err)
		}
		out = append(out, plannedDisk{name, disk, machine})
	}
	return out
}

// kitMachine returns the machine and the pools of a case of the kit.
func kitMachine(t *testing.T, dir string) (blockgraph.Machine, blockgraph.Pools) {
	t.Helper()
	data := must.Get(os.ReadFile(filepath.Join(dir, "meta.json")))(t)
	var meta struct {
		Pools   []string `json:"pools"`
		Context struct {
			Arch           string           `json:"arch"`
			Machine        string           `json:"machine"`
			Controllers    []map[string]any `json:"controllers"`
			IOThreads      any              `json:"iothreads"` // a number, or a string of digits
			ThrottleGroups string           `json:"throttlegroups_xml"`
		} `json:"context"`
	}
	if err := json.Unmarshal(data, &meta); err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	c := meta.Context
	if c.IOThreads == nil {
		c.IOThreads = 0
	}
	var devices strings.Builder
	for _, controller := range c.Controllers {
		devices.WriteString("<controller")
		for name, value := range controller {
			switch value.(type) {
			case string, float64:
				fmt.Fprintf(&devices, " %s='%v'", name, value)
			}
		}
		devices.WriteString("/>")
	}
	// The kit does not describe the memory, which vhost-user requires to be shared.
	doc := fmt.Sprintf("<domain type='qemu'><name>kit</name><memoryBacking><access mode='shared'/></memoryBacking><iothreads>%v</iothreads><os><type arch='%s' machine='%s'>hvm</type></os>%s<devices>%s</devices></domain>",
		c.IOThreads, c.Arch, c.Machine, c.ThrottleGroups, &devices)
	machine, err := diskxml.ParseDomain([]byte(doc))
	if err != nil {
		t.Fatalf("%s: %v", dir, err)
	}
	pools := blockgraph.Pools{}
	for _, name := range meta.Pools {
		data, err := os.ReadFile(filepath.Join(dir, "pool-"+name+".xml"))
		if err != nil {
			continue // no disk names a pool that the kit lacks
		}
		pool, err := diskxml.ParsePool(data)
		if err != nil {
			t.Fatalf("%s: %v", dir, err)
		}
		pools[name], pools[pool.Name] = pool, pool
	}
	return machine, pools
}
