package lab

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"time"
)

// Streams are a command's; nil ones read nothing and discard.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// ExitError is a command that ran and failed.
type ExitError struct {
	Command string
	// Code is the exit status, 1 to 255.
	Code int
}

// Error says which command failed.
func (e *ExitError) Error() string {
	return fmt.Sprintf("%s ended with exit status %d", e.Command, e.Code)
}

// Exec runs a command inside a guest, or on a host (h1) or the machine on the wire (wire) where no guest has that name, and returns when it has ended; a command that failed is an *ExitError. In a virtual
// machine it runs in busybox's shell, without standard input, and its standard error comes on Out. When ctx ends the
// command is ended.
func (l *Lab) Exec(ctx context.Context, guest string, argv []string, s Streams) error {
	if len(argv) == 0 {
		return errors.New("run a command in a guest: none was given; write it after --")
	}
	g, err := l.Guest(guest)
	if ns, there := l.place(guest); err != nil && there {
		return runIn(ctx, &GuestCommand{Cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), start: ns.Start}, s)
	}
	if err != nil {
		return err
	}
	if g.Kind != QEMU {
		return runIn(ctx, l.Command(ctx, guest, argv...), s)
	}
	i, err := l.whereRunning(ctx, g)
	if err != nil {
		return err
	}
	out := s.Out
	if out == nil {
		out = io.Discard
	}
	code, err := runOnConsole(ctx, i.Dir, quote(argv), out)
	if err != nil {
		return fmt.Errorf("run %s in guest %s: %w", argv[0], guest, err)
	}
	if code != 0 {
		return &ExitError{Command: argv[0], Code: code}
	}
	return nil
}

// GuestCommand is a command that was prepared for a guest's namespace.
type GuestCommand struct {
	*exec.Cmd
	start func(*exec.Cmd) error
}

// Command prepares a command in the namespace of a guest that is not a virtual machine; Start starts it.
func (l *Lab) Command(ctx context.Context, guest string, argv ...string) *GuestCommand {
	return &GuestCommand{Cmd: exec.CommandContext(ctx, argv[0], argv[1:]...), start: l.GuestNamespace(guest).Start}
}

// Start starts the command in the guest's namespace.
func (c *GuestCommand) Start() error { return c.start(c.Cmd) }

// runIn runs a prepared command with these streams.
func runIn(ctx context.Context, cmd *GuestCommand, s Streams) error {
	cmd.Stdin, cmd.Stdout, cmd.Stderr = s.In, s.Out, s.Err
	// A command that is interrupted may still say what it has to: ping counts.
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = 2 * time.Second
	if err := cmd.Start(); err != nil {
		return err
	}
	err := cmd.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	var failed *exec.ExitError
	if errors.As(err, &failed) && failed.ExitCode() > 0 {
		return &ExitError{Command: cmd.Args[0], Code: failed.ExitCode()}
	}
	return err
}

// switchLimit is how long a command waits for a virtual machine that runs nowhere, because it is just being moved.
const switchLimit = 10 * time.Second

// whereRunning waits until the guest runs somewhere.
func (l *Lab) whereRunning(ctx context.Context, g *Guest) (i Instance, err error) {
	short, cancel := context.WithTimeout(ctx, switchLimit)
	defer cancel()
	var why error
	err = poll(short, 50*time.Millisecond, func() (bool, error) {
		if i, why = g.running(short); why == nil {
			return true, nil
		}
		g, err = l.Guest(g.Name) // it may have got another instance
		return false, err
	})
	if err != nil {
		return i, errors.Join(why, err)
	}
	return i, nil
}

// running is the instance in which the guest runs now: after a move, the monitors know it first.
func (g *Guest) running(ctx context.Context) (Instance, error) {
	var states []string
	for _, i := range g.Instances {
		state, err := i.state(ctx)
		if state == "running" {
			return i, nil
		}
		states = append(states, fmt.Sprintf("%s on %s (%v)", state, i.Host, err))
	}
	return Instance{}, fmt.Errorf("guest %s does not run: %s", g.Name, strings.Join(states, ", "))
}

// quote writes the words so that a shell reads them back as they are.
func quote(argv []string) string {
	words := make([]string, len(argv))
	for i, w := range argv {
		words[i] = "'" + strings.ReplaceAll(w, "'", `'\''`) + "'"
	}
	return strings.Join(words, " ")
}
