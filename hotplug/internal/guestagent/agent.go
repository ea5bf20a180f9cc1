// Package guestagent asks the agent in a guest (qemu-ga, QEMU's qga/qapi-schema.json) which file systems are mounted,
// and finds those of one disk among them.
//
// What the agent says is the guest's word. A guest can have a detach of its own disks refused, or delayed by
// [Limit], and nothing else: it is asked one question, and its answer is bounded in time and length.
package guestagent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

const (
	// Limit bounds the whole conversation with an agent. An agent answers in milliseconds; one in a guest that is
	// overloaded is not worth a longer wait.
	Limit = 5 * time.Second
	// longestReply bounds a reply, in bytes: some thousand file systems.
	longestReply = 1 << 20
)

// Agent sends one command, a JSON object, to the agent of a guest, and returns the reply, a JSON object with the
// member return or error. It returns soon after ctx has ended. The error wraps [ErrNone] if the VM has no agent that
// could be asked.
type Agent func(ctx context.Context, command []byte) (reply []byte, err error)

// ErrNone reports that a VM has no channel to an agent, or that nothing in the guest has opened it.
var ErrNone = errors.New("the VM has no guest agent that answers")

// FileSystem is a mounted file system (GuestFilesystemInfo).
type FileSystem struct {
	Name       string `json:"name"` // of its block device in the guest, such as "vdb1" or "dm-0"
	MountPoint string `json:"mountpoint"`
	Type       string `json:"type"`
	// Disks are those that it is on. The agent looks through partitions, and through device-mapper and other devices
	// that consist of several disks.
	Disks []Disk `json:"disk"`
}

// Disk is a disk as the guest sees it (GuestDiskAddress). Numbers are -1 where the agent does not know them.
type Disk struct {
	Controller struct {
		Domain   int `json:"domain"`
		Bus      int `json:"bus"`
		Slot     int `json:"slot"`
		Function int `json:"function"`
	} `json:"pci-controller"`
	BusType string `json:"bus-type"`
	Bus     int    `json:"bus"`
	Target  int    `json:"target"`
	Unit    int    `json:"unit"`
	Serial  string `json:"serial"`
}

// FileSystems asks the agent for the mounted file systems (guest-get-fsinfo, since QEMU 2.2). ctx should end within
// [Limit].
func FileSystems(ctx context.Context, ask Agent) ([]FileSystem, error) {
	reply, err := ask(ctx, []byte(`{"execute":"guest-get-fsinfo"}`))
	if err != nil {
		return nil, err
	}
	if len(reply) > longestReply {
		return nil, errTooLong
	}
	var answer struct {
		Return *[]FileSystem `json:"return"`
		Error  *struct {
			Description string `json:"desc"`
		} `json:"error"`
	}
	switch err := json.Unmarshal(reply, &answer); {
	case err != nil:
		return nil, fmt.Errorf("the guest agent's answer is not the documented one: %w", err)
	case answer.Error != nil:
		return nil, fmt.Errorf("the guest agent refuses: %s", answer.Error.Description)
	case answer.Return == nil:
		return nil, errors.New("the guest agent's answer has neither a result nor an error")
	}
	return *answer.Return, nil
}

var errTooLong = fmt.Errorf("the guest agent's answer is longer than %d bytes", longestReply)
