package access_test

import (
	"fmt"
	"log"
	"os"

	"github.com/luksplug/luksplug/hotplug/internal/access"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// May a QEMU that runs as this user open an image?
func Example() {
	self := hostproc.Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	problems, err := access.Check(hostproc.UserOf(self), []access.File{{Path: "/dev/null", What: "payload", Write: true}})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range problems {
		fmt.Println(p.Path, p.Reason, p.Fix)
	}
	fmt.Println(len(problems), "problems")
	// Output: 0 problems
}
