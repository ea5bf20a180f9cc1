// Package qmp is a client for the QEMU Machine Protocol: the JSON protocol over which a running QEMU takes
// commands and reports events. It is independent of disks and of the meaning of secrets; it sends each command
// exactly once and reports its outcome.
//
// # Connecting
//
// [Dial] connects to a QEMU's monitor over a unix socket or TCP, and [NewConn] takes a connection that is
// open already. Other transports are separate packages, each with a [Transport] for [NewClient]: qmplibvirt
// uses libvirt's RPC, goqemu a monitor of digitalocean/go-qemu. All give the same [Client]:
//
//	client, err := qmp.Dial(ctx, "/run/vm1/qmp.sock")
//	...
//	defer client.Close()
//	value, err := client.Execute(ctx, qmp.Command{
//		Execute:   "blockdev-del",
//		Arguments: qmp.Object{{Name: "node-name", Value: "disk0"}},
//	})
//
// A QMP monitor serves one client at a time: a second client is accepted by the
// kernel, but never greeted. Dial waits for the greeting until its context ends
// and then returns [ErrNoGreeting]. QMP has no authentication, and every peer
// that connects controls the QEMU process: prefer a unix socket in a private directory.
//
// # Three outcomes
//
// A command is done (no error), failed, or its outcome is unknown:
//
//   - [*Error]: QEMU answered, and refused. Match it with errors.Is against
//     [ErrNodeNotFound], [ErrWrongPassphrase] and the others of errtext.go.
//   - [*UnknownOutcomeError]: at least a part of the command was sent, and no reply came: the context ended,
//     or the connection was lost. Query QEMU for what exists before going on.
//   - any other error: the command was not sent ([ErrClosed], [ErrConnectionLost], [ErrEncode], the context's
//     own error): nothing happened.
//
// # Guarantees
//
//   - Every command carries an id, and replies are matched by it. Any number of commands may be in flight,
//     from any number of goroutines. A reply that comes after its caller has left is dropped, never given to
//     another. (libvirt sets ids itself; its RPC serial numbers match the replies.)
//   - A message is a JSON object, in one line or, from a monitor with pretty=on, in several.
//   - A message has a bound of 16 MiB, see [WithLineLimit]; a larger one ends the connection. (The largest of a
//     real QEMU, the reply to query-qmp-schema, has 236 kB.)
//   - Events may come at any time. Each [Subscription] has a queue, so that a slow listener never delays a
//     reply. A listener that falls behind by more than the queue holds finds its subscription ended with
//     [ErrEventsLost]. A subscription made before a command sees every event that the command causes; an event
//     that QEMU sent before a reply is queued before that reply is returned.
//   - Loss of the connection wakes every waiting caller at once.
//   - The "oob" capability is never enabled. With it, QEMU mixes up passed file descriptors; passing them
//     ([Command].File) does not need it. Each descriptor travels in a sendmsg of its own, with its own
//     command. [Client.PassesFiles] reports whether a client takes files at all.
//   - A command that could only be written in part, because QEMU stopped reading, makes the stream useless;
//     the client then closes it rather than let the next command be swallowed.
//
// # Secrets
//
// A secret is marked by its type, [Sensitive], and never by the command that carries it. It is real on the
// wire only; fmt, JSON, logs and the trace ([WithTrace]) show "[redacted]", and replies, error descriptions
// and trace entries of a command are scrubbed of the exact values that it carried. That is complete because
// [Object] takes only a closed set of value types: a struct that could hide a secret is an encoding error.
// The client cannot recognise a secret that it queries (qom-get of a secret object's data), nor one passed as
// a plain string: do neither.
//
// # Schema
//
// [Client.Schema] queries QEMU for a description of its own commands, once per connection. The answer takes
// QEMU some 50 ms in its main loop, for which the guest stops; [WithSchemaSource] has the client try another
// source first. [Schema.Supports] answers questions such as "does blockdev-add know luks.header?", and
// [Schema.Validate] checks a whole command before it is sent.
//
// The protocol is specified in QEMU's docs/interop/qmp-spec.rst, the
// schema in qapi/introspect.json. The package is for Linux.
package qmp
