package qmp_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/luksplug/luksplug/qmp"
)

// Connect, remove a block node, and tell the three outcomes apart.
func Example() {
	socket, stop := exampleMonitor()
	defer stop()

	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	client, err := qmp.Dial(ctx, socket)
	if err != nil {
		log.Print(err)
		return
	}
	defer func() { _ = client.Close() }() // nothing to do about an error here
	fmt.Println("QEMU", client.VersionString())

	_, err = client.Execute(ctx, qmp.Command{
		Execute:   "blockdev-del",
		Arguments: qmp.Object{{Name: "node-name", Value: "disk0"}},
	})
	var unknown *qmp.UnknownOutcomeError
	switch {
	case err == nil:
		fmt.Println("removed")
	case errors.Is(err, qmp.ErrNodeNotFound):
		fmt.Println("was not there:", err)
	case errors.As(err, &unknown):
		fmt.Println("query QEMU whether it is still there:", err)
	default:
		fmt.Println("not removed:", err)
	}
	// Output:
	// QEMU 10.0.2 (example)
	// was not there: QEMU refused blockdev-del: Failed to find node with node-name='disk0'
}

// A secret is real on the wire only.
func ExampleSensitive() {
	passphrase := []byte("b3BlbiBzZXNhbWU=")
	args := qmp.Object{
		{Name: "qom-type", Value: "secret"},
		{Name: "id", Value: "secret0"},
		{Name: "format", Value: "base64"},
		{Name: "data", Value: qmp.NewSensitive(passphrase)},
	}
	fmt.Println(args)
	fmt.Printf("%#v\n", args[3].Value)
	// Output:
	// {"qom-type":"secret","id":"secret0","format":"base64","data":"[redacted]"}
	// [redacted]
}

// Questions to QEMU's own description of its commands.
func ExampleSchema() {
	schema, err := qmp.ParseSchema([]byte(`[
		{"name": "blockdev-add", "meta-type": "command", "arg-type": "1", "ret-type": "0"},
		{"name": "0", "meta-type": "object", "members": []},
		{"name": "1", "meta-type": "object", "tag": "driver",
		 "members": [{"name": "driver", "type": "2"}],
		 "variants": [{"case": "luks", "type": "3"}, {"case": "raw", "type": "0"}]},
		{"name": "2", "meta-type": "enum", "values": ["luks", "raw"]},
		{"name": "3", "meta-type": "object", "members": [{"name": "header", "type": "str", "default": null}]},
		{"name": "str", "meta-type": "builtin", "json-type": "string"}]`))
	if err != nil {
		log.Print(err)
		return
	}
	fmt.Println(schema.Supports("blockdev-add", "luks.header"))
	fmt.Println(schema.Validate("blockdev-add", qmp.Object{{Name: "driver", Value: "raw"}, {Name: "header", Value: "h"}}))
	// Output:
	// true
	// blockdev-add: argument "header": is not known to this QEMU
}

// exampleMonitor stands in for a QEMU, so that the example runs everywhere.
func exampleMonitor() (socket string, stop func()) {
	dir, err := os.MkdirTemp("", "qmp")
	if err != nil {
		log.Fatal(err)
	}
	socket = filepath.Join(dir, "qmp.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		log.Fatal(err)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		_, _ = fmt.Fprintln(conn, `{"QMP":{"version":{"qemu":{"major":10,"minor":0,"micro":2},"package":"example"},"capabilities":["oob"]}}`)
		commands := json.NewDecoder(conn)
		for _, answer := range []string{
			`{"return":{},"id":%d}`,
			`{"error":{"class":"GenericError","desc":"Failed to find node with node-name='disk0'"},"id":%d}`,
		} {
			var command struct{ ID uint64 }
			if commands.Decode(&command) != nil {
				break
			}
			_, _ = fmt.Fprintf(conn, answer+"\n", command.ID)
		}
		_, _ = io.Copy(io.Discard, conn) // until the client closes it
		_ = conn.Close()
	}()
	return socket, func() {
		_ = listener.Close() // the example is over
		<-done
		_ = os.RemoveAll(dir) // as above
	}
}
