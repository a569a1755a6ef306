package lab

import (
	"context"
	"errors"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// TestMigrationWithoutEtcd is test 13: etcd loses its majority while a guest moves between two hosts that do not run it. With a majority
// gone before, a move is refused and the guest stays; gone once the move is granted and both hosts have heard of it, the guest arrives as if
// nothing were, and the records catch up when etcd is back.
func TestMigrationWithoutEtcd(t *testing.T) {
	l := live(t, Options{Name: "noetcd", Hosts: 5})
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h4", Pause: guestPause, Copy: time.Second})
	echoServer(t, l, "b", ":7")
	stream := talk(t, l, address(b))
	p := probe(t, l, "a", address(b), 2*time.Millisecond)
	release := holdHooks(t, l)
	m := startMove(t, l, b, "h5")
	heard(t, l, m)
	etcdStops(t, l)
	release()
	r := &rig{Lab: l, t: t}
	r.runsAt(t, "b", "h5")
	answered := waitAnswers(t, p, 0)
	waitAnswers(t, p, answered+500) // a second of them at its new host, by the relay of the old one
	if _, err := tryMove(t.Context(), l, "b", "h4"); err == nil {
		t.Error("a move was granted without etcd")
	} else {
		t.Logf("without etcd: %v", err)
	}
	etcdReturns(t, l)
	back := time.Now()
	m = reach(t, l, m, fabric.MoveActive)
	took := time.Since(back)
	m = reach(t, l, m, fabric.MoveSettled)
	seen := p.end(t)
	said, err := stream.Stop()
	if _, recorded := m.Status.At[fabric.MoveCopying]; recorded {
		t.Error("the copy was recorded before it began: etcd was not away")
	}
	t.Logf("etcd was away from the grant on: paused %.1f ms, fabric added %.2f ms, %d relayed, %d lost; %s; TCP: %+v; recorded %v after etcd was back",
		m.Status.Result.GuestPauseMs, m.Status.Result.FabricGapMs, m.Status.Result.Relayed, m.Status.Result.Lost, seen, said, took.Round(time.Millisecond))
	t.Logf("the first answer came %v after it ran", seen.silence(m.Status.At[fabric.MoveActive]))
	if err != nil {
		t.Errorf("the TCP connection broke: %v", err)
	}
	if seen.Lost > int(m.Status.Result.Lost) || seen.Duplicated > 0 {
		t.Errorf("%s; the move admits to %d; sent these ms after the stop: %v", seen, m.Status.Result.Lost, seen.around(m.Status.At[fabric.MoveSwitched]))
	}
	settled(t, l, "b", "h5")
	active(t, l, "b", "h5")
}

// holdHooks keeps the hook of a move's destination waiting, by the lock of the lab's record, until it is released.
func holdHooks(t *testing.T, l *Lab) (release func()) {
	t.Helper()
	lock, err := os.Open(l.Dir)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { lock.Close() })
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return func() { lock.Close() }
}

// heard waits until every host has the move's grant in force.
func heard(t *testing.T, l *Lab, m *fabric.Move) {
	t.Helper()
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	o, err := c.Get(ctx, fabric.KindMove, m.Metadata.Name)
	if err != nil {
		t.Fatal(err)
	}
	revision := o.Meta().Revision
	f, err := c.WaitInForce(ctx, revision)
	if err != nil || !f.Done {
		t.Fatalf("not every host has heard of the move (revision %d): %+v, %v", revision, f, err)
	}
}

// etcdStops freezes two of the three agents that run etcd: the third cannot answer for a majority.
func etcdStops(t *testing.T, l *Lab) {
	t.Helper()
	for _, host := range []fabric.HostID{"h2", "h3"} {
		if err := l.FreezeAgent(host); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.ThawAgent(host) })
	}
}

func etcdReturns(t *testing.T, l *Lab) {
	t.Helper()
	if err := errors.Join(l.ThawAgent("h2"), l.ThawAgent("h3")); err != nil {
		t.Fatal(err)
	}
}
