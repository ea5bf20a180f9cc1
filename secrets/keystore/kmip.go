package keystore

import (
	"fmt"
	"net"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/kmip"
)

func openKMIP(l *Location, _ Options) (secrets.Store, error) {
	address, err := l.hostPort("5696") // IANA's for KMIP
	if err != nil {
		return nil, err
	}
	style, err := l.TakeOne("attributes", string(kmip.Application), string(kmip.Custom))
	if err != nil {
		return nil, err
	}
	const enough = 10 * time.Second
	timeout, err := l.TakeDuration("timeout", enough)
	if err != nil {
		return nil, err
	}
	o := kmip.Options{
		Address: address, Certificate: l.Take("cert-file"), Key: l.Take("key-file"), CA: l.Take("ca-file"),
		ServerName: l.Take("server-name"), Timeout: timeout, Style: kmip.Style(style),
	}
	if (o.Certificate == "") != (o.Key == "") {
		return nil, fmt.Errorf("%w: of kind kmip: cert-file and key-file are given together", ErrInvalidURI)
	}
	text := l.Take("find")
	if text == "" {
		return kmip.New(o), nil
	}
	template, err := kmip.ParseTemplate(text)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind kmip: find: %w", ErrInvalidURI, err)
	}
	return kmip.NewFinder(o, template), nil
}

// hostPort reads a Rest that is the address of a server: //HOST:PORT, and nothing
// but a / behind it.
func (l *Location) hostPort(port string) (string, error) {
	// The error would say what may be a password.
	u, err := url.Parse(l.Rest)
	if err != nil || u.Hostname() == "" || strings.Trim(u.Path, "/") != "" || u.User != nil || u.Opaque != "" {
		return "", fmt.Errorf("%w: of kind %s: write it like %s://HOST:PORT", ErrInvalidURI, l.Scheme, l.Scheme)
	}
	if u.Port() != "" {
		port = u.Port()
	}
	if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
		return "", fmt.Errorf("%w: of kind %s: %s is no port", ErrInvalidURI, l.Scheme, port)
	}
	return net.JoinHostPort(u.Hostname(), port), nil
}
