package main

import (
	"errors"
	"fmt"
	"os/exec"
	"strconv"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"github.com/luksplug/luksplug/hotplug"
	"github.com/luksplug/luksplug/internal/hostproc"
)

// watchCommand is the hidden command that ends a storage daemon with its VM.
const watchCommand = "watch-daemon"

// watchDaemon starts a process that runs watchCommand for the storage daemon of a disk.
func watchDaemon(log logrus.FieldLogger, d hotplug.Daemon) error {
	if d.VM == 0 {
		log.Warnf("the storage daemon (process %d) will not end with the VM, whose process is not known: detach ends it", d.Process.PID)
		return nil
	}
	vm, err := hostproc.ProcessOf(d.VM)
	if err != nil {
		return fmt.Errorf("watch the storage daemon: %w", err)
	}
	cmd := exec.Command("/proc/self/exe", watchCommand, d.Dir, strconv.Itoa(vm.PID), strconv.FormatUint(vm.Start, 10))
	cmd.Env = []string{}
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := cmd.Start(); err != nil {
		return fmt.Errorf("watch the storage daemon: %w", err)
	}
	return cmd.Process.Release()
}

func newWatchDaemon() *cobra.Command {
	return &cobra.Command{
		Use:     watchCommand + " DIRECTORY PID START",
		Short:   "End a storage daemon when the VM's process ends",
		Long:    "watch-daemon is run by attach --unlock external, not by users.",
		Example: "  luksplug watch-daemon /run/luksplug/vm/UUID/vdb 4711 123456",
		Hidden:  true,
		Args:    arguments("DIRECTORY", "PID", "START"),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid, err1 := strconv.Atoi(args[1])
			start, err2 := strconv.ParseUint(args[2], 10, 64)
			if err1 != nil || err2 != nil || pid <= 0 {
				return &usageError{errors.New("a process is named by its id and its start time")}
			}
			return hotplug.WatchDaemon(cmd.Context(), args[0], hotplug.ProcessID{PID: pid, Start: start})
		},
	}
}
