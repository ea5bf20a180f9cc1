package kmip

import (
	"fmt"
	"time"

	"github.com/luksplug/luksplug/secrets"
	"github.com/luksplug/luksplug/secrets/internal/storeuri"
)

// Open returns the store of a URI, which package keystore documents.
func Open(l *storeuri.Location, _ storeuri.Options) (secrets.Store, error) {
	address, err := l.HostPort("5696") // IANA's for KMIP
	if err != nil {
		return nil, err
	}
	style, err := l.TakeOne("attributes", string(Application), string(Custom))
	if err != nil {
		return nil, err
	}
	const enough = 10 * time.Second
	timeout, err := l.TakeDuration("timeout", enough)
	if err != nil {
		return nil, err
	}
	o := Options{
		Address: address, Certificate: l.Take("cert-file"), Key: l.Take("key-file"), CA: l.Take("ca-file"),
		ServerName: l.Take("server-name"), Timeout: timeout, Style: Style(style),
	}
	if (o.Certificate == "") != (o.Key == "") {
		return nil, fmt.Errorf("%w: of kind kmip: cert-file and key-file must be given together", storeuri.ErrInvalid)
	}
	text := l.Take("find")
	if text == "" {
		return New(o), nil
	}
	template, err := ParseTemplate(text)
	if err != nil {
		return nil, fmt.Errorf("%w: of kind kmip: find: %w", storeuri.ErrInvalid, err)
	}
	return NewFinder(o, template), nil
}
