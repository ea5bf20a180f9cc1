package keystore

import "github.com/luksplug/luksplug/secrets/internal/opened"

// LockAll locks all stores that the user of this process has unlocked on this host,
// including those that no configuration names any longer. With suspend it locks only those
// whose limit is a suspend. It returns the names under which the kernel kept their keys,
// such as age:/var/lib/luksplug/secrets/identity.txt. After a failure it continues, and
// returns all errors.
func LockAll(suspend bool) ([]string, error) { return opened.ForgetAll(suspend) }
