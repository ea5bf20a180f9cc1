package libvirtconn_test

import (
	"errors"
	"fmt"

	"github.com/luksplug/luksplug/internal/libvirtconn"
)

func Example() {
	uri, err := libvirtconn.Parse("qemu+ssh://admin@vmhost/system?no_tty=1")
	fmt.Println(uri, uri.Transport, uri.Local(), err)
	// Then uri.Connect(ctx) opens the connection.

	_, err = libvirtconn.Parse("qemu+libssh2://vmhost/system")
	fmt.Println(errors.Is(err, libvirtconn.ErrUnsupported), err)
	// Output:
	// qemu+ssh://admin@vmhost/system?no_tty=1 ssh false <nil>
	// true libvirt URI qemu+libssh2://vmhost/system: not supported: the transport +libssh2: use +ssh
}
