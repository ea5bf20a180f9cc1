package access_test

import (
	"fmt"
	"log"
	"os"

	"github.com/luksplug/luksplug/hotplug/access"
	"github.com/luksplug/luksplug/hotplug/daemon"
)

// May a QEMU that runs as this user open an image?
func Example() {
	self := daemon.Credential{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}
	problems, err := access.Check(access.UserOf(self), []access.File{{Path: "/dev/null", What: "payload", Write: true}})
	if err != nil {
		log.Fatal(err)
	}
	for _, p := range problems {
		fmt.Println(p.Path, p.Reason, p.Fix)
	}
	fmt.Println(len(problems), "problems")
	// Output: 0 problems
}
