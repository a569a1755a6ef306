package lab

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"path/filepath"
	"slices"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// IncomingRequest is what an agent's incoming hook reads on standard input.
type IncomingRequest struct {
	VM    string          `json:"vm"`
	Ports []fabric.PortID `json:"ports"`
	Move  fabric.MoveID   `json:"move"`
}

// IncomingAnswer is what it prints.
type IncomingAnswer struct {
	// URI is where the destination waits, for QMP's migrate.
	URI         string               `json:"uri"`
	Attachments []IncomingAttachment `json:"attachments"`
}

// IncomingAttachment is a device that is ready for one of the ports.
type IncomingAttachment struct {
	Port fabric.PortID `json:"port"`
	api.Attachment
}

// Incoming is the agents' incoming hook: it starts the destination's half of a guest on the host and leaves somebody behind
// who clears up after the move.
func (l *Lab) Incoming(ctx context.Context, host fabric.HostID, in io.Reader, out io.Writer) error {
	var request IncomingRequest
	if err := json.NewDecoder(in).Decode(&request); err != nil {
		return fmt.Errorf("read the request on standard input: %w", err)
	}
	if err := l.checkHost(host); err != nil {
		return err
	}
	g, err := l.wanted(request)
	if err != nil {
		return err
	}
	if g.Kind == Veth {
		return fmt.Errorf("guest %s is behind a veth, as a container is, and has no hypervisor that could move it; make it without --veth", g.Name)
	}
	if g.Host() == host {
		return fmt.Errorf("guest %s is on %s already: %w", g.Name, host, fabric.ErrConflict)
	}
	for _, i := range g.Instances[1:] { // of a move that was given up
		if err := l.endInstance(i); err != nil {
			return err
		}
	}
	instance, uri, err := l.await(ctx, g, host)
	if err != nil {
		return errors.Join(fmt.Errorf("start the destination of %s on %s: %w", g.Name, host, err), l.endInstance(instance))
	}
	if err := l.updateGuest(g.Name, func(g *Guest) { g.Instances = append(g.Instances[:1], instance) }); err != nil {
		return err
	}
	keep := exec.Command(l.Binary, "lab", "hook", "keep", "--dir", l.Dir, "--host", string(host), g.Name, string(request.Move))
	if _, err := detach(l.HostNamespace(host), filepath.Join(instance.Dir, "keep.log"), keep); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(IncomingAnswer{URI: uri, Attachments: []IncomingAttachment{{g.Port(), instance.attachment()}}})
}

// wanted is the guest a move is about; its port may have been made by hand, for a VM of another name.
func (l *Lab) wanted(r IncomingRequest) (*Guest, error) {
	for _, port := range r.Ports {
		if g, err := l.Guest(string(port)); err == nil {
			return g, nil
		}
	}
	return l.Guest(r.VM)
}

// await starts what the guest will arrive in.
func (l *Lab) await(ctx context.Context, g *Guest, host fabric.HostID) (Instance, string, error) {
	if g.Kind == QEMU {
		return l.awaitQEMU(ctx, g, host)
	}
	return l.awaitPump(ctx, g, host)
}

// keepLimit is how long a move may take before the lab gives up clearing up after it; a relay lasts an hour at most.
const keepLimit = 2 * time.Hour

// Keep does what a manager of virtual machines does around a move: once the move is over, it ends the half of the guest
// that is not needed any more.
func (l *Lab) Keep(ctx context.Context, host fabric.HostID, guest string, move fabric.MoveID) error {
	ctx, cancel := context.WithTimeoutCause(ctx, keepLimit, fmt.Errorf("the move has no end after %s", keepLimit))
	defer cancel()
	c, err := l.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	var phase fabric.Phase
	err = poll(ctx, 100*time.Millisecond, func() (bool, error) {
		o, err := c.Get(ctx, fabric.KindMove, string(move))
		if errors.Is(err, fabric.ErrNotFound) {
			return true, nil
		}
		if err == nil {
			phase = o.(*fabric.Move).Status.Phase
		}
		return phase == fabric.MoveSettled || phase == fabric.MoveFailed || phase == fabric.MoveAborted, nil
	})
	if err != nil {
		return fmt.Errorf("keep guest %s: %w", guest, err)
	}
	return l.settle(ctx, guest)
}

// settle keeps the instance in which the guest runs and ends the others.
func (l *Lab) settle(ctx context.Context, guest string) error {
	g, err := l.Guest(guest)
	if err != nil {
		return err
	}
	stays, err := g.running(ctx)
	if err != nil {
		return err
	}
	for _, i := range g.Instances {
		if i.Process == stays.Process {
			continue
		}
		if m, err := qmp.Dial(ctx, filepath.Join(i.Dir, labMonitor), nil); err == nil {
			_ = m.Quit(ctx)
			m.Close()
		}
		if err := l.endInstance(i); err != nil {
			return err
		}
	}
	return l.updateGuest(guest, func(g *Guest) {
		g.Instances = slices.DeleteFunc(g.Instances, func(i Instance) bool { return i.Process != stays.Process })
	})
}
