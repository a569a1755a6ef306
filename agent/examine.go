package agent

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
	"github.com/weftnet/weft/tracing/packet"
)

const (
	// examineWithin is how long one probe of an examination may take to end: what is lost is waited for, and the whole answer is
	// to come within 5 s.
	examineWithin = 700 * time.Millisecond
	// armWithin is how long a host may take to arm for one.
	armWithin = time.Second
	// volley is how many probes go each way to find partial loss: of one in a hundred lost, 99.3 % of all volleys lose at least
	// one. A session keeps maxHops records, of which a probe makes up to eight on a host.
	volley = 500
)

// Examine follows the first packet of a connection by the records and through the datapath, then the answer to it, one as long as
// the switch's MTU, and many. A probe that cannot be sent is part of the answer; the error says what is wrong with the request.
func (p *prober) Examine(ctx context.Context, r api.TraceRequest) (*tracing.Examination, error) {
	snap := p.latest()
	if snap == nil {
		return nil, fmt.Errorf("examine the way from port %s: the wanted state is not known here yet: %w", r.Source, api.ErrUnavailable)
	}
	x := &tracing.Examination{Source: r.Source, Destination: r.Destination, From: snap.Locations[r.Source].Host}
	nonce := packet.NewNonce()
	o, err := p.plan(snap, r, packet.Probe{Nonce: nonce})
	if err != nil {
		return nil, fmt.Errorf("examine the way from port %s to %s: %w", r.Source, r.Destination, err)
	}
	x.To = o.To
	if packet.Protocol(r.Protocol) != packet.ARP {
		if x.Explain, err = p.Explain(snap, r); err != nil && !errors.Is(err, fabric.ErrConflict) {
			return nil, err
		}
	}
	if x.Probe = p.examined(ctx, x, o); x.Probe == nil || x.Probe.Verdict != tracing.Delivered {
		return x, nil
	}
	p.further(ctx, x, r, nonce)
	return x, nil
}

// further is what is worth to know once a probe was delivered.
func (p *prober) further(ctx context.Context, x *tracing.Examination, r api.TraceRequest, nonce packet.Nonce) {
	snap, proto := p.latest(), packet.Protocol(r.Protocol)
	if proto == packet.ARP {
		return
	}
	if sw := snap.Switches[snap.Ports[r.Source].Spec.Switch]; sw != nil {
		long := r
		long.Size = snap.SwitchMTU(sw)
		if o, err := p.plan(snap, long, packet.Probe{Nonce: packet.NewNonce()}); err == nil {
			x.Full = p.examined(ctx, x, o)
		}
	}
	ways := []tracing.ProbeOptions{}
	if o, err := p.plan(snap, r, packet.Probe{Nonce: packet.NewNonce()}); err == nil {
		ways = append(ways, o)
	}
	if o, ok := p.reply(snap, r, nonce); ok {
		if x.Reply = p.examined(ctx, x, o); x.Reply != nil && x.Reply.Verdict == tracing.Delivered {
			ways = append(ways, o)
		}
	}
	for i, o := range ways {
		if o.To == "" || o.To == o.From {
			continue
		}
		o.Timeout, o.ArmTimeout = examineWithin, armWithin
		v, err := tracing.Fire(ctx, p.everywhere(), o, volley)
		v.Way = []string{tracing.There, tracing.Back}[i]
		if err == nil {
			x.Volleys = append(x.Volleys, v)
		}
	}
}

// reply is the answer to the probe that the nonce has made; false where the destination is no port, which answers nothing.
func (p *prober) reply(snap *fabric.Snapshot, r api.TraceRequest, nonce packet.Nonce) (tracing.ProbeOptions, bool) {
	from := fabric.PortID(r.Destination)
	if address, is := r.Address(); is {
		from = ""
		for id, port := range snap.Ports {
			if port.Spec.Switch == snap.Ports[r.Source].Spec.Switch && slices.Contains(port.Spec.Addresses, address) {
				from = id
			}
		}
	}
	if snap.Ports[from] == nil {
		return tracing.ProbeOptions{}, false
	}
	back := api.TraceRequest{Source: from, Destination: string(r.Source), Protocol: r.Protocol}
	if r.Port != 0 {
		back.Port = 49152 | binary.BigEndian.Uint16(nonce[14:]) // what the probe was sent from
	}
	o, err := p.plan(snap, back, packet.Probe{Nonce: nonce, SourcePort: r.Port, Reply: true})
	return o, err == nil
}

// examined sends one probe, and again when it is lost: one in a hundred that is lost is the volley's to find. It is nil when it
// could not be sent, and the examination says why.
func (p *prober) examined(ctx context.Context, x *tracing.Examination, o tracing.ProbeOptions) *tracing.Path {
	o.Timeout, o.ArmTimeout = examineWithin, armWithin
	path, err := tracing.Probe(ctx, p.everywhere(), o)
	if err == nil && path.Verdict == tracing.Unknown {
		path, err = tracing.Probe(ctx, p.everywhere(), o)
	}
	if err == nil {
		path.Changes = changesOf(p.latest(), path)
		p.telemetry.Path(ctx, path)
		return path
	}
	if x.Unsent == "" {
		x.Unsent = err.Error()
		if end := "on " + string(o.To) + ","; errors.Is(err, tracing.ErrNotArmed) && strings.Contains(x.Unsent, end) {
			x.Silent = o.To
		} else if errors.Is(err, tracing.ErrNotArmed) {
			x.Silent = o.From
		}
	}
	return nil
}
