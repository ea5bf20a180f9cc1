package blockgraph

import (
	"strconv"

	"github.com/luksplug/luksplug/secrets"
)

// ISCSI is a unit of an iSCSI target.
//
//	source@name "iqn/lun"     -> target, lun (0 where none is given)
//	<host>                    -> portal "host:port" (port 3260 unless given)
//	                          -> transport tcp
//	<auth>                    -> user, password-secret: CHAP
//	source/initiator/iqn@name -> initiator-name
//
// See QEMU's docs/interop/qemu-qmp-ref, BlockdevOptionsIscsi.
type ISCSI struct {
	Target    string // the name of the target
	LUN       uint64 // the number of the unit
	Host      Host
	Initiator string // the client's name, "" for QEMU's default
	Auth      *Auth  // nil for a target without a login
}

const iscsiPort = 3260 // RFC 7143

// Protocol implements [Network].
func (*ISCSI) Protocol() string { return "iscsi" }

func (i *ISCSI) String() string {
	return url("iscsi", i.Host, iscsiPort, i.Target+"/"+strconv.FormatUint(i.LUN, 10))
}

func (i *ISCSI) validate(element string) error {
	if err := onlyTCP(element, "iscsi", []Host{i.Host}); err != nil {
		return err
	}
	if i.Target == "" {
		return invalid(element+"@name", "is missing: an iscsi source needs the name of the target")
	}
	return i.Auth.validate(element, secrets.ISCSI)
}

func (i *ISCSI) node(b *builder, _ *Encryption) nodeOptions {
	o := nodeOptions{Object: Object{{"driver", "iscsi"}, {"portal", i.Host.address(iscsiPort)},
		{"target", i.Target}, {"lun", i.LUN}, {"transport", "tcp"}}}
	b.auth(i.Auth, &o, "user", "password-secret")
	o.AddText("initiator-name", i.Initiator)
	return o
}
