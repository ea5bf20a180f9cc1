package main

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/rogpeppe/go-internal/testscript"
)

// The scripts in testdata run the program as a user does. They need no VM: what
// does is tested in package integration.

func TestMain(m *testing.M) {
	testscript.Main(m, map[string]func(){"luksplug": main})
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                "testdata",
		RequireExplicitExec: true,
		RequireUniqueNames: true,
		Cmds: map[string]func(*testscript.TestScript, bool, []string){
			"exits":   exits,
			"isjson":  isJSON,
			"oneline": oneLineOnly,
			"plain":   plain,
		},
	})
}
