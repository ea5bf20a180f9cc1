package schemacache_test

import (
	"context"
	"fmt"
	"log"
	"os"

	"github.com/luksplug/luksplug/internal/schemacache"
	"github.com/luksplug/luksplug/qmp"
)

// The next client reads from a file what the first had to query. A client made
// with qmp.WithSchemaSource(cache) does both by itself.
func Example() {
	dir, err := os.MkdirTemp("", "schemas")
	if err != nil {
		log.Fatal(err)
	}
	defer func() { _ = os.RemoveAll(dir) }() // the example is over
	ctx := context.Background()
	vm := qmp.SchemaID{Version: "10.0.2 (example)", Target: "x86_64", Address: "tcp:10.0.0.1:4444"}

	first := &schemacache.Cache{Dir: dir, Report: func(err error) { log.Print(err) }}
	fmt.Println("known before:", first.Schema(ctx, vm) != nil)
	first.Keep(ctx, vm, []byte(`[
		{"name": "stop", "meta-type": "command", "arg-type": "0", "ret-type": "0"},
		{"name": "0", "meta-type": "object", "members": []}]`))

	second := &schemacache.Cache{Dir: dir}
	fmt.Println("knows stop:", second.Schema(ctx, vm).Supports("stop", ""))
	vm.Version = "10.0.13 (example)"
	fmt.Println("after an update:", second.Schema(ctx, vm) != nil)
	// Output:
	// known before: false
	// knows stop: true
	// after an update: false
}
