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
	source, err := l.vacate(ctx, g, host)
	if err != nil {
		return err
	}
	instance, uri, err := l.await(ctx, g, host)
	if err != nil {
		return errors.Join(fmt.Errorf("start the destination of %s on %s: %w", g.Name, host, err), l.endInstance(instance))
	}
	instance.Move, instance.From = request.Move, source.Process
	if err := l.updateGuest(g.Name, func(g *Guest) { g.Instances = []Instance{source, instance} }); err != nil {
		return err
	}
	keep := exec.Command(l.Binary, "lab", "hook", "keep", "--dir", l.Dir, "--host", string(host), g.Name, string(request.Move))
	if _, err := detach(l.HostNamespace(host), filepath.Join(instance.Dir, "keep.log"), keep); err != nil {
		return err
	}
	return json.NewEncoder(out).Encode(IncomingAnswer{URI: uri, Attachments: []IncomingAttachment{{g.Port(), instance.attachment()}}})
}

// vacate finds where the guest runs, and ends what earlier moves have left: one that was given up, or one whose old host still
// sends late packets on, which needs no machine.
func (l *Lab) vacate(ctx context.Context, g *Guest, host fabric.HostID) (Instance, error) {
	source, err := g.running(ctx)
	if err != nil {
		return source, err
	}
	if source.Host == host {
		return source, fmt.Errorf("guest %s is on %s already: %w", g.Name, host, fabric.ErrConflict)
	}
	for _, i := range g.Instances {
		if i.Process == source.Process {
			continue
		}
		if err := l.endInstance(i); err != nil {
			return source, err
		}
	}
	return source, nil
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
	arrived := false
	err = poll(ctx, 100*time.Millisecond, func() (bool, error) {
		o, err := c.Get(ctx, fabric.KindMove, string(move))
		if errors.Is(err, fabric.ErrNotFound) {
			return true, nil
		}
		if err == nil {
			phase = o.(*fabric.Move).Status.Phase
		}
		if !arrived && (phase == fabric.MoveActive || phase == fabric.MoveSettled) {
			arrived = true
			err = l.arrived(guest, move)
			return err != nil || phase == fabric.MoveSettled, err
		}
		return phase == fabric.MoveSettled || phase == fabric.MoveFailed || phase == fabric.MoveAborted, nil
	})
	if err != nil {
		return fmt.Errorf("keep guest %s: %w", guest, err)
	}
	return l.settle(ctx, guest, move)
}

// arrived writes down that the guest runs where the move has brought it.
func (l *Lab) arrived(guest string, move fabric.MoveID) error {
	return l.updateGuest(guest, func(g *Guest) {
		slices.SortStableFunc(g.Instances, func(a, b Instance) int {
			switch {
			case a.Move == move && b.Move != move:
				return -1
			case b.Move == move && a.Move != move:
				return 1
			}
			return 0
		})
	})
}

// settle ends that half of a move in which the guest does not run. What a later move has started is not its business.
func (l *Lab) settle(ctx context.Context, guest string, move fabric.MoveID) error {
	g, err := l.Guest(guest)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(g.Instances, func(i Instance) bool { return i.Move == move })
	if at < 0 {
		return nil
	}
	stays, err := g.running(ctx)
	if err != nil {
		return err
	}
	for _, i := range g.Instances {
		if i.Process == stays.Process || i.Move != move && i.Process != g.Instances[at].From {
			continue
		}
		if m, err := qmp.Dial(ctx, filepath.Join(i.Dir, labMonitor), nil); err == nil {
			_ = m.Quit(ctx)
			m.Close()
		}
		if err := l.endInstance(i); err != nil {
			return err
		}
		err := l.updateGuest(guest, func(g *Guest) {
			g.Instances = slices.DeleteFunc(g.Instances, func(j Instance) bool { return j.Process == i.Process })
		})
		if err != nil {
			return err
		}
	}
	return nil
}
