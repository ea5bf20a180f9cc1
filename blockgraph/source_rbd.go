package blockgraph

import "github.com/luksplug/luksplug/secrets"

// RBD is an image in a Ceph cluster.
//
//	source@name "pool/image"  -> pool, image
//	source/snapshot@name      -> snapshot
//	source/config@file        -> conf
//	<host>, any number        -> server[], absent for those of the configuration
//	<encryption engine='librbd'> -> encrypt.format, .key-secret and .parent
//	<auth>                    -> user, auth-client-required [cephx, none], key-secret
//
// A port is 0 if none is given, as in libvirt: Ceph then tries its own. See QEMU's
// docs/interop/qemu-qmp-ref, BlockdevOptionsRbd.
type RBD struct {
	Pool, Image string
	Snapshot    string // of the image, "" for none
	Config      string // the path of Ceph's configuration on the machine that runs QEMU, "" for none
	Hosts       []Host // the cluster's monitors
	Auth        *Auth  // the cephx user, nil for none
}

// Protocol implements [Network].
func (*RBD) Protocol() string { return "rbd" }

func (r *RBD) String() string {
	text := "rbd:" + r.Pool + "/" + r.Image
	if r.Snapshot != "" {
		text += "@" + r.Snapshot
	}
	return text
}

func (r *RBD) validate(element string) error {
	if err := onlyTCP(element, "rbd", r.Hosts); err != nil {
		return err
	}
	if r.Pool == "" || r.Image == "" {
		return invalid(element+"@name", "can't split path into pool name and image name: write it like pool/image")
	}
	return r.Auth.validate(element, secrets.Ceph)
}

func (r *RBD) node(b *builder, enc *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "rbd"}, {"pool", r.Pool}, {"image", r.Image}}}
	o.AddText("snapshot", r.Snapshot)
	o.AddText("conf", r.Config)
	if len(r.Hosts) > 0 {
		var servers []any
		for _, h := range r.Hosts {
			servers = append(servers, h.inet(0))
		}
		o.Add("server", servers)
	}
	// The objects in libvirt's order: the login first.
	var login nodeOptions
	if r.Auth != nil {
		b.auth(r.Auth, &login, "user", "key-secret")
		login.Object = Object{{"user", r.Auth.User}, {"auth-client-required", []any{"cephx", "none"}}, {"key-secret", login.Get("key-secret")}}
	}
	o.secrets = login.secrets
	if enc.librbd() {
		o.Add("encrypt", b.librbd(enc, &o.secrets))
	}
	o.Object = append(o.Object, login.Object...)
	return o
}

// librbd returns the options by which Ceph's library decrypts the image. A clone has one
// <secret> for itself and for each parent, in this order, all of one format. See
// RbdEncryptionOptions.
func (b *builder) librbd(enc *Encryption, ids *[]string) Object {
	var out any
	var keys []string
	for _, ref := range enc.Secrets {
		keys = append(keys, b.secret(SecretData{Ref: ref}))
	}
	for i := len(keys) - 1; i >= 0; i-- {
		level := Object{{"format", string(enc.format())}, {"key-secret", keys[i]}}
		if out != nil {
			level.Add("parent", out)
		}
		out = level
	}
	*ids = append(*ids, keys...)
	return out.(Object) // validated: there is at least one secret
}
