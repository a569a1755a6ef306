package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
)

const (
	worstName = "policy-worst"
	// worstRules is the size of the policy, worstFrames how many frames of a class are run in one round.
	worstRules  = 10_000
	worstFrames = 20_000
)

// Names of the contenders on the whole path.
const (
	everyKnown = "weft, 10,000 rules of everything, one flow"
	everyNew   = "weft, 10,000 rules of everything, each packet a combination of its own"
)

// takeWorst compares the dearest packet with others, by what the program takes and over the whole way. Both guests of a lane are
// judged by 10,000 rules in every dimension; what is dearest is the first packet of a connection whose combination of classes no
// packet had before.
func takeWorst(ctx context.Context, s *site, o options, q *quiet) (result, []figure, error) {
	source := shapes()[3].source(worstRules)
	s.ruled = ruleset{n: -1} // whoever is next puts its own
	if err := errors.Join(s.judgeAlso(0, portA, source), s.judgeAlso(1, portB, source), s.judgeAlso(0, portC, source)); err != nil {
		return result{}, nil, err
	}
	figures, err := s.worstRuns(o.Rounds)
	if err != nil {
		return result{}, nil, err
	}
	loaded, err := s.worstLoaded(ctx, o)
	if err != nil {
		return result{}, nil, err
	}
	figures = append(figures, loaded...)
	m := measure{Name: worstName, Text: "frames across hosts, from a guest's NIC", Unit: "pps", lane: cross}
	r, err := m.take(ctx, []contender{
		{name: everyKnown, site: s, rules: s.ruled, run: s.volleyRate(same)},
		{name: everyNew, site: s, rules: s.ruled, run: s.volleyRate(random(rand.New(rand.NewPCG(5, 6))))},
	}, o, q)
	return r, figures, err
}

// judgeAlso puts a port under a source.
func (s *site) judgeAlso(host int, device string, source *policy.Source) error {
	state, err := s.planes[host].Read(context.Background())
	if err != nil {
		return err
	}
	port := state.Ports[device]
	port.Policy, port.Addresses[1] = source.Digest(), address6(port.MAC)
	return s.apply(host, datapath.Change{Put: datapath.State{
		Tables: map[policy.Digest]*policy.Source{port.Policy: source}, Ports: map[string]datapath.Port{device: port},
	}})
}

// class is a kind of packets whose cost is compared.
type class struct {
	name, text string
	next       func([]byte)
	ipv6       bool
}

// worstRuns times vp_in by test run for each class: frames on one host, judged at both ports. Each frame is run once, all classes
// alike.
func (s *site) worstRuns(rounds int) ([]figure, error) {
	draw := rand.New(rand.NewPCG(7, 8))
	classes := []class{
		{"flow", "vp_in, a packet of a flow", same, false},
		{"first", "vp_in, the first packet of a connection, combination known", fresh(), false},
		{"worst4", "vp_in, the same, combination new, IPv4", random(draw), false},
		{"worst6", "vp_in, the same, combination new, IPv6", random6(draw), true},
	}
	figures := make([]figure, len(classes)+1)
	for i, c := range classes {
		figures[i] = figure{Name: worstName + "-" + c.name, Text: c.text, Unit: "ns"}
	}
	worst := &figures[len(classes)]
	*worst = figure{Name: worstName + "-ratio", Text: "the dearest of these over a packet of a flow", Unit: "times", Most: 3}
	for range rounds {
		var dearest float64
		for i, c := range classes {
			took, err := s.runClass(c)
			if err != nil {
				return nil, fmt.Errorf("run %s: %w", c.text, err)
			}
			figures[i].Values = append(figures[i].Values, float64(took.Nanoseconds()))
			dearest = max(dearest, float64(took.Nanoseconds()))
		}
		flow := figures[0].Values
		worst.Values = append(worst.Values, dearest/flow[len(flow)-1])
	}
	return figures, nil
}

// worstLoaded has the kernel time the programs of both hosts while one core sends as fast as it can: what a packet takes in vp_in
// and ul_in together.
func (s *site) worstLoaded(ctx context.Context, o options) ([]figure, error) {
	counting, err := datapath.CountRunTimes()
	if err != nil {
		return nil, err
	}
	defer counting.Close()
	known := figure{Name: worstName + "-load-flow", Text: "vp_in and ul_in under load, packets of a flow", Unit: "ns"}
	anew := figure{Name: worstName + "-load-new", Text: "the same, each packet a connection and a combination of its own", Unit: "ns"}
	times := figure{Name: worstName + "-load-ratio", Text: "the second over the first", Unit: "times", Most: 3}
	draw := random(rand.New(rand.NewPCG(9, 10)))
	for range o.Rounds {
		a, errA := s.loaded(ctx, s.volleyRate(same), o.Slice)
		b, errB := s.loaded(ctx, s.volleyRate(draw), o.Slice)
		if err := errors.Join(errA, errB); err != nil {
			return nil, err
		}
		known.Values, anew.Values, times.Values = append(known.Values, a), append(anew.Values, b), append(times.Values, b/a)
	}
	return []figure{known, anew, times}, nil
}

// runClass is the mean run on frames of a class.
func (s *site) runClass(c class) (took time.Duration, err error) {
	from, to := newGuest(s.lanes[local].from, 1), newGuest(s.lanes[local].to, 3)
	frame := smallFrame(from, to)
	if c.ipv6 {
		frame = smallFrame6(from, to)
	}
	frames := make([][]byte, worstFrames)
	for i := range frames {
		frames[i] = append([]byte(nil), frame...)
		c.next(frame)
	}
	err = s.hosts[0].Do(func() error {
		if _, err := s.planes[0].TestFrames(portA, frames[:worstFrames/10]); err != nil { // warm
			return err
		}
		took, err = s.planes[0].TestFrames(portA, frames[worstFrames/10:])
		return err
	})
	return took, err
}

// fresh gives each frame a source port of its own beyond those that rules speak of: another connection of the same classes.
func fresh() func([]byte) {
	at := uint16(10_000)
	return func(frame []byte) {
		if at++; at < 10_000 {
			at = 10_000
		}
		binary.BigEndian.PutUint16(frame[atSourcePort:], at)
	}
}

// address6 is the IPv6 address of a guest, of which its namespace knows nothing.
func address6(mac fabric.MAC) netip.Addr { return netip.AddrFrom16([16]byte{0xfd, 0x77, 15: mac[5]}) }

// smallFrame6 is smallFrame over IPv6.
func smallFrame6(from, to guest) []byte {
	v4 := smallFrame(from, to)
	f := make([]byte, at6Target+2+4+smallPayload)
	copy(f, v4[:12])
	binary.BigEndian.PutUint16(f[12:], 0x86dd)
	f[14] = 6 << 4
	binary.BigEndian.PutUint16(f[14+4:], 8+smallPayload)
	f[14+6], f[14+7] = unix.IPPROTO_UDP, 64
	copy(f[14+8:], address6(from.mac).AsSlice())
	copy(f[at6Destination:], address6(to.mac).AsSlice())
	binary.BigEndian.PutUint16(f[at6Source:], 49152)
	binary.BigEndian.PutUint16(f[at6Target:], sinkPort)
	binary.BigEndian.PutUint16(f[at6Target+2:], 8+smallPayload)
	return f
}

// Places in a frame of IPv6 without extension headers.
const (
	at6Destination = 14 + 24
	at6Source      = 14 + 40
	at6Target      = 14 + 42
)

// random6 is random for IPv6, of UDP alone.
func random6(draw *rand.Rand) func([]byte) {
	return func(frame []byte) {
		n := draw.Uint64()
		copy(frame[at6Destination:], []byte{0xfd, 0x77, 0, 0, byte(n >> 8 & 0x3f), byte(n)})
		binary.BigEndian.PutUint16(frame[at6Source:], uint16(1+n>>20%2048))
		binary.BigEndian.PutUint16(frame[at6Target:], uint16(1+n>>40%2048))
	}
}

// volleyRate is how many frames per second reach the guest on the other host, sent as fast as one core can.
func (s *site) volleyRate(next func([]byte)) func(context.Context, ends, time.Duration) (float64, error) {
	return func(ctx context.Context, e ends, d time.Duration) (float64, error) {
		frame := smallFrame(newGuest(e.from, 1), newGuest(e.to, 2))
		binary.BigEndian.PutUint32(frame[atDestination:], 172<<24|16<<16) // the guest takes none of them in: all cost it the same
		setChecksum(frame)
		v := &volley{space: e.from, next: next, frame: frame}
		end := v.begin(senderCore)
		rate, err := s.deliveredRate(ctx, d)
		_, endErr := end()
		if err == nil {
			err = endErr
		}
		return rate, err
	}
}

// deliveredRate is how many packets per second the guest on the other host is given.
func (s *site) deliveredRate(ctx context.Context, d time.Duration) (float64, error) {
	given := func() (uint64, error) {
		all, err := s.planes[1].Counters(ctx)
		return all[portB].Offered, err
	}
	if err := wait(ctx, d/8); err != nil {
		return 0, err
	}
	start := time.Now()
	before, err := given()
	if err != nil {
		return 0, err
	}
	if err := wait(ctx, d); err != nil {
		return 0, err
	}
	after, err := given()
	if err == nil && after == before {
		err = errNothing
	}
	return float64(after-before) / time.Since(start).Seconds(), err
}
