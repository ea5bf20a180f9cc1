package kmip

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"strings"

	"github.com/ovh/kmip-go"
	"github.com/ovh/kmip-go/payloads"
	"github.com/ovh/kmip-go/ttlv"

	"github.com/luksplug/luksplug/internal/certfile"
	"github.com/luksplug/luksplug/internal/wipe"
	"github.com/luksplug/luksplug/secrets"
)

// connection is a connection to the server. It is not safe for concurrent use.
type connection struct {
	tls     *tls.Conn
	below   *wipe.TLSConn
	version kmip.ProtocolVersion
	stop    func() bool
	read    [][]byte // received messages, which may contain values
	room    int      // for the next request, in bytes
}

// ordinary is more than a request without a value takes, in bytes. The encoder must not
// grow while it holds a value: it would leave the smaller buffer behind.
const ordinary = 16 << 10

// maxAnswer is the largest response in bytes: half of it for the value, and half for
// the message around it.
const maxAnswer = 2 * secrets.MaxLen

// dial opens a connection that lasts until ctx ends, and negotiates the protocol version.
func dial(ctx context.Context, o Options) (*connection, error) {
	config, err := o.tls()
	if err != nil {
		return nil, err
	}
	raw, err := (&net.Dialer{}).DialContext(ctx, "tcp", o.Address)
	if err != nil {
		return nil, answer(err)
	}
	below := wipe.NewTLSConn(raw)
	conn := tls.Client(below, config)
	err = conn.HandshakeContext(ctx)
	if err != nil {
		_ = raw.Close() // the first error counts
	}
	var operation *net.OpError
	if o.Certificate == "" && errors.As(err, &operation) && operation.Op == remoteError {
		return nil, fmt.Errorf("%w: the server requires a client certificate: %w: see cert-file and key-file", secrets.ErrDenied, err)
	}
	if err != nil {
		return nil, answer(err)
	}
	c := &connection{tls: conn, below: below, version: kmip.V1_0}
	c.stop = context.AfterFunc(ctx, func() { _ = conn.Close() })
	if err := c.negotiate(); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

func (c *connection) close() {
	c.stop()
	_ = c.tls.Close() // all responses have been received
	c.below.Wipe()
	for _, b := range c.read {
		clear(b)
	}
}

// tls returns the TLS configuration. It reads the certificates at each call, since
// they are renewed from time to time.
func (o Options) tls() (*tls.Config, error) {
	config := &tls.Config{MinVersion: tls.VersionTLS12, ServerName: o.ServerName}
	if config.ServerName == "" {
		host, _, err := net.SplitHostPort(o.Address)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
		}
		config.ServerName = host
	}
	if o.CA != "" {
		pem, err := certfile.Read(o.CA)
		if err != nil {
			return nil, unreadable("certificate authority", err)
		}
		config.RootCAs = x509.NewCertPool()
		if !config.RootCAs.AppendCertsFromPEM(pem) {
			return nil, fmt.Errorf("%w: %s contains no certificate: it must contain those of certificate authorities, in PEM", secrets.ErrUnreachable, o.CA)
		}
	}
	if o.Certificate != "" {
		pair, err := certfile.KeyPair(o.Certificate, o.Key)
		if err != nil {
			return nil, unreadable("client certificate and its key", err)
		}
		config.Certificates = []tls.Certificate{pair}
	}
	return config, nil
}

func unreadable(what string, err error) error {
	kind := secrets.ErrUnreachable
	if errors.Is(err, fs.ErrPermission) {
		kind = secrets.ErrDenied
	}
	return fmt.Errorf("%w: the %s cannot be read: %w", kind, what, err)
}

// negotiate selects the highest version that both sides support (section 4.26). A
// server that does not support Discover Versions supports only version 1.0.
func (c *connection) negotiate() error {
	c.version = kmip.V1_1
	known := []kmip.ProtocolVersion{kmip.V1_4, kmip.V1_3, kmip.V1_2, kmip.V1_1, kmip.V1_0}
	found, err := ask[*payloads.DiscoverVersionsResponsePayload](c, &payloads.DiscoverVersionsRequestPayload{ProtocolVersion: known})
	var r *refusal
	if errors.As(err, &r) && r.reason == kmip.ResultReasonOperationNotSupported {
		c.version = kmip.V1_0
		return nil
	}
	if err != nil {
		return err
	}
	for _, v := range known {
		for _, theirs := range found.ProtocolVersion {
			if v == theirs {
				c.version = v
				return nil
			}
		}
	}
	return fmt.Errorf("%w: the server supports no version of KMIP from 1.0 to 1.4", secrets.ErrUnreachable)
}

// ask sends one request and returns the payload of the response.
func ask[R kmip.OperationPayload](c *connection, request kmip.OperationPayload) (R, error) {
	var none R
	items, err := c.exchange(request)
	if err != nil {
		return none, err
	}
	if items[0].err != nil {
		return none, items[0].err
	}
	got, ok := items[0].payload.(R)
	if !ok {
		return none, nonsense("unexpected payload in the response to %s", ttlv.EnumStr(request.Operation()))
	}
	return got, nil
}

// reply is the response to one of several requests.
type reply struct {
	payload kmip.OperationPayload
	err     error // of that request
}

// exchange sends requests in one message and returns one reply for each. The server
// continues after a request that fails.
func (c *connection) exchange(requests ...kmip.OperationPayload) ([]reply, error) {
	message := kmip.NewRequestMessage(c.version, requests...)
	if len(requests) > 1 {
		message.Header.BatchErrorContinuationOption = kmip.BatchErrorContinuationOptionContinue
	}
	encoder := ttlv.NewTTLVEncoder()
	encoder.ByteString(kmip.TagVendorExtension, make([]byte, max(c.room, ordinary)))
	encoder.Clear() // keeps the room
	encoder.Any(&message)
	data := encoder.Bytes()
	_, err := c.tls.Write(data)
	clear(data)
	if err != nil {
		return nil, answer(err)
	}
	received, err := c.receive()
	if err != nil {
		return nil, err
	}
	if len(received.BatchItem) == 1 && len(requests) > 1 && received.BatchItem[0].ResultStatus != kmip.ResultStatusSuccess {
		return nil, refused(&received.BatchItem[0], "request") // the message as a whole
	}
	if len(received.BatchItem) != len(requests) {
		return nil, nonsense("%d responses to %d requests", len(received.BatchItem), len(requests))
	}
	replies := make([]reply, len(requests))
	for i := range received.BatchItem {
		item := &received.BatchItem[i]
		switch {
		case item.ResultStatus != kmip.ResultStatusSuccess:
			replies[i].err = refused(item, ttlv.EnumStr(requests[i].Operation()))
		case item.ResponsePayload == nil:
			replies[i].err = nonsense("the response to %s is empty", ttlv.EnumStr(requests[i].Operation()))
		default:
			replies[i].payload = item.ResponsePayload
		}
	}
	return replies, nil
}

// receive reads one message: an 8-byte head with the length of the rest (section
// 9.1.1).
func (c *connection) receive() (*kmip.ResponseMessage, error) {
	const headLen = 8
	head := make([]byte, headLen)
	if _, err := io.ReadFull(c.tls, head); err != nil {
		return nil, answer(err)
	}
	length := binary.BigEndian.Uint32(head[4:])
	if length > maxAnswer {
		return nil, nonsense("a response of %d bytes, more than the limit of %d", length, maxAnswer)
	}
	data := append(head, make([]byte, length)...)
	c.read = append(c.read, data)
	if _, err := io.ReadFull(c.tls, data[headLen:]); err != nil {
		return nil, answer(err)
	}
	var message kmip.ResponseMessage
	if err := ttlv.UnmarshalTTLV(data, &message); err != nil {
		// The decoder's error is omitted: it may quote the response.
		return nil, nonsense("the response is not a KMIP message")
	}
	return &message, nil
}

func nonsense(format string, args ...any) error {
	return fmt.Errorf("%w: invalid response of the server: %s", secrets.ErrUnreachable, fmt.Sprintf(format, args...))
}

// refusal is the error for a request that the server has refused.
type refusal struct {
	operation string
	reason    kmip.ResultReason
	message   string
}

func (r *refusal) Error() string {
	text := fmt.Sprintf("the server refuses %s: %s", r.operation, ttlv.EnumStr(r.reason))
	if r.message != "" {
		text += ": " + r.message
	}
	return text
}

// refused converts an error response to an error of package secrets (section 9.1.3.2.29).
func refused(item *kmip.ResponseBatchItem, operation string) error {
	r := &refusal{operation, item.ResultReason, item.ResultMessage}
	kind := secrets.ErrUnreachable
	switch item.ResultReason {
	case kmip.ResultReasonItemNotFound:
		kind = secrets.ErrNotFound
	case kmip.ResultReasonPermissionDenied, kmip.ResultReasonAuthenticationNotSuccessful, kmip.ResultReasonSensitive,
		kmip.ResultReasonNotExtractable, kmip.ResultReasonAttestationRequired, kmip.ResultReasonAttestationFailed:
		kind = secrets.ErrDenied
	}
	return fmt.Errorf("%w: %w", kind, r)
}

// remoteError is the operation in crypto/tls's error for an alert from the other side.
const remoteError = "remote error"

// answer converts an error of the connection to one of package secrets.
func answer(err error) error {
	var theirs *tls.CertificateVerificationError
	var operation *net.OpError
	switch {
	case errors.As(err, &theirs):
		return fmt.Errorf("%w: the server's certificate is not trusted: %w: see ca-file and server-name", secrets.ErrDenied, err)
	case errors.As(err, &operation) && operation.Op == remoteError && aboutUs(operation.Err.Error()):
		return fmt.Errorf("%w: the server does not accept the client certificate: %w: see cert-file and key-file", secrets.ErrDenied, err)
	case errors.Is(err, io.EOF):
		return fmt.Errorf("%w: the server has closed the connection", secrets.ErrUnreachable)
	}
	return fmt.Errorf("%w: %w", secrets.ErrUnreachable, err)
}

// aboutUs reports whether a TLS alert (RFC 8446 section 6.2) concerns our certificate.
// It checks the text, because crypto/tls does not export the type of an alert.
func aboutUs(alert string) bool {
	return strings.Contains(alert, "certificate") || strings.Contains(alert, "access denied")
}
