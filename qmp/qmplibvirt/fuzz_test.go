package qmplibvirt

import (
	"context"
	"encoding/json"
	"errors"
	"testing"

	"github.com/luksplug/luksplug/qmp"
)

// FuzzVirsh: whatever virsh prints, its answer is a reply of QEMU's or an error, and a command
// counts as not sent only if virsh ended with a status and without a reply.
func FuzzVirsh(f *testing.F) {
	f.Add(`{"return":{},"id":"libvirt-5"}`, "", uint8(0))
	f.Add(`{"error":{"class":"GenericError","desc":"no"}}`, "", uint8(1))
	f.Add("\n", "error: failed to get domain 'vm1'\n", uint8(3))
	f.Add("", "error: failed to connect to the hypervisor\nerror: no\x1b[2J", uint8(3))
	f.Add("", "error: Requested operation is not valid: domain is not running", uint8(3))
	f.Add(`{"return":null}`, "", uint8(4))
	f.Add(`[]`, "", uint8(0))
	f.Fuzz(func(t *testing.T, out, diag string, how uint8) {
		var end virshEnd
		if how&1 != 0 {
			end.err = errors.New("exit status 1")
		}
		end.exited = end.err != nil && how&2 != 0
		if how&4 != 0 {
			end.ctx = context.Canceled
		}
		reply, err := virshAnswer([]byte(out), []byte(diag), end)
		switch {
		case err == nil:
			var message struct{ Return, Error json.RawMessage }
			if json.Unmarshal(reply, &message) != nil || message.Return == nil && message.Error == nil {
				t.Errorf("the reply is %q", reply)
			}
		case reply != nil:
			t.Errorf("a reply and the error %v", err)
		case errors.Is(err, qmp.ErrNotSent) && (!end.exited || end.ctx != nil):
			t.Errorf("it may have been sent: %v", err)
		}
	})
}
