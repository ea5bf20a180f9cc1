package blockgraph

// VxHS is a disk of Veritas HyperScale. QEMU removed its driver in 5.2; the options are those of libvirt.
//
//	source@name -> vdisk-id
//	<host>      -> server (port 9999 unless given)
//	source@tls  -> tls-creds
type VxHS struct {
	ID   string
	Host Host
	TLS  *TLS
}

const vxhsPort = 9999

// Protocol implements [Network].
func (*VxHS) Protocol() string { return "vxhs" }

func (v *VxHS) String() string { return url("vxhs", v.Host, vxhsPort, v.ID) }

func (v *VxHS) validate(element string) error {
	if err := check([]rule{
		{v.ID == "", invalid, element + "@name", "missing name for disk source"},
		{v.Host.Socket != "", invalid, element + "/host@transport", "only TCP can be used with the protocol vxhs"},
		{v.TLS != nil && v.TLS.Hostname != "", invalid, element + "@tlsHostname", "has no effect with the protocol vxhs: remove it"},
	}); err != nil {
		return err
	}
	return v.TLS.validate(element)
}

func (v *VxHS) node(b *builder, _ *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "vxhs"}, {"vdisk-id", v.ID}, {"server", v.Host.inet(vxhsPort)}}}
	b.tls(v.TLS, &o)
	return o
}
