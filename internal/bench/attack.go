package main

import (
	"context"
	"fmt"
	"math/rand/v2"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

const (
	attackName = "policy-attack"
	// attackRate is how many frames per second the attacker sends, each of another connection.
	attackRate = 100_000
	// idleFlows is how many connections the two victims have open beside the one that is measured, and firstIdle their first port.
	idleFlows = 1000
	firstIdle = 20_000
)

// Names of the attack's contenders.
const (
	unattacked   = "weft, 1,000 stateful rules, no attack"
	besideOne    = "beside 100,000 datagrams/s of one flow"
	besideRandom = "beside 100,000 random 5-tuples/s, refused by their receiver"
	atReceiver   = "beside 100,000 random 5-tuples/s, to the same receiver, who lets them in"
)

// attack is a guest that sends random connections beside two others, on the core that the others do not use: guest c on the host of
// the victims' sender, to the guest behind a tap on the other host, which refuses all, or to the victims' receiver.
type attack struct {
	*site
	victims measure
	rates   []float64
}

// takeAttack measures what is left of the others' throughput and flows.
func takeAttack(ctx context.Context, s *site, o options, q *quiet) (result, []figure, error) {
	a := &attack{site: s, victims: measure{Name: attackName, Text: "64-byte UDP across hosts, two other guests", Unit: "pps", lane: cross, run: packetRate}}
	if err := a.prepare(); err != nil {
		return result{}, nil, err
	}
	lost, admitted := figure{Name: "policy-attack-evicted", Text: fmt.Sprintf("flows of the other guests evicted, of %s", thousands(2*idleFlows)), None: true},
		figure{Name: "policy-attack-admitted", Text: fmt.Sprintf("flows of the two evicted where the receiver lets the attack in, of %s", thousands(2*idleFlows))}
	all := func(name string, beside func() func() error) contender {
		return contender{name: name, site: s, rules: thousand, beside: beside}
	}
	r, err := a.round(ctx, o, q, &lost,
		all(unattacked, nil), all(besideOne, a.from(portT, same)), all(besideRandom, a.from(portT, random(rand.New(rand.NewPCG(1, 2))))))
	if err != nil {
		return r, nil, err
	}
	more, err := a.round(ctx, o, q, &admitted, all(atReceiver, a.from(portB, random(rand.New(rand.NewPCG(3, 4))))))
	if err != nil {
		return r, nil, err
	}
	r.order, r.Values[atReceiver] = append(r.order, atReceiver), more.Values[atReceiver]
	rate := figure{Name: "policy-attack-rate", Text: "frames the attacker sent per second", Unit: "k/s", Values: a.rates}
	return r, []figure{lost, admitted, rate}, nil
}

// prepare puts the rules in force: the attacker's own and the refusing guest's beside those of the victims.
func (a *attack) prepare() error {
	if err := (contender{site: a.site, rules: thousand}).prepare(); err != nil {
		return err
	}
	if err := a.judgeAlso(0, portC, thousand.source()); err != nil {
		return err
	}
	return a.judgeAlso(1, portT, &policy.Source{Default: fabric.Deny, VNI: benchVNI})
}

// round opens the idle connections, measures, and counts those that are gone.
func (a *attack) round(ctx context.Context, o options, q *quiet, gone *figure, all ...contender) (result, error) {
	e := a.lanes[cross]
	frame := smallFrame(newGuest(e.from, 1), newGuest(e.to, 2))
	frame[atSourcePort], frame[atSourcePort+1] = firstIdle>>8, firstIdle&0xff
	opening := &volley{space: e.from, next: count, frame: frame}
	if err := e.from.Do(func() error { return opening.send(idleFlows) }); err != nil {
		return result{}, err
	}
	before, err := a.idle(ctx)
	if err != nil {
		return result{}, err
	}
	if before != 2*idleFlows {
		return result{}, fmt.Errorf("%d flows were opened for %d connections at two ports", before, idleFlows)
	}
	r, err := a.victims.take(ctx, all, o, q)
	if err != nil {
		return r, err
	}
	after, err := a.idle(ctx)
	gone.Values = append(gone.Values, float64(before-after))
	return r, err
}

// idle counts the idle connections that both victims' ports still know.
func (a *attack) idle(ctx context.Context) (n int, err error) {
	for host, device := range []string{portA, portB} {
		all, err := a.planes[host].Connections(ctx, device)
		if err != nil {
			return 0, err
		}
		for _, c := range all {
			sender := c.Local
			if host == 1 {
				sender = c.Remote
			}
			if sender.Addr() == a.sender[cross] && sender.Port() >= firstIdle && sender.Port() < firstIdle+idleFlows {
				n++
			}
		}
	}
	return n, nil
}

// from is the load of the attacker towards a guest of the other host.
func (a *attack) from(device string, next func([]byte)) func() func() error {
	attacker := newGuest(a.lanes[local].to, 3)
	target := map[string]guest{portB: newGuest(a.lanes[cross].to, 2), portT: newGuest(a.lanes[tap].to, 4)}[device]
	return func() func() error {
		v := &volley{space: attacker.space, next: next, frame: smallFrame(attacker, target), rate: attackRate}
		end := v.begin(receiverCore)
		return func() error {
			rate, err := end()
			a.rates = append(a.rates, rate/1e3)
			return err
		}
	}
}
