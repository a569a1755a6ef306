package lab

import (
	"context"
	"path/filepath"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// person gives an order to a guest's machine on a host, by the monitor that its agent does not hold.
func (r *rig) person(t *testing.T, guest string, host fabric.HostID, do func(context.Context, *qmp.Client) error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	g, err := r.Guest(guest)
	if err != nil {
		t.Fatal(err)
	}
	for _, i := range g.Instances {
		if i.Host != host {
			continue
		}
		m, err := qmp.Dial(ctx, filepath.Join(i.Dir, labMonitor), nil)
		if err != nil {
			t.Fatalf("the machine of %s on %s: %v", guest, host, err)
		}
		defer m.Close()
		if err := do(ctx, m); err != nil {
			t.Fatalf("the machine of %s on %s: %v", guest, host, err)
		}
		return
	}
	t.Fatalf("%s has no machine on %s: %+v", guest, host, g.Instances)
}

// told waits until a machine says that its migration stands so.
func (r *rig) told(t *testing.T, guest string, host fabric.HostID, status string) {
	t.Helper()
	r.person(t, guest, host, func(ctx context.Context, m *qmp.Client) error {
		return poll(ctx, 10*time.Millisecond, func() (bool, error) {
			s, err := m.Migration(ctx)
			return s.Status == status, err
		})
	})
}

// postCopy is test 12: a person has the guest go on before its memory is there, the stream breaks and is mended. Its port has one owner all
// the while, and the source, of which it needs the rest, stays and sends on.
func (r *rig) postCopy(t *testing.T) {
	g := r.plug(t, GuestOptions{Name: "post", Host: "h2", Kind: QEMU, PostCopy: true})
	before := holder(t, r.Lab, "post")
	owners := watchOwners(t, r.Lab, "post")
	stream := talk(t, r.Lab, address(g))
	speed := func(bytes int) {
		r.person(t, "post", "h2", func(ctx context.Context, m *qmp.Client) error {
			return m.Execute(ctx, "migrate-set-parameters", map[string]int{"max-bandwidth": bytes, "max-postcopy-bandwidth": bytes}, nil)
		})
	}
	r.person(t, "post", "h2", func(ctx context.Context, m *qmp.Client) error {
		return m.SetMigrationCapabilities(ctx, map[string]bool{"postcopy-ram": true})
	})
	speed(1 << 20)
	p := probe(t, r.Lab, "a", address(g), 20*time.Millisecond)
	m := startMove(t, r.Lab, g, "h3")
	reach(t, r.Lab, m, fabric.MoveCopying)
	r.told(t, "post", "h2", "active")
	r.person(t, "post", "h2", func(ctx context.Context, c *qmp.Client) error {
		return c.Execute(ctx, "migrate-start-postcopy", nil, nil)
	})
	m = reach(t, r.Lab, m, fabric.MoveActive)
	r.told(t, "post", "h2", "postcopy-active")
	for since := time.Now(); time.Since(since) < 4*time.Second; { // longer than the relay was asked to last, and than a machine that is left is kept
		r.told(t, "post", "h2", "postcopy-active")
	}
	r.person(t, "post", "h2", func(ctx context.Context, c *qmp.Client) error { return c.Execute(ctx, "migrate-pause", nil, nil) })
	r.told(t, "post", "h3", "postcopy-paused")
	r.alarmed(t, m)
	if at := holder(t, r.Lab, "post"); at.Host != "h3" || at.State != fabric.PortActive {
		t.Errorf("with the stream broken the port is %+v", at)
	}
	uri, err := r.freeURI("h3")
	if err != nil {
		t.Fatal(err)
	}
	r.person(t, "post", "h3", func(ctx context.Context, c *qmp.Client) error {
		return c.Execute(ctx, "migrate-recover", map[string]string{"uri": uri}, nil)
	})
	if phase := reach(t, r.Lab, m, fabric.MoveActive).Status.Phase; phase != fabric.MoveActive {
		t.Errorf("the move is %s before the memory has followed", phase)
	}
	speed(1 << 40)
	r.person(t, "post", "h2", func(ctx context.Context, c *qmp.Client) error {
		return c.Execute(ctx, "migrate", map[string]any{"uri": uri, "resume": true}, nil)
	})
	m = reach(t, r.Lab, m, fabric.MoveSettled)
	seen := p.end(t)
	said, err := stream.Stop()
	t.Logf("post-copy, broken and recovered: paused %.1f ms, %d relayed, %d lost; %s; TCP: %+v", m.Status.Result.GuestPauseMs, m.Status.Result.Relayed, m.Status.Result.Lost, seen, said)
	if err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	owners(before, m, "h3")
	settled(t, r.Lab, "post", "h3")
}
