package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/base64"
	"fmt"
	"io"
	"net"
	"strconv"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/qmp"
)

// bare is a minimal client of a monitor: it writes a command and reads lines until the reply.
type bare struct {
	conn net.Conn
	r    *bufio.Reader
}

func dialBare(ctx context.Context, socket string) (*bare, error) {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	b := &bare{conn: conn, r: bufio.NewReader(conn)}
	if err := b.replay([][]byte{[]byte(`{"execute":"qmp_capabilities"}` + "\n")}); err != nil {
		_ = conn.Close() // the first error is the one to report
		return nil, err
	}
	return b, nil
}

// exchange runs one command, which ends in a newline. It skips the greeting and events.
func exchange(w io.Writer, r *bufio.Reader, command []byte) error {
	if _, err := w.Write(command); err != nil {
		return err
	}
	for {
		line, err := r.ReadSlice('\n')
		switch {
		case err != nil:
			return err
		case bytes.HasPrefix(line, []byte(`{"return"`)):
			return nil
		case bytes.HasPrefix(line, []byte(`{"error"`)), bytes.HasPrefix(line, []byte(`{"id"`)):
			return fmt.Errorf("QEMU refused a command: %s", line)
		}
	}
}

// replay runs the commands one by one.
func (b *bare) replay(commands [][]byte) error {
	for _, c := range commands {
		if err := exchange(b.conn, b.r, c); err != nil {
			return err
		}
	}
	return nil
}

// record applies plans with the library and returns what it has sent, for the bare socket.
func record(ctx context.Context, socket string, disks []disk) ([][]byte, error) {
	var sent [][]byte
	trace := func(e qmp.TraceEntry) {
		if e.Direction == qmp.Sent {
			sent = append(sent, append(e.JSON, '\n'))
		}
	}
	vm, err := connect(ctx, socket, qmp.WithTrace(trace))
	if err != nil {
		return nil, err
	}
	defer func() { _ = vm.Close() }() // the VM is not affected
	var commands [][]byte
	for _, d := range disks {
		sent = nil
		if _, err := vm.Apply(ctx, d.plan, d.store); err != nil {
			return nil, err
		}
		if len(sent) != len(d.plan.Steps) {
			return nil, fmt.Errorf("the library has sent %d commands for %d steps", len(sent), len(d.plan.Steps))
		}
		for _, c := range sent {
			commands = append(commands, withSecret(c, d.store))
		}
	}
	return commands, nil
}

// withSecret restores the passphrase, which the trace omits.
func withSecret(command []byte, passphrase memory) []byte {
	encoded := strconv.Quote(base64.StdEncoding.EncodeToString(passphrase))
	return bytes.ReplaceAll(command, []byte(`"[redacted]"`), []byte(encoded))
}

// connect opens the VM as a program that uses the library does.
func connect(ctx context.Context, socket string, opts ...qmp.Option) (*hotplug.VM, error) {
	return hotplug.Connect(ctx, func(ctx context.Context) (*qmp.Client, error) {
		return qmp.Dial(ctx, socket, opts...)
	}, hotplug.Options{})
}
