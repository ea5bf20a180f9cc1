package blockgraph_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/luksplug/luksplug/blockgraph"
	"github.com/luksplug/luksplug/blockgraph/internal/blocktest"
	"github.com/luksplug/luksplug/blockgraph/render"
	"github.com/luksplug/luksplug/secrets"
)

// anySource draws a source; number makes the sources of one disk distinct.
func anySource(t *rapid.T, number int) blockgraph.Source {
	auth := func(kind secrets.Type) *blockgraph.Auth {
		if !rapid.Bool().Draw(t, "auth") {
			return nil
		}
		ref := blocktest.AnySecret(t)
		ref.Type = kind
		return &blockgraph.Auth{User: "vm", Secret: ref}
	}
	var tls *blockgraph.TLS
	if rapid.Bool().Draw(t, "tls") {
		tls = &blockgraph.TLS{}
		if rapid.Bool().Draw(t, "tls key") {
			key := blocktest.AnySecret(t)
			key.Type = secrets.TLS
			tls.Key = &key
		}
	}
	name := fmt.Sprintf("image-%d", number)
	host := blockgraph.Host{Name: rapid.SampledFrom([]string{"store", "10.0.0.1", "fd00::1"}).Draw(t, "host"), Port: rapid.UintRange(0, 65535).Draw(t, "port")}
	s := blockgraph.Source{Kind: blockgraph.SourceNetwork}
	switch rapid.IntRange(0, 8).Draw(t, "source") {
	case 0:
		s = blockgraph.Source{Kind: blockgraph.SourceFile, Path: "/" + name}
	case 1:
		s = blockgraph.Source{Kind: blockgraph.SourceBlock, Path: "/dev/" + name}
	case 2:
		s.Network = &blockgraph.NBD{Export: name, Host: host, TLS: tls}
	case 3:
		s.Network = &blockgraph.ISCSI{Target: name, Host: host, Auth: auth(secrets.ISCSI)}
	case 4:
		s.Network = &blockgraph.RBD{Pool: "p", Image: name, Hosts: []blockgraph.Host{host}, Auth: auth(secrets.Ceph)}
	case 5:
		s.Network = &blockgraph.Curl{Scheme: "https", Path: name, Host: host, Auth: auth(secrets.ISCSI), Cookies: []blockgraph.Cookie{{Name: "a", Value: "b"}}}
	case 6:
		s.Network = &blockgraph.SSH{Path: name, Host: host}
	case 7:
		s.Network = &blockgraph.Gluster{Volume: "v", Path: name, Hosts: []blockgraph.Host{host, {Socket: "/g"}}}
	case 8:
		s = blockgraph.Source{Kind: blockgraph.SourceNVMe, NVMe: &blockgraph.NVMe{Device: fmt.Sprintf("0000:00:%02x.0", number%32), Namespace: 1}}
	}
	if rapid.Bool().Draw(t, "slice") {
		s.Slice = &blockgraph.Slice{Offset: rapid.Uint64Range(0, 1<<40).Draw(t, "offset"), Size: rapid.Uint64Range(1, 1<<40).Draw(t, "size")}
	}
	return s
}

// anyLayered draws a disk with layers on any sources, with any encryption.
func anyLayered(t *rapid.T) *blockgraph.Disk {
	number := 0
	source := func() blockgraph.Source { number++; return anySource(t, number) }
	formats := []blockgraph.Format{blockgraph.FormatRaw, blockgraph.FormatQcow2, blockgraph.FormatVMDK, blockgraph.FormatVDI}
	layer := func(deepest bool) blockgraph.Image {
		i := blockgraph.Image{Source: source(), Format: rapid.SampledFrom(formats).Draw(t, "format")}
		if !deepest {
			i.Format = rapid.SampledFrom(formats[1:3]).Draw(t, "format with layers")
		}
		if i.Format == blockgraph.FormatQcow2 && rapid.Bool().Draw(t, "data store") {
			store := blockgraph.Image{Source: source(), Format: blockgraph.FormatRaw}
			store.Source.Slice = nil
			i.DataStore = &store
		}
		_, rbd := i.Source.Network.(*blockgraph.RBD)
		switch choice := rapid.IntRange(0, 3).Draw(t, "encryption"); {
		case choice == 1 && rbd:
			i.Encryption = &blockgraph.Encryption{Format: blockgraph.EncryptionLUKS2, Engine: blockgraph.EngineLibRBD,
				Secrets: rapid.SliceOfN(rapid.Custom(blocktest.AnySecret), 1, 3).Draw(t, "layers")}
		case choice > 0 && (i.Format == blockgraph.FormatRaw || i.Format == blockgraph.FormatQcow2):
			i.Encryption = &blockgraph.Encryption{Secrets: []secrets.Reference{blocktest.AnySecret(t)}}
			if choice == 3 {
				i.Encryption.Header = &blockgraph.Image{Source: source(), Format: rapid.SampledFrom(formats[:2]).Draw(t, "header")}
			}
		}
		return i
	}
	d := &blockgraph.Disk{Target: "vd" + rapid.StringMatching("[a-z]{1,4}").Draw(t, "target"), Bus: blockgraph.BusVirtio, Device: blockgraph.DeviceDisk,
		ReadOnly: rapid.Bool().Draw(t, "readonly")}
	d.CopyOnRead = !d.ReadOnly && rapid.Bool().Draw(t, "copy on read")
	at := &d.Image
	for n := rapid.IntRange(0, 5).Draw(t, "layers"); ; n-- {
		*at = layer(n == 0)
		if n == 0 {
			at.Terminated = rapid.Bool().Draw(t, "terminated")
			return d
		}
		at.Backing = &blockgraph.Image{}
		at = at.Backing
	}
}

// TestLayeredPlans checks invariants for every disk and unlock method: the inputs
// of each step exist, every encryption is in exactly one node, and no secret
// remains.
func TestLayeredPlans(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		d := anyLayered(t)
		for _, u := range []blockgraph.Unlock{{}, {Method: blockgraph.MethodEphemeralHeader}, {Method: blockgraph.MethodEphemeralHeader, Dir: "/f"}, {Method: blockgraph.MethodStorageDaemon, Dir: "/f"}} {
			g := blocktest.Build(t, d, blockgraph.Machine{}, u)
			again, _ := blockgraph.Build(d, blockgraph.Machine{}, u)
			if first, second := render.Text(g.Plan()), render.Text(again.Plan()); first != second {
				t.Fatalf("two plans of one disk differ:\n%s\n%s", first, second)
			}
			if _, err := render.JSON(g.Plan()); err != nil {
				t.Fatal(err)
			}
			blocktest.CheckXML(t, render.SVG(g))
			checkSteps(t, d, g)
			if g.Daemon != nil {
				if len(g.Objects) > 0 || len(g.Nodes) != 1 {
					t.Fatalf("the VM has more than the daemon's export:\n%s", render.Text(g.Plan()))
				}
				checkSteps(t, d, g.Daemon)
				g = g.Daemon
			}
			checkEncryptions(t, d, g, u)
		}
	})
}

// checkSteps checks that what each step names exists, and no secret remains.
func checkSteps(t *rapid.T, d *blockgraph.Disk, g *blockgraph.Graph) {
	p := g.Plan()
	there := map[string]string{} // names, and what made them
	for i, s := range p.Steps {
		if s.Kind == blockgraph.StepRelease {
			if there[s.Subject] == "" {
				t.Fatalf("step %d releases what is not there:\n%s", i+1, render.Text(p))
			}
			delete(there, s.Subject)
			continue
		}
		if there[s.Subject] != "" {
			t.Fatalf("step %d makes %s again:\n%s", i+1, s.Subject, render.Text(p))
		}
		for _, name := range namesIn(s.Do.Arguments) {
			if strings.HasPrefix(name, "luksplug-") && name != s.Subject && there[name] == "" {
				t.Fatalf("step %d needs %s, which is not there:\n%s", i+1, name, render.Text(p))
			}
		}
		there[s.Subject] = s.Do.Arguments.Text("qom-type")
		if there[s.Subject] == "" {
			there[s.Subject] = string(s.Kind)
		}
		if target, role, ok := blockgraph.ParseName(s.Subject); !ok || target != d.Target || blockgraph.Name(target, role) != s.Subject || len(s.Subject) > 31 {
			t.Fatalf("an odd name: %s", s.Subject)
		}
	}
	for name, kind := range there {
		if kind == "secret" || kind == string(blockgraph.StepFDSet) {
			t.Fatalf("%s stays:\n%s", name, render.Text(p))
		}
	}
}

// namesIn returns all strings among arguments, except the names that the
// arguments themselves define.
func namesIn(value any) []string {
	var out []string
	switch x := value.(type) {
	case string:
		return []string{x}
	case blockgraph.Object:
		for _, m := range x {
			if !slices.Contains([]string{"node-name", "id", "opaque", "filename", "path", "export"}, m.Name) {
				out = append(out, namesIn(m.Value)...)
			}
		}
	case []any:
		for _, e := range x {
			out = append(out, namesIn(e)...)
		}
	}
	return out
}

// checkEncryptions checks that every passphrase of the disk is read by one node
// of its layer.
func checkEncryptions(t *rapid.T, d *blockgraph.Disk, g *blockgraph.Graph, u blockgraph.Unlock) {
	readers := map[string]int{}
	for _, n := range g.Nodes {
		for _, id := range n.Secrets {
			readers[id]++
		}
	}
	want, raw := 0, 0
	for number, layer := range d.Layers() {
		if layer.Encryption == nil {
			continue
		}
		want += len(layer.Encryption.Secrets)
		if !layer.RawLUKS() {
			continue
		}
		raw++
		if !slices.ContainsFunc(g.Nodes, func(n blockgraph.Node) bool {
			base, at := n.Role.Base()
			return base == blockgraph.RoleLUKS && at == number && n.Options.Text("driver") == "luks"
		}) {
			t.Fatalf("layer %d is not decrypted:\n%s", number, render.Text(g.Plan()))
		}
	}
	got := 0
	for _, o := range g.Objects {
		data, ok := o.Secret()
		if !ok || data.Ref.Type != secrets.Passphrase {
			continue
		}
		got++
		if readers[o.ID] != 1 {
			t.Fatalf("%s is read by %d nodes:\n%s", o.ID, readers[o.ID], render.Text(g.Plan()))
		}
	}
	if got != want {
		t.Fatalf("%d passphrases, want %d:\n%s", got, want, render.Text(g.Plan()))
	}
	if u.Method == blockgraph.MethodEphemeralHeader && len(g.Headers) != raw {
		t.Fatalf("%d ephemeral headers, want %d", len(g.Headers), raw)
	}
	ids := map[string]bool{}
	for _, h := range g.Headers {
		ids[fmt.Sprint(h.FDSet, h.File)], ids[h.Secret], ids[h.Node] = true, true, true
	}
	if len(ids) != 3*len(g.Headers) {
		t.Fatalf("two headers share a descriptor set or file: %+v", g.Headers)
	}
}
