package peer

import (
	"context"
	"sync"
)

// vm is what QEMU and Domain have in common: the connections to a running QEMU.
type vm struct {
	Control string // unix socket of a QMP monitor for the test's own queries; it serves one client at a time

	mu      sync.Mutex
	guest   *Guest
	monitor *Monitor // dialled on first use
}

// Guest returns the Linux guest, nil if the VM was started without one.
func (v *vm) Guest() *Guest { return v.guest }

// Monitor returns the connection to the control monitor. It is closed with the VM.
func (v *vm) Monitor(ctx context.Context) (*Monitor, error) {
	v.mu.Lock()
	defer v.mu.Unlock()
	var err error
	if v.monitor == nil {
		v.monitor, err = DialMonitor(ctx, v.Control)
	}
	return v.monitor, err
}

// State queries QEMU over the control monitor, see [ReadState].
func (v *vm) State(ctx context.Context) (State, error) {
	m, err := v.Monitor(ctx)
	if err != nil {
		return State{}, err
	}
	return ReadState(ctx, m)
}

// disconnect drops the connections to a QEMU that has ended.
func (v *vm) disconnect() {
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.monitor != nil {
		_ = v.monitor.Close() // its QEMU is gone
		v.monitor = nil
	}
	if v.guest != nil {
		_ = v.guest.conn.Close() // nothing is buffered
	}
}
