// Package libvirt lets the guests of a host's libvirt use the fabric as they are: it reads what libvirt tells its hooks, puts
// those hooks and the networks that stand for switches in place, and follows a guest through a live migration that libvirt
// drives. It speaks to libvirt through the program virsh, so that it depends on no library of libvirt and on none of its
// versions; events are those of QEMU itself, which virsh passes on.
package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Defaults of a Host.
const (
	SystemURI   = "qemu:///system"
	SystemHooks = "/etc/libvirt/hooks"
)

// Host is one libvirt daemon; the zero value is the system's.
type Host struct {
	// URI is how virsh reaches the daemon; SystemURI when empty.
	URI string
	// Hooks is the directory in which the daemon looks for hooks; SystemHooks when empty.
	Hooks string
}

// ErrAbsent: there is no virsh here, or no daemon answers it.
var ErrAbsent = errors.New("libvirt does not answer")

// answerWithin is how long a command of virsh may take. A daemon that waits for a hook answers late.
const answerWithin = 20 * time.Second

// maxAnswer bounds what virsh prints, in bytes.
const maxAnswer = 4 << 20

// virsh runs one command and returns what it printed. The error wraps ErrAbsent when the daemon was not reached.
func (h Host) virsh(ctx context.Context, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	cmd := h.command(ctx, args...)
	out, complaint := &bounded{limit: maxAnswer}, &bounded{limit: 4096}
	cmd.Stdout, cmd.Stderr = out, complaint
	err := cmd.Run()
	if err == nil {
		return out.String(), nil
	}
	why := strings.TrimPrefix(strings.TrimSpace(complaint.String()), "error: ")
	var ended *exec.ExitError
	if !errors.As(err, &ended) || strings.Contains(why, "failed to connect to the hypervisor") {
		return "", fmt.Errorf("virsh %s on %s: %w: %w: %s: start libvirtd, and install libvirt-clients where virsh is missing", args[0], h.uri(), ErrAbsent, err, why)
	}
	return "", &CommandError{Command: strings.Join(args, " "), Text: why}
}

// CommandError is a command that libvirt refused.
type CommandError struct{ Command, Text string }

// Error is what virsh said.
func (e *CommandError) Error() string { return "virsh " + e.Command + ": " + e.Text }

// command prepares virsh in a language and with an environment of its own.
func (h Host) command(ctx context.Context, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "virsh", append([]string{"--quiet", "--connect", h.uri()}, args...)...)
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin", "LC_ALL=C", "HOME=/"}
	cmd.WaitDelay = time.Second
	return cmd
}

func (h Host) uri() string {
	if h.URI == "" {
		return SystemURI
	}
	return h.URI
}

func (h Host) hooks() string {
	if h.Hooks == "" {
		return SystemHooks
	}
	return h.Hooks
}

// bounded keeps the first limit bytes that are written to it.
type bounded struct {
	bytes.Buffer
	limit int
}

// Write never fails: a command that prints too much is not stopped by it.
func (b *bounded) Write(p []byte) (int, error) {
	if room := b.limit - b.Len(); room > 0 {
		b.Buffer.Write(p[:min(len(p), room)])
	}
	return len(p), nil
}
