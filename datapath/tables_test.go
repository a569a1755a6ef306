package datapath_test

import (
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

// onlyAnswers lets the guest open connections, and nobody else.
func onlyAnswers() *policy.Source {
	return rules(fabric.Rule{Name: "out", Direction: fabric.Out, Action: fabric.Allow, Stateful: true}, fabric.Rule{Name: "in", Direction: fabric.In, Action: fabric.Deny})
}

func TestADeviceThatCarriesAnotherPortKeepsNoFlows(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	b.judge(t, onlyAnswers())
	b.send(ip{protocol: protoUDP}.frame(2, 1, false, udp(80, 1000, data)))
	a.receive()
	answer := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 80, data))
	a.send(answer)
	if b.receive() == nil {
		t.Fatal("the answer does not pass")
	}
	b.port.Name = "another"
	b.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{b.device: b.port}}})
	if got := b.hits(t, "out"); got.Packets != 0 {
		t.Errorf("the other port begins with %d hits", got.Packets)
	}
	a.send(answer)
	b.silent()
	if got := b.hits(t, "in"); got.Packets != 1 {
		t.Errorf("%d packets denied, want 1", got.Packets)
	}
}

func TestATableThatSomebodyDeletesIsMadeAgain(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	source := onlyAnswers()
	b.judge(t, source)
	tables := mapOf(t, h.program(t, "vp_in"), "tables_v2")
	var id uint32
	if err := tables.NextKey(nil, &id); err != nil {
		t.Fatal(err)
	}
	if err := tables.Delete(id); err != nil {
		t.Fatal(err)
	}
	packet := ip{protocol: protoUDP}.frame(2, 1, false, udp(80, 1000, data))
	b.send(packet)
	a.silent()
	have, err := h.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	if have.Ports[b.device].Policy == b.port.Policy {
		t.Fatal("the port is read as if its table were there")
	}
	b.judge(t, source)
	b.send(packet)
	if a.receive() == nil {
		t.Fatal("the table was not made again")
	}
}

func TestATableThatDoesNotFitIsNotTriedAgainAtOnce(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	tooMany := rules()
	for i := range 20000 {
		tooMany.Policies[0].Spec.Rules = append(tooMany.Policies[0].Spec.Rules, fabric.Rule{Name: "r", Weight: uint16(i), Direction: fabric.In, Action: fabric.Deny})
	}
	change := datapath.Change{Put: datapath.State{Tables: map[policy.Digest]*policy.Source{tooMany.Digest(): tooMany}}}
	for range 3 {
		if err := h.Apply(context.Background(), change); err == nil || !strings.Contains(err.Error(), "policy test") {
			t.Fatalf("a table of 20,000 rules: %v", err)
		}
	}
	if got := h.Attempts(tooMany.Digest()); got != 1 {
		t.Fatalf("it was tried %d times, want 1 within its first second", got)
	}
	h.EndRefusals()
	if err := h.Apply(context.Background(), change); err == nil {
		t.Fatal("a table of 20,000 rules was made")
	}
	if got := h.Attempts(tooMany.Digest()); got != 2 {
		t.Fatalf("it was tried %d times, want 2", got)
	}
}

func TestAStationWhosePortCannotBePutYetIsReachedWhereItIs(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h, x := w.hosts[0], w.newWire()
	a, b := w.tap(h, 1, 0), w.bareTap(h, 2, 0)
	h.remote(2, x.vteps[0], netip.Addr{})
	frame := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 80, data))
	a.send(frame)
	if x.receive() == nil {
		t.Fatal("the station is not reached before the move")
	}
	b.port.Gate, b.port.Epoch, b.port.Policy = datapath.Staged, 2, policy.Digest{1}
	change := datapath.Change{Put: datapath.State{
		Ports: map[string]datapath.Port{b.device: b.port},
		FDB:   map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(2)}: {Device: b.device, Peer: x.vteps[0], Epoch: 1}},
	}}
	if err := h.ns.Do(func() error { return h.Apply(context.Background(), change) }); err == nil {
		t.Fatal("a port is put whose rules are not there")
	}
	a.send(frame)
	if x.receive() == nil {
		t.Fatal("a station that is to come is not reached where it still is")
	}
	b.port.Policy = policy.Digest{}
	change.Put.Ports[b.device] = b.port
	h.apply(change)
	have, err := h.Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	for key, want := range change.Put.FDB {
		if have.FDB[key] != want {
			t.Errorf("the station is %+v, want %+v", have.FDB[key], want)
		}
	}
}

func TestGraceIsWaitedForByAMapOfMapsToo(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	if err := w.hosts[0].GraceOfMaps(); err != nil {
		t.Fatal(err)
	}
}

func TestHitsOfAnotherHostAreAddedOnce(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	h := w.hosts[0]
	a, b := w.tap(h, 1, 0), w.tap(h, 2, 0)
	b.judge(t, rules(fabric.Rule{Name: "web", Direction: fabric.In, Action: fabric.Allow, Protocol: "udp"}))
	b.gate(datapath.Closed, 1)
	b.gate(datapath.Staged, 2)
	b.gate(datapath.Open, 2)
	packet := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 85, data))
	a.send(packet)
	if b.receive() == nil {
		t.Fatal("an allowed packet does not arrive")
	}
	before := map[policy.RuleID]datapath.Hits{policy.ID("test", "web"): {Packets: 40, Bytes: 4000, Last: time.Now().Add(-time.Hour)}}
	for range 2 {
		if err := h.InheritHits(context.Background(), b.port.Name, before); err != nil {
			t.Fatal(err)
		}
	}
	got := b.hits(t, "web")
	if got.Packets != 41 || got.Bytes != 4000+uint64(len(packet)) || time.Since(got.Last) > time.Minute {
		t.Fatalf("%+v, want those of both hosts", got)
	}
	b.gate(datapath.Closed, 2)
	b.gate(datapath.Staged, 3) // it comes back one day, and brings all of them
	if got := b.hits(t, "web"); got.Packets != 0 {
		t.Fatalf("a port that comes here begins with %d packets", got.Packets)
	}
	if err := h.InheritHits(context.Background(), "nobody", before); !errors.Is(err, fabric.ErrNotFound) {
		t.Fatalf("a port that is not here: %v", err)
	}
}

func TestHitsOfRulesThatJudgeNoMoreGiveWay(t *testing.T) {
	w := newWorld(t, 1, false)
	w.load()
	a, b := w.tap(w.hosts[0], 1, 0), w.tap(w.hosts[0], 2, 0)
	packet := ip{protocol: protoUDP}.frame(1, 2, false, udp(1000, 85, data))
	for _, name := range []string{"old", "new"} {
		b.judge(t, rules(fabric.Rule{Name: name, Direction: fabric.In, Action: fabric.Allow, Protocol: "udp"}))
		a.send(packet)
		if b.receive() == nil {
			t.Fatal("an allowed packet does not arrive")
		}
	}
	have, err := w.hosts[0].Read(context.Background())
	if err != nil {
		t.Fatal(err)
	}
	delete(have.Tables, b.port.Policy)
	w.hosts[0].apply(datapath.Change{Delete: datapath.State{Tables: have.Tables}})
	if got := b.hits(t, "old"); got.Packets != 1 {
		t.Fatalf("a rule that judges no more has %d hits, want 1 while there is room", got.Packets)
	}
	if err := w.hosts[0].PruneHits(1); err != nil {
		t.Fatal(err)
	}
	if got := b.hits(t, "old"); got.Packets != 0 {
		t.Errorf("a rule that judges no more keeps %d hits", got.Packets)
	}
	if got := b.hits(t, "new"); got.Packets != 1 {
		t.Errorf("a rule that judges has %d hits, want 1", got.Packets)
	}
}
