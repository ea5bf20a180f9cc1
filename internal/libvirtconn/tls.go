package libvirtconn

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"syscall"

	"github.com/luksplug/luksplug/internal/certfile"
	"github.com/luksplug/luksplug/internal/dialing"
	"github.com/luksplug/luksplug/internal/wipe"
)

// dialTLS connects with the certificates that libvirt uses (https://libvirt.org/kbase/tlscerts.html).
func (u *URI) dialTLS(ctx context.Context) (net.Conn, error) {
	home := ""
	if os.Geteuid() != 0 {
		home = os.Getenv("HOME")
	}
	files, err := u.findCredentials(home)
	if err != nil {
		return nil, err
	}
	config, err := files.config(u)
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", u.address(tlsPort))
	if err != nil {
		return nil, tcpError(err, "does libvirt listen there, for TLS (libvirtd-tls.socket)?")
	}
	below := wipe.NewTLSConn(raw)
	conn := &tlsConn{tls.Client(below, config), below}
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the first error counts
		return nil, tlsHint(err)
	}
	// libvirtd reports by one byte whether it accepts the client: it refuses a
	// certificate after the handshake.
	stop := context.AfterFunc(ctx, func() { _ = conn.Close() })
	defer stop()
	var answer [1]byte
	_, err = io.ReadFull(conn, answer[:])
	if err == nil && answer[0] == 1 {
		return conn, nil
	}
	_ = conn.Close() // the first error counts
	switch {
	case ctx.Err() != nil:
		return nil, ctx.Err()
	case (errors.Is(err, io.EOF) || err == nil) && files.cert == "":
		return nil, errors.New("it refuses a client without a certificate: clientcert.pem and clientkey.pem are missing, see https://libvirt.org/kbase/tlscerts.html")
	case errors.Is(err, io.EOF), err == nil:
		return nil, fmt.Errorf("it refuses this client: does it know the authority of the certificate %s, and is the client in its tls_allowed_dn_list?", files.cert)
	}
	return nil, tlsHint(err)
}

// tlsConn is an encrypted connection.
type tlsConn struct {
	*tls.Conn
	below *wipe.TLSConn
}

// Wipe clears the buffers with decrypted content. The connection must not be in use.
func (c *tlsConn) Wipe() { c.below.Wipe() }

// tlsHint explains common errors.
func tlsHint(err error) error {
	var authority x509.UnknownAuthorityError
	var name x509.HostnameError
	var alert tls.AlertError
	switch {
	case errors.As(err, &authority):
		return fmt.Errorf("%w: the authority of cacert.pem has not signed the server's certificate", err)
	case errors.As(err, &name):
		return fmt.Errorf("%w: use the name that is in the certificate", err)
	case errors.As(err, &alert):
		return fmt.Errorf("%w: it does not accept the certificate of this client", err)
	case errors.Is(err, io.EOF), errors.Is(err, syscall.ECONNRESET):
		return &dialing.Error{Text: "it ended the connection: does libvirt listen there, and for TLS?", Err: err}
	}
	return err
}

// credentials are the paths of the certificates. cert and key are empty if there are none.
type credentials struct {
	ca, cert, key string
}

// findCredentials returns the paths of the certificates: all in the directory that the URI names;
// otherwise the user's, or the system's if the user has none.
func (u *URI) findCredentials(home string) (credentials, error) {
	in := func(dir string) credentials {
		return credentials{filepath.Join(dir, "cacert.pem"), filepath.Join(dir, "clientcert.pem"), filepath.Join(dir, "clientkey.pem")}
	}
	system := credentials{"/etc/pki/CA/cacert.pem", "/etc/pki/libvirt/clientcert.pem", "/etc/pki/libvirt/private/clientkey.pem"}
	found := system
	switch {
	case u.pki != "":
		found = in(u.pki)
	case filepath.IsAbs(home):
		user := in(filepath.Join(home, ".pki", "libvirt"))
		if exists(user.ca) {
			found.ca = user.ca
		}
		if exists(user.cert) && exists(user.key) {
			found.cert, found.key = user.cert, user.key
		}
	}
	if !exists(found.ca) && !u.noVerify {
		return found, fmt.Errorf("there is no certificate of an authority, %s: TLS needs it to know the server, see https://libvirt.org/kbase/tlscerts.html, or give ?pkipath=", found.ca)
	}
	if !exists(found.cert) && !exists(found.key) {
		found.cert, found.key = "", "" // the server may not require one
	}
	return found, nil
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return !errors.Is(err, fs.ErrNotExist)
}

// config reads the certificates.
func (c credentials) config(u *URI) (*tls.Config, error) {
	config := &tls.Config{ServerName: u.Host, MinVersion: tls.VersionTLS12, InsecureSkipVerify: u.noVerify} //nolint:gosec // as the URI asks for
	if !u.noVerify {
		text, err := certfile.Read(c.ca)
		if err != nil {
			return nil, err
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%s holds no certificate", c.ca)
		}
	}
	if c.cert == "" {
		return config, nil
	}
	pair, err := certfile.KeyPair(c.cert, c.key)
	if err != nil {
		return nil, fmt.Errorf("the certificate of this client, %s with %s: %w", c.cert, c.key, err)
	}
	config.Certificates = []tls.Certificate{pair}
	return config, nil
}
