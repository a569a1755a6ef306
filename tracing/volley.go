package tracing

import (
	"context"
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Volley is many copies of one probe: how many of them arrived, and where the others ended.
type Volley struct {
	// Way is There or Back, From and To the hosts of its ends.
	Way  string        `json:"way"`
	From fabric.HostID `json:"from"`
	To   fabric.HostID `json:"to"`

	Sent    int `json:"sent"`
	Arrived int `json:"arrived"`
	// Dropped are those with a reason, Lost those that left From and did not come in at To.
	Dropped int `json:"dropped,omitempty"`
	Lost    int `json:"lost,omitempty"`
	// Unseen are those of which records are missing: nothing is said about them.
	Unseen int `json:"unseen,omitempty"`
}

const (
	// atOnce is how many probes are sent before the hosts are asked: less than what a ring of the kernel holds.
	atOnce = 100
	// quietFor is how long the records must stay as they are until the missing ones are held for lost.
	quietFor = 60 * time.Millisecond
	// markers is how many more probes are sent to find out whether records are late or probes lost.
	markers = 3
)

// Fire sends a probe n times and counts what the hosts of its two ends saw; o is as in Probe, with To. A volley between ports of
// one host loses nothing on a wire. The error is that of Probe.
func Fire(ctx context.Context, f Fabric, o ProbeOptions, n int) (v Volley, err error) {
	v = Volley{From: o.From, To: o.To}
	if len(o.Frame) == 0 || o.Session.Label == 0 || o.Session.ID == 0 || o.To == "" {
		return v, fmt.Errorf("send a volley from port %s on %s: a frame that has a label, a session number and a destination are needed: %w", o.Port, o.From, fabric.ErrInvalid)
	}
	o.Hosts = nil
	o.fill()
	for v.Sent < n {
		// A session is armed anew for every round, so that a host tells of one round and not of all before.
		run := probe{fabric: f, o: o, hops: map[fabric.HostID][]Hop{}, missing: map[fabric.HostID]Missing{}}
		one, err := run.round(ctx, min(atOnce, n-v.Sent))
		if err != nil {
			return v, err
		}
		v.Sent, v.Arrived, v.Dropped, v.Lost, v.Unseen = v.Sent+one.Sent, v.Arrived+one.Arrived, v.Dropped+one.Dropped, v.Lost+one.Lost, v.Unseen+one.Unseen
	}
	return v, nil
}

// round sends some of a volley.
func (p *probe) round(ctx context.Context, n int) (Volley, error) {
	v := Volley{From: p.o.From, To: p.o.To, Sent: n}
	defer p.disarm(ctx)
	if err := p.arm(ctx); err != nil {
		return v, err
	}
	if err := p.fabric.Inject(ctx, p.o.From, p.o.Port, p.o.Frame, n); err != nil {
		return v, fmt.Errorf("inject %d probes at port %s on %s: %w", n, p.o.Port, p.o.From, err)
	}
	p.settle(ctx, &v, 0)
	// A host tells its records in the order in which they were made: once it tells of a probe that was sent later, what it has not told
	// of did not come.
	for more := 0; more < markers && v.Arrived+v.Dropped < v.Sent; more++ {
		seen := p.seen(v.To)
		if err := p.fabric.Inject(ctx, p.o.From, p.o.Port, p.o.Frame, 1); err != nil {
			return v, fmt.Errorf("inject a probe at port %s on %s: %w", p.o.Port, p.o.From, err)
		}
		v.Sent++
		p.settle(ctx, &v, seen)
		if p.seen(v.To) > seen {
			break
		}
	}
	return v, nil
}

// seen is how many records a host has told of.
func (p *probe) seen(host fabric.HostID) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.hops[host])
}

// settle collects until every probe is accounted for, or the records have not changed for a while and the other end has told of more
// than it had before.
func (p *probe) settle(ctx context.Context, v *Volley, before int) {
	ctx, cancel := context.WithTimeout(ctx, p.o.Timeout)
	defer cancel()
	seen := -1
	for since := time.Now(); ; {
		p.gather(ctx)
		hops := p.count(v)
		if v.Arrived+v.Dropped >= v.Sent {
			return
		}
		if hops != seen {
			seen, since = hops, time.Now()
		}
		if time.Since(since) > quietFor && p.seen(v.To) > before || !sleep(ctx, 5*firstPause) {
			return
		}
	}
}

// count fills in the volley by what was seen so far, and returns how many records there are.
func (p *probe) count(v *Volley) (hops int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	v.Arrived, v.Dropped = 0, 0
	left, came := 0, 0
	for host, all := range p.hops {
		hops += len(all)
		for _, h := range all {
			switch {
			case h.Arrives():
				v.Arrived++
			case h.Ends():
				v.Dropped++
			case h.Stage == StageUnderlayOut && host == v.From:
				left++
			case h.Stage == StageUnderlayIn && host == v.To:
				came++
			}
		}
	}
	v.Lost = min(max(0, left-came), v.Sent-min(v.Sent, v.Arrived+v.Dropped))
	v.Unseen = v.Sent - min(v.Sent, v.Arrived+v.Dropped+v.Lost)
	return hops
}
