package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

const (
	swapName = "policy-swap"
	// swapPorts is how many ports have the policy that is swapped; a quick run has fewer.
	swapPorts, swapPortsQuick = 200, 20
	// Numbers of the ports of what is sent while the policy is swapped: the first policy allows the first kind and denies the
	// second, the other does the reverse; both allow the third, and deny the last.
	firstKind = 5001
	kinds     = 4
)

// marked is one of two policies of 10,000 rules, which differ in many of them: all look at other prefixes and ports, and the first
// four tell which policy has judged a packet.
func marked(which int) *policy.Source {
	s := shapes()[0].source(large)
	rules := s.Policies[0].Spec.Rules
	for kind := range kinds {
		action := fabric.Deny
		if kind == which || kind == 2 {
			action = fabric.Allow
		}
		rules[kind*(large/kinds)] = fabric.Rule{
			Name: markName(which, kind), Direction: fabric.Out, Action: action, Protocol: "udp", Weight: rules[kind*(large/kinds)].Weight,
			Remote: &fabric.End{Ports: ports(firstKind+kind, 0), Prefixes: []netip.Prefix{netip.MustParsePrefix("10.77.0.0/16")}},
		}
	}
	for i := which; i < large-1; i += 3 {
		if i%(large/kinds) != 0 {
			rules[i].Remote.Ports = ports(3000+i%700, i%11)
		}
	}
	return s
}

func markName(which, kind int) string { return fmt.Sprintf("policy-%d-kind-%d", which, kind) }

// takeSwap swaps two policies on many ports at once while one of the ports' guests sends, times each swap from the call of the core
// to its return, and counts the packets that neither policy can have judged.
func takeSwap(ctx context.Context, s *site, o options, _ *quiet) (r result, figures []figure, err error) {
	n := swapPorts
	if o.Rounds <= 3 {
		n = swapPortsQuick
	}
	devices, err := s.addPorts(n - 1)
	defer func() { err = errors.Join(err, s.removePorts(devices)) }()
	if err != nil {
		return r, nil, err
	}
	s.ruled = ruleset{n: -1}
	judged := append([]string{portA}, devices...)
	sources := []*policy.Source{marked(0), marked(1)}
	if _, err := s.swap(ctx, judged, sources[0], policy.Digest{}); err != nil { // their first rules: a map of flows each
		return r, nil, err
	}
	took := figure{Name: swapName, Unit: "ms", Most: 200, Text: fmt.Sprintf("swap of a policy of %s rules on %d ports, until it is in force on all", thousands(large), n)}
	gone := figure{Name: swapName + "-removed", Unit: "ms", Text: removedText}
	m, err := s.sendMarked(ctx)
	if err != nil {
		return r, nil, err
	}
	for i := range 2 * o.Rounds {
		ms, err := s.swap(ctx, judged, sources[(i+1)%2], sources[i%2].Digest())
		if err != nil {
			return r, nil, errors.Join(err, m.end())
		}
		took.Values, gone.Values = append(took.Values, ms.inForce), append(gone.Values, ms.removed)
	}
	if err := m.end(); err != nil {
		return r, nil, err
	}
	sent, wrong, err := m.count(ctx)
	mixed := figure{Name: swapName + "-mixed", None: true, Values: []float64{float64(wrong)},
		Text: fmt.Sprintf("packets judged by a mixture of both policies, of %s during the swaps", thousands(int(sent)))}
	return r, []figure{took, gone, mixed}, err
}

// addPorts makes ports on host 0 that nobody speaks through; those that were made are returned even with an error.
func (s *site) addPorts(n int) (devices []string, err error) {
	c := datapath.Change{Put: datapath.State{Ports: map[string]datapath.Port{}}}
	for i := range n {
		device := fmt.Sprintf("swap%d", i)
		err := s.hosts[0].Do(func() error { return nic.CreateVeth(nic.Veth{Name: device, Peer: device + "p"}) })
		if err != nil {
			return devices, err
		}
		devices = append(devices, device)
		c.Put.Ports[device] = datapath.Port{
			Name: fabric.PortID(device), VNI: benchVNI, Kind: datapath.Veth, Gate: datapath.Open, MAC: fabric.MAC{0x02, 0, 0, 0x79, byte(i >> 8), byte(i)},
			Guards: allGuards, Epoch: 1, Generation: 1,
		}
	}
	return devices, s.apply(0, c)
}

// removePorts takes ports and their devices away.
func (s *site) removePorts(devices []string) error {
	c := datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{}}}
	for _, device := range devices {
		c.Delete.Ports[device] = datapath.Port{}
	}
	errs := []error{s.apply(0, c)}
	for _, device := range devices {
		errs = append(errs, s.hosts[0].Do(func() error { return nic.Delete(device) }))
	}
	return errors.Join(errs...)
}

// marks is guest a's traffic of all kinds in turn, and what its port had counted before.
type marks struct {
	*site
	volley *volley
	end    func() error
	before datapath.Counters
}

// markRate is slow enough for the sender's core to lose nothing on the way to the core.
const markRate = 50_000

// sendMarked begins to send.
func (s *site) sendMarked(ctx context.Context) (*marks, error) {
	all, err := s.planes[0].Counters(ctx)
	if err != nil {
		return nil, err
	}
	from, to := newGuest(s.lanes[local].from, 1), newGuest(s.lanes[local].to, 3)
	to.addr = netip.AddrFrom4([4]byte{10, 77, 7, 7}) // which the receiver does not answer
	frame := smallFrame(from, to)
	binary.BigEndian.PutUint16(frame[atTargetPort:], firstKind)
	m := &marks{site: s, before: all[portA], volley: &volley{space: from.space, frame: frame, rate: markRate, next: nextKind}}
	end := m.volley.begin(receiverCore)
	m.end = func() error { _, err := end(); return err }
	return m, nil
}

// nextKind gives the frame the next kind's port.
func nextKind(frame []byte) {
	kind := (binary.BigEndian.Uint16(frame[atTargetPort:]) - firstKind + 1) % kinds
	binary.BigEndian.PutUint16(frame[atTargetPort:], firstKind+kind)
}

// count compares what the rules have counted with what was sent: each packet is one of its own kind's, by one of both policies, and
// is dropped where that rule denies it.
func (m *marks) count(ctx context.Context) (sent, wrong uint64, err error) {
	sent = m.volley.sent.Load()
	var hits [kinds]uint64
	var denied, total uint64
	var now datapath.Counters
	for range 500 { // what was sent last may still be under way
		if hits, denied, now, err = m.read(ctx); err != nil {
			return 0, 0, err
		}
		if total = hits[0] + hits[1] + hits[2] + hits[3]; total >= sent {
			break
		}
		if err := wait(ctx, quietWindow/10); err != nil {
			return 0, 0, err
		}
	}
	met := now.Rx.Packets - m.before.Rx.Packets
	wrong = apart(met, total) + apart(denied, now.DropsIn[tracing.ReasonPolicyDenied]-m.before.DropsIn[tracing.ReasonPolicyDenied])
	for kind := range hits {
		if met == sent { // else some were lost before they met the core, and nobody knows of which kind
			wrong += apart(hits[kind], (sent+kinds-1-uint64(kind))/kinds)
		}
	}
	return sent, wrong, nil
}

// read are the packets that the rules of each kind have counted, those of them that were denied, and the counters of guest a's port.
func (m *marks) read(ctx context.Context) (hits [kinds]uint64, denied uint64, now datapath.Counters, err error) {
	byPort, errHits := m.planes[0].RuleHits(ctx)
	all, err := m.planes[0].Counters(ctx)
	for kind := range kinds {
		for which := range 2 {
			n := byPort[portA][policy.ID("bench", markName(which, kind))].Packets
			hits[kind] += n
			if kind != which && kind != 2 {
				denied += n
			}
		}
	}
	return hits, denied, all[portA], errors.Join(errHits, err)
}

// apart is how far two counts differ.
func apart(a, b uint64) uint64 { return max(a, b) - min(a, b) }
