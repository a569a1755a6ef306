package datapath_test

import (
	"bytes"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/tracing"
)

// handover is a move at the moment when its guest has stopped at the source, which alone knows the guest's connections: with a
// neighbour there and with a station on a third host, which both may answer what they were asked.
type handover struct {
	left, staged    *tapGuest
	near, far       *tapGuest
	answers, others [2][]byte // of near and far: to what they were asked, and to what nobody asked
}

func newHandover(t *testing.T) *handover {
	w := newWorld(t, 3, false)
	w.load()
	from, to := w.hosts[0], w.hosts[1]
	o := &handover{near: w.tap(from, 2, 0), far: w.tap(w.hosts[2], 3, 0), left: w.tap(from, 1, 0), staged: w.bareTap(to, 1, 0)}
	o.left.judge(t, onlyAnswers())
	for i, s := range []*tapGuest{o.near, o.far} {
		o.left.send(ip{protocol: protoUDP}.frame(1, 2+i, false, udp(80, 1000, data)))
		s.receive()
		o.answers[i] = ip{protocol: protoUDP}.frame(2+i, 1, false, udp(1000, 80, data))
		o.others[i] = ip{protocol: protoUDP}.frame(2+i, 1, false, udp(1000, 81, data))
	}
	o.staged.port.Gate, o.staged.port.Epoch, o.staged.port.Handover = datapath.Staged, 2, true
	o.staged.judge(t, onlyAnswers())
	to.place(datapath.FDB{Device: o.staged.device, Peer: from.vtep, Epoch: 2})
	o.left.port.Gate, o.left.port.Handover = datapath.Relay, true
	from.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{o.left.device: o.left.port}}})
	from.place(datapath.FDB{Device: o.left.device, Peer: to.vtep, Relay: true, Epoch: 1})
	return o
}

// put brings a port's new settings in force.
func (g *tapGuest) put() {
	g.host.apply(datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{g.device: g.port}}})
}

func (o *handover) ask(t *testing.T, i int, frame []byte) {
	t.Helper()
	[]*tapGuest{o.near, o.far}[i].send(frame)
}

func TestTheSourceOfAMoveJudgesUntilTheDestinationKnowsTheConnections(t *testing.T) {
	o := newHandover(t)
	denied := uint64(0)
	dropped := func(claim string) {
		t.Helper()
		denied++
		eventually(t, claim, func() bool { return o.staged.outDrops(tracing.ReasonPolicyDenied) == denied })
	}
	for i := range o.answers {
		o.ask(t, i, o.answers[i])
		if !bytes.Equal(o.staged.receive(), o.answers[i]) {
			t.Fatalf("the answer of station %d is lost: only the source knows that it was asked", 2+i)
		}
		o.ask(t, i, o.others[i])
		dropped("what nobody asked for is dropped")
	}
	o.left.port.Handover = false
	o.left.put()
	for i := range o.answers {
		o.ask(t, i, o.answers[i])
		dropped("a source that does not judge is taken at no word")
	}
	o.left.port.Handover = true
	o.left.put()
	o.staged.port.Handover = false
	o.staged.put()
	for i := range o.answers {
		o.ask(t, i, o.answers[i])
		dropped("the destination judges for itself")
	}
	o.staged.silent()
}

func TestNobodyElseIsTakenAtHisWord(t *testing.T) {
	o := newHandover(t)
	third := o.far.host
	third.place(datapath.FDB{Peer: o.staged.host.vtep, Epoch: 2})
	o.ask(t, 1, o.answers[1])
	eventually(t, "what comes from a third host is judged", func() bool { return o.staged.outDrops(tracing.ReasonPolicyDenied) == 1 })
	third.place(datapath.FDB{Peer: o.left.host.vtep, Epoch: 3})
	o.staged.port.Gate = datapath.Open
	o.staged.put()
	o.ask(t, 1, o.answers[1])
	if !bytes.Equal(o.staged.receive(), o.answers[1]) {
		t.Fatal("a guest that runs before its connections have come loses answers")
	}
	o.staged.silent()
}

func TestAPortIsHandedOverWithItsRulesOnly(t *testing.T) {
	o := newHandover(t)
	for _, g := range []*tapGuest{o.left, o.staged} {
		s, err := inside{g.host}.Read(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if got := s.Ports[g.device]; !got.Handover || got.Policy != g.port.Policy {
			t.Errorf("the kernel of %s has %+v", g.host.vtep, got)
		}
	}
	o.left.host.place(datapath.FDB{Peer: netip.Addr{}, Device: o.left.device, Epoch: 3})
	o.left.port.Gate, o.left.port.Epoch, o.left.port.Handover = datapath.Open, 3, false
	o.left.put()
	o.ask(t, 0, o.answers[0])
	if !bytes.Equal(o.left.receive(), o.answers[0]) {
		t.Fatal("the guest runs on at the source, and its connections are gone")
	}
}
