package lab

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// Process is one process, told apart from a later one with the same number by its start time.
type Process struct {
	PID int `json:"pid"`
	// Start is field 22 of /proc/PID/stat, in clock ticks since boot.
	Start uint64 `json:"start"`
}

// processOf identifies a running process; the zero Process when there is none of this number.
func processOf(pid int) Process {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return Process{}
	}
	// The name in field 2 may have spaces and parentheses; the fields after it do not.
	text := string(b)
	fields := strings.Fields(text[strings.LastIndexByte(text, ')')+1:])
	if len(fields) < 20 || fields[0] == "Z" {
		return Process{}
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return Process{}
	}
	return Process{PID: pid, Start: start}
}

// Alive reports whether the process still runs.
func (p Process) Alive() bool { return p.PID > 0 && processOf(p.PID) == p }

// Signal sends a signal if the process still runs.
func (p Process) Signal(s syscall.Signal) error {
	if !p.Alive() {
		return nil
	}
	if err := syscall.Kill(p.PID, s); err != nil && !errors.Is(err, syscall.ESRCH) {
		return fmt.Errorf("signal process %d: %w", p.PID, err)
	}
	return nil
}

// Kill ends the process with SIGKILL and returns when it is gone.
func (p Process) Kill() error {
	if !p.Alive() {
		return nil
	}
	fd, err := unix.PidfdOpen(p.PID, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("end process %d: %w", p.PID, err)
	}
	defer unix.Close(fd)
	if !p.Alive() { // the number was given to somebody else before it was opened
		return nil
	}
	if err := unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
		return fmt.Errorf("end process %d: %w", p.PID, err)
	}
	return awaitExit(fd, p.PID)
}

// awaitExit waits until a killed process is gone; one in uninterruptible sleep is given 10 s.
func awaitExit(pidfd, pid int) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		n, err := unix.Poll([]unix.PollFd{{Fd: int32(pidfd), Events: unix.POLLIN}}, int(time.Until(deadline).Milliseconds()))
		switch {
		case errors.Is(err, unix.EINTR):
		case err != nil:
			return fmt.Errorf("wait for process %d to end: %w", pid, err)
		case n == 0:
			return fmt.Errorf("process %d does not end although it was killed; see /proc/%d/stack", pid, pid)
		default:
			return nil
		}
	}
}

// detach starts a program in the namespace that outlives this one: a session of its own, output to the log file.
func detach(ns nic.Namespace, log string, cmd *exec.Cmd) (Process, error) {
	out, err := os.OpenFile(log, os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	if err != nil {
		return Process{}, fmt.Errorf("open the log of %s: %w", cmd.Path, err)
	}
	defer out.Close()
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := ns.Start(cmd); err != nil {
		return Process{}, err
	}
	p := processOf(cmd.Process.Pid)
	go func() { _ = cmd.Wait() }() // no zombie while this process lives; afterwards init reaps
	return p, nil
}

// clearNamespace ends every process in the namespace and removes it.
func clearNamespace(ns nic.Namespace) error {
	for range 10 { // a process may fork while we look
		pids, err := ns.Processes()
		if err != nil {
			return err
		}
		if len(pids) == 0 {
			return ns.Delete()
		}
		for _, pid := range pids {
			if pid == os.Getpid() {
				return fmt.Errorf("remove namespace %s: this very process runs in it; run the command outside", ns.Name)
			}
			if err := processOf(pid).Kill(); err != nil {
				return err
			}
		}
	}
	return fmt.Errorf("remove namespace %s: processes keep appearing in it; see: ip netns pids %s", ns.Name, ns.Name)
}

// tail is the end of a log file, for errors.
func tail(path string) string {
	b, err := os.ReadFile(path)
	if err != nil {
		return ""
	}
	text := strings.TrimSpace(string(b))
	if lines := strings.Split(text, "\n"); len(lines) > 8 {
		text = strings.Join(lines[len(lines)-8:], "\n")
	}
	return text
}

// poll calls done until it says so, fails, or ctx ends; the error of a ctx that ended is its cause.
func poll(ctx context.Context, every time.Duration, done func() (bool, error)) error {
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		ok, err := done()
		if ok || err != nil {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-tick.C:
		}
	}
}
