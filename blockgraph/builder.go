package blockgraph

import (
	"cmp"
	"strconv"
)

// builder builds a graph.
type builder struct {
	disk *Disk
	// instance is that of the disk's parts, see OtherInstance.
	instance string
	unlock   Unlock
	machine  Machine // the VM's; only its name for a storage daemon
	graph    *Graph
	counts   map[string]int // objects by kind
	// renamed is true if files are renamed while QEMU has them open, see BuildRenamedCopy.
	renamed bool
}

func newBuilder(d *Disk, u Unlock) *builder {
	return &builder{disk: d, instance: d.Target, unlock: u, graph: &Graph{Target: d.Target}, counts: map[string]int{}}
}

// name returns the name of a part.
func (b *builder) name(role Role) string { return Name(b.instance, role) }

// objectName returns the name of the next object of a kind.
func (b *builder) objectName(kind string) string {
	n := b.counts[kind]
	b.counts[kind]++
	return b.name(Role(kind + strconv.Itoa(n)))
}

// secret adds a secret object and returns its id. The data are base64 on the
// wire: a QMP string must be UTF-8, a secret need not be.
func (b *builder) secret(data SecretData) string {
	id := b.objectName("secret")
	data.Object = id
	b.graph.Objects = append(b.graph.Objects, GraphObject{ID: id, Ref: data.Ref, Options: Object{
		{"qom-type", "secret"}, {"id", id}, {"data", data}, {"format", "base64"}}})
	return id
}

// auth adds a server login, under the protocol's option names.
func (b *builder) auth(a *Auth, o *nodeOptions, user, secret string) {
	if a == nil {
		return
	}
	id := b.secret(SecretData{Ref: a.Secret})
	o.Add(user, a.User)
	o.Add(secret, id)
	o.secrets = append(o.secrets, id)
}

// tls adds a client's credentials. They exist as long as the node, which may
// have to reconnect.
func (b *builder) tls(t *TLS, o *nodeOptions) {
	if t == nil {
		return
	}
	object := GraphObject{}
	if t.Key != nil {
		object.Secrets = []string{b.secret(SecretData{Ref: *t.Key})}
	}
	object.ID = b.objectName("tls")
	kind := "tls-creds-x509"
	if t.PSKUser != "" {
		kind = "tls-creds-psk"
	}
	object.Options = Object{{"qom-type", kind}, {"id", object.ID}, {"dir", cmp.Or(t.Dir, DefaultTLSDir)}, {"endpoint", "client"}}
	if t.PSKUser != "" {
		object.Options.Add("username", t.PSKUser)
	} else {
		object.Options.Add("verify-peer", true)
	}
	if t.Key != nil {
		object.Options.Add("passwordid", object.Secrets[0])
	}
	b.graph.Objects = append(b.graph.Objects, object)
	o.Add("tls-creds", object.ID)
	o.objects = append(o.objects, object.ID)
}

// add adds a node and returns its name.
func (b *builder) add(n Node) string {
	n.Name = n.Options.Text("node-name")
	b.graph.Nodes = append(b.graph.Nodes, n)
	return n.Name
}
