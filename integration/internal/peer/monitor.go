package peer

import (
	"context"
	"encoding/json"
	"fmt"
)

// Monitor is a connection to a QMP monitor for the queries of a test. It deliberately does not use package
// qmp, whose faults could hide others. It may be used by several goroutines.
type Monitor struct {
	*link
	id     int
	events []Event
}

// Event is one of QEMU's asynchronous messages.
type Event struct {
	Name string          `json:"event"`
	Data json.RawMessage `json:"data"`
}

// CommandError is a failure that QEMU reported.
type CommandError struct {
	Command string
	Class   string `json:"class"`
	Desc    string `json:"desc"`
}

// Error returns QEMU's message.
func (e *CommandError) Error() string { return e.Command + ": " + e.Class + ": " + e.Desc }

// message is any line from QEMU.
type message struct {
	Event
	Return json.RawMessage `json:"return"`
	Error  *CommandError   `json:"error"`
	ID     json.RawMessage `json:"id"`
}

// DialMonitor connects to the unix socket of a QMP monitor and leaves the negotiation mode.
func DialMonitor(ctx context.Context, socket string) (*Monitor, error) {
	return dialMonitor(ctx, "unix", socket)
}

func dialMonitor(ctx context.Context, network, address string) (*Monitor, error) {
	l, err := dialLink(ctx, network, address)
	if err != nil {
		return nil, err
	}
	m := &Monitor{link: l}
	if _, err := m.Execute(ctx, "qmp_capabilities", nil); err != nil {
		_ = m.Close() // the first error is the one to report
		return nil, err
	}
	return m, nil
}

// Execute runs one command. args encodes as a JSON object, or is nil. A failure that QEMU reports is a
// *CommandError. After any other error the connection cannot be used.
func (m *Monitor) Execute(ctx context.Context, command string, args any) (json.RawMessage, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.id++
	request := map[string]any{"execute": command, "id": m.id}
	if args != nil {
		request["arguments"] = args
	}
	line, err := json.Marshal(request)
	if err != nil {
		return nil, fmt.Errorf("%s: encode: %w", command, err)
	}
	defer m.bound(ctx)()
	if _, err := m.conn.Write(append(line, '\n')); err != nil {
		return nil, m.failed(ctx, command, err)
	}
	want := fmt.Sprint(m.id)
	for {
		got, err := m.read()
		if err != nil {
			return nil, m.failed(ctx, command, err)
		}
		switch {
		case got.Name != "":
			m.events = append(m.events, got.Event)
		case string(got.ID) != want: // the greeting, or the reply to an abandoned command
		case got.Error != nil:
			got.Error.Command = command
			return nil, got.Error
		default:
			return got.Return, nil
		}
	}
}

// WaitEvent returns the first event for which accept returns true, and drops those before it.
func (m *Monitor) WaitEvent(ctx context.Context, accept func(Event) bool) (Event, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	defer m.bound(ctx)()
	for {
		for len(m.events) > 0 {
			e := m.events[0]
			m.events = m.events[1:]
			if accept(e) {
				return e, nil
			}
		}
		got, err := m.read()
		if err != nil {
			return Event{}, m.failed(ctx, "wait for an event", err)
		}
		if got.Name != "" {
			m.events = append(m.events, got.Event)
		}
	}
}

// WaitDeleted waits for the event that the device with that id is deleted.
func (m *Monitor) WaitDeleted(ctx context.Context, id string) error {
	_, err := m.WaitEvent(ctx, func(e Event) bool {
		var data struct{ Device string }
		return e.Name == "DEVICE_DELETED" && json.Unmarshal(e.Data, &data) == nil && data.Device == id
	})
	return err
}

// Close ends the connection.
func (m *Monitor) Close() error { return m.conn.Close() }

// read reads one line of any length.
func (m *Monitor) read() (message, error) {
	line, err := m.r.ReadBytes('\n')
	if err != nil {
		return message{}, err
	}
	var got message
	if err := json.Unmarshal(line, &got); err != nil {
		return message{}, fmt.Errorf("unreadable line from QEMU: %w", err)
	}
	return got, nil
}
