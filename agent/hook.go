package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// incomingRequest is what the incoming hook reads on standard input.
type incomingRequest struct {
	VM    string          `json:"vm"`
	Ports []fabric.PortID `json:"ports"`
	Move  fabric.MoveID   `json:"move"`
}

// incomingAnswer is what it prints.
type incomingAnswer struct {
	// URI is where the destination waits, for QMP's migrate.
	URI         string `json:"uri"`
	Attachments []struct {
		Port fabric.PortID `json:"port"`
		api.Attachment
	} `json:"attachments"`
}

// hookEnds is how long a hook that is told to end may take for it, and its children to let its output go.
const hookEnds = 3 * time.Second

// maxAnswer bounds what a hook prints, in bytes.
const maxAnswer = 1 << 20

// runIncoming has the hook start the machine that waits for the guest. Nothing of the answer is trusted but that it names
// devices of this host.
func runIncoming(ctx context.Context, command []string, move *fabric.Move) (answer incomingAnswer, err error) {
	if len(command) == 0 {
		return answer, errors.New("this host cannot receive guests: set hooks.incoming in its agent.yaml")
	}
	request, err := json.Marshal(incomingRequest{VM: move.Spec.VM, Ports: move.Spec.Ports, Move: fabric.MoveID(move.Metadata.Name)})
	if err != nil {
		return answer, err
	}
	out, complaint := &bounded{limit: maxAnswer}, &bounded{limit: 4096}
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(request), out, complaint
	// A move that is given up meanwhile must leave no machine behind: the hook is told, and ends what it has started.
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = hookEnds // a child of the hook may hold its output open
	if err := cmd.Run(); err != nil {
		return answer, fmt.Errorf("run the incoming hook %s: %w: %s", command[0], err, strings.TrimSpace(complaint.String()))
	}
	if answer, err = readIncoming(out.Bytes(), move); err != nil {
		return answer, fmt.Errorf("read the answer of the incoming hook %s: %w", command[0], err)
	}
	return answer, nil
}

// readIncoming reads what a hook has printed for a move.
func readIncoming(printed []byte, move *fabric.Move) (answer incomingAnswer, err error) {
	if err := json.Unmarshal(printed, &answer); err != nil {
		return answer, err
	}
	return answer, answer.check(move)
}

// check sees that the answer is about the move: one device for each of its ports, and nothing else.
func (r incomingAnswer) check(move *fabric.Move) error {
	if r.URI == "" {
		return errors.New("the incoming hook names no uri")
	}
	seen := map[fabric.PortID]bool{}
	for _, a := range r.Attachments {
		if !slices.Contains(move.Spec.Ports, a.Port) {
			return fmt.Errorf("the incoming hook attaches port %s, which is not of move %s", a.Port, move.Metadata.Name)
		}
		if seen[a.Port] {
			return fmt.Errorf("the incoming hook attaches port %s twice", a.Port)
		}
		seen[a.Port] = true
	}
	for _, p := range move.Spec.Ports {
		if !seen[p] {
			return fmt.Errorf("the incoming hook has no device for port %s", p)
		}
	}
	return nil
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
