package diskgen_test

import (
	"fmt"

	"github.com/luksplug/luksplug/blockgraph/diskxml"
	"github.com/luksplug/luksplug/integration/internal/diskgen"
)

// A case is reproduced by its number, and can be planned like any disk.
func Example() {
	c := diskgen.Cases().Example(4)
	machine, err := diskxml.ParseDomain([]byte(c.Context()))
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("the same again:", diskgen.Cases().Example(4).XML() == c.XML())
	fmt.Println("a domain that is known:", machine.Known() && machine.Domain)
	// Output:
	// the same again: true
	// a domain that is known: true
}
