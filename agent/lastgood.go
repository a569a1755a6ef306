package agent

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"time"

	"github.com/weftnet/weft/fabric"
)

// lastGood keeps the newest accepted snapshot on disk, for a start without etcd. It writes behind the agent's back: a file
// that is a moment old does no harm, as the plan never replaces what the kernel holds by something older.
type lastGood struct {
	path string
	log  *slog.Logger

	mu   sync.Mutex
	next *fabric.Snapshot // to be written; nil when the file is up to date
	wake chan struct{}
}

// The time between two writes: at least a second, and twenty times what a write takes, because a snapshot of 10,000 ports is
// some 5 MB; but never more than half a minute.
const (
	minWriteGap  = time.Second
	maxWriteGap  = 30 * time.Second
	writeGapTime = 20
)

func newLastGood(stateDir string, log *slog.Logger) *lastGood {
	return &lastGood{path: filepath.Join(stateDir, "snapshot"), log: log, wake: make(chan struct{}, 1)}
}

// keep has the snapshot written soon; only the latest counts.
func (g *lastGood) keep(s *fabric.Snapshot) {
	g.mu.Lock()
	g.next = s
	g.mu.Unlock()
	select {
	case g.wake <- struct{}{}:
	default:
	}
}

// run writes until ctx ends, and then what is left.
func (g *lastGood) run(ctx context.Context) error {
	for {
		select {
		case <-ctx.Done():
			g.flush()
			return nil
		case <-g.wake:
		}
		begun := time.Now()
		g.flush()
		pause(ctx, min(max(minWriteGap, writeGapTime*time.Since(begun)), maxWriteGap))
	}
}

// flush writes what waits. A disk that refuses does not stop the host from following the fabric.
func (g *lastGood) flush() {
	g.mu.Lock()
	next := g.next
	g.next = nil
	g.mu.Unlock()
	if next == nil {
		return
	}
	if err := seal(g.path, "snapshot", func(w io.Writer) error { return writeSnapshot(w, next) }); err != nil {
		g.log.Error("the last good state cannot be kept; a restart without etcd would start from an older one", "error", err)
	}
}

// load reads the file; nil when there is none. The error may be errDamaged.
func (g *lastGood) load(now time.Time) (*fabric.Snapshot, error) {
	body, err := unseal(g.path, "snapshot", now)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	s, err := readSnapshot(bytes.NewReader(body))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", g.path, err)
	}
	return s, nil
}

// line is one line of the file: the revision and incarnation, one object, or one location.
type line struct {
	Revision    fabric.Revision  `json:"revision,omitempty"`
	Incarnation string           `json:"incarnation,omitempty"`
	Kind        fabric.Kind      `json:"kind,omitempty"`
	Object      json.RawMessage  `json:"object,omitempty"`
	Location    *fabric.Location `json:"location,omitempty"`
}

// writeSnapshot writes a snapshot object by object, so that a large one does not stand in memory twice.
func writeSnapshot(w io.Writer, s *fabric.Snapshot) error {
	e := json.NewEncoder(w)
	if err := e.Encode(line{Revision: s.Revision, Incarnation: s.Incarnation}); err != nil {
		return err
	}
	for _, write := range []func() error{
		func() error { return writeObjects(e, fabric.KindHost, s.Hosts) },
		func() error { return writeObjects(e, fabric.KindSwitch, s.Switches) },
		func() error { return writeObjects(e, fabric.KindPort, s.Ports) },
		func() error { return writeObjects(e, fabric.KindProfile, s.Profiles) },
		func() error { return writeObjects(e, fabric.KindGroup, s.Groups) },
		func() error { return writeObjects(e, fabric.KindPolicy, s.Policies) },
		func() error { return writeObjects(e, fabric.KindMirror, s.Mirrors) },
		func() error { return writeObjects(e, fabric.KindMove, s.Moves) },
	} {
		if err := write(); err != nil {
			return err
		}
	}
	for _, l := range s.Locations {
		if err := e.Encode(line{Location: &l}); err != nil {
			return err
		}
	}
	return nil
}

func writeObjects[K comparable, V any](e *json.Encoder, kind fabric.Kind, objects map[K]V) error {
	for _, o := range objects {
		text, err := json.Marshal(o)
		if err != nil {
			return err
		}
		if err := e.Encode(line{Kind: kind, Object: text}); err != nil {
			return err
		}
	}
	return nil
}

// readSnapshot is the inverse of writeSnapshot.
func readSnapshot(r io.Reader) (*fabric.Snapshot, error) {
	s := &fabric.Snapshot{
		Hosts: map[fabric.HostID]*fabric.Host{}, Switches: map[fabric.SwitchID]*fabric.Switch{}, Ports: map[fabric.PortID]*fabric.Port{},
		Profiles: map[string]*fabric.Profile{}, Groups: map[string]*fabric.Group{}, Moves: map[fabric.MoveID]*fabric.Move{},
		Policies: map[string]*fabric.Policy{}, Mirrors: map[string]*fabric.Mirror{}, Locations: map[fabric.PortID]fabric.Location{},
	}
	d := json.NewDecoder(bufio.NewReader(r))
	var head line
	if err := d.Decode(&head); err != nil {
		return nil, fmt.Errorf("read its first line: %w", err)
	}
	s.Revision, s.Incarnation = head.Revision, head.Incarnation
	for {
		var l line
		err := d.Decode(&l)
		if errors.Is(err, io.EOF) {
			return s, nil
		}
		if err != nil {
			return nil, err
		}
		if err := l.into(s); err != nil {
			return nil, err
		}
	}
}

// into puts what the line holds into the snapshot.
func (l line) into(s *fabric.Snapshot) error {
	if l.Location != nil {
		s.Locations[l.Location.Port] = *l.Location
		return nil
	}
	o, err := fabric.New(l.Kind)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(l.Object, o); err != nil {
		return fmt.Errorf("read a %s: %w", l.Kind, err)
	}
	if o.Meta().Name == "" {
		return fmt.Errorf("read a %s: it has no name", l.Kind)
	}
	switch o := o.(type) {
	case *fabric.Host:
		s.Hosts[fabric.HostID(o.Metadata.Name)] = o
	case *fabric.Switch:
		s.Switches[fabric.SwitchID(o.Metadata.Name)] = o
	case *fabric.Port:
		s.Ports[fabric.PortID(o.Metadata.Name)] = o
	case *fabric.Profile:
		s.Profiles[o.Metadata.Name] = o
	case *fabric.Group:
		s.Groups[o.Metadata.Name] = o
	case *fabric.Policy:
		s.Policies[o.Metadata.Name] = o
	case *fabric.Mirror:
		s.Mirrors[o.Metadata.Name] = o
	case *fabric.Move:
		s.Moves[fabric.MoveID(o.Metadata.Name)] = o
	}
	return nil
}
