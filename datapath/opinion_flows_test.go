package datapath_test

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// conversation is a connection as two stations have it: its packets are in order, and nothing is sent twice.
type conversation struct {
	protocol uint8
	ends     [2]netip.Addr // of the guest and of the other
	ports    [2]uint16     // or the identifier of an echo
	opener   int
	step     int
	closed   [2]bool
	seq      [2]uint32
	last     []byte // a packet of it, which ICMP errors quote
	lastFrom int
}

// another draws a conversation that has no addresses and ports, or identifier, of an earlier one under the same rules.
func (f *followed) another() *conversation {
	for {
		c := f.u.conversation(f.between)
		is := fmt.Sprint(c.protocol, c.ends, c.ports)
		if c.protocol != protoTCP && c.protocol != protoUDP {
			is = fmt.Sprint(c.protocol, c.ends, c.ports[0])
		}
		if !f.had[is] {
			f.had[is] = true
			return c
		}
	}
}

// conversation draws one. A fifth of those of TCP began before: nobody saw them opened.
func (u *universe) conversation(between [2][]netip.Addr) *conversation {
	c := &conversation{opener: u.IntN(2), ports: [2]uint16{u.port(), u.port()}, seq: [2]uint32{u.Uint32(), u.Uint32()}}
	c.ends = [2]netip.Addr{pick(u, between[0]), pick(u, between[1])}
	for c.ends[1].Is4() != c.ends[0].Is4() {
		c.ends[1] = pick(u, between[1])
	}
	c.protocol = pick(u, []uint8{protoTCP, protoTCP, protoTCP, protoUDP, protoUDP, protoICMP})
	if c.protocol == protoICMP && c.ends[0].Is6() {
		c.protocol = protoICMPv6
	}
	if c.protocol == protoTCP && u.IntN(5) == 0 {
		c.step = 3
	}
	return c
}

// over reports whether the conversation has ended, or has been long enough.
func (c *conversation) over() bool { return c.closed[0] && c.closed[1] || c.step > 20 }

// next is the conversation's next packet.
func (u *universe) next(c *conversation, number uint32) sample {
	id := numbered(number, 0, nil).frame
	from := c.opener
	if c.step > 0 {
		from = u.IntN(2)
	}
	var p []byte
	switch h := (ip{protocol: c.protocol}); {
	case c.last != nil && u.IntN(12) == 0:
		return sample{number, 1 - c.lastFrom, c.framed(1-c.lastFrom, c.errorAbout(u, id))}
	case c.protocol == protoTCP:
		from, p = c.segment(u, from, id)
		p = h.packet(c.ends[from], c.ends[1-from], p)
	case c.protocol == protoUDP:
		p = h.packet(c.ends[from], c.ends[1-from], udp(c.ports[from], c.ports[1-from], id))
	default:
		kind := map[bool][2]byte{true: {8, 0}, false: {128, 129}}[c.protocol == protoICMP][from^c.opener]
		p = h.packet(c.ends[from], c.ends[1-from], append([]byte{kind, 0, 0, 0, byte(c.ports[0] >> 8), byte(c.ports[0]), 0, byte(c.step)}, id...))
	}
	c.step++
	c.last, c.lastFrom = p, from
	return sample{number, from, c.framed(from, p)}
}

func (c *conversation) framed(from int, p []byte) []byte {
	kind := uint16(typeIPv4)
	if p[0]>>4 == 6 {
		kind = typeIPv6
	}
	return ether(stations[1-from], stations[from], kind, p)
}

// segment is the next segment, and who sends it: a handshake, data of either side, a FIN of each; or a RST before.
func (c *conversation) segment(u *universe, from int, id []byte) (int, []byte) {
	flags := uint8(0x10)
	switch {
	case c.step == 0:
		from, flags = c.opener, 0x02
	case c.step == 1:
		from, flags = 1-c.opener, 0x12
	case c.step == 2:
		from = c.opener
	case u.IntN(30) == 0:
		flags, c.closed = 0x14, [2]bool{true, true}
	case c.step > 6 && !c.closed[from] && u.IntN(4) == 0:
		flags, c.closed[from] = 0x11, true
	case c.closed[from]:
		from = 1 - from
	}
	s := make([]byte, 20, 28)
	binary.BigEndian.PutUint16(s, c.ports[from])
	binary.BigEndian.PutUint16(s[2:], c.ports[1-from])
	binary.BigEndian.PutUint32(s[4:], c.seq[from])
	if flags&0x10 != 0 {
		binary.BigEndian.PutUint32(s[8:], c.seq[1-from])
	}
	s[12], s[13] = 5<<4, flags
	binary.BigEndian.PutUint16(s[14:], 60000)
	c.seq[from] += uint32(len(id)) + uint32(flags>>1&1) + uint32(flags&1)
	return from, append(s, id...)
}

// errorAbout is an ICMP error about the last packet, of whom it was sent to.
func (c *conversation) errorAbout(u *universe, id []byte) []byte {
	src, dst := c.ends[1-c.lastFrom], c.ends[c.lastFrom]
	if src.Is4() {
		return ip{protocol: protoICMP}.packet(src, dst, bytes.Join([][]byte{{pick(u, []byte{3, 4, 11, 12}), 1, 0, 0, 0, 0, 0, 0}, c.last[:28], id}, nil))
	}
	return ip{protocol: protoICMPv6}.packet(src, dst, bytes.Join([][]byte{{pick(u, []byte{1, 2, 3, 4}), 0, 0, 0, 0, 0, 0, 0}, c.last[:48], id}, nil))
}

// TestNftablesFollowsConnectionsAsTheCore has nftables and the core judge conversations between a guest and a station behind a router, by
// stateful rules and others. The second opinion is that of Linux connection tracking. WEFT_SEED and WEFT_OPINION are as above.
func TestNftablesFollowsConnectionsAsTheCore(t *testing.T) {
	seed, length := opinionSettings(t)
	f := newFollowed(t)
	f.run(seed, length, opinionRuleSets/2, f.ruleSet)
}

// followed asks nftables behind a router and the core about the same conversations.
type followed struct {
	opinion
	router  *trackedRouter
	between [2][]netip.Addr
	zone    int
	had     map[string]bool // conversations under these rules
}

func newFollowed(t *testing.T) *followed {
	f := &followed{opinion: *newOpinion(t)}
	for i := range f.between {
		for n := range 3 {
			f.between[i] = append(f.between[i], netip.AddrFrom4([4]byte{10, 77, byte(i + 1), byte(16*n + 1)}), netip.AddrFrom16([16]byte{0xfd, 0x77, 14: byte(i + 1), 15: byte(16*n + 1)}))
		}
	}
	f.router = f.w.trackedRouter("nr", f.between)
	return f
}

// ruleSet draws policies, forgets all connections and asks about some conversations.
func (f *followed) ruleSet(r *rand.Rand) {
	f.u = newUniverse(r)
	f.u.addresses = append(append([]netip.Addr{}, f.between[0]...), f.between[1]...)
	f.u.drawPrefixes()
	f.snap = f.u.stateful(pick(f.u, []int{6, 30, 60}))
	g := f.guests[0]
	f.h.apply(datapath.Change{Delete: datapath.State{Ports: map[string]datapath.Port{g.device: {}}}})
	f.put()
	f.h.apply(datapath.Change{Put: datapath.State{FDB: map[datapath.FDBKey]datapath.FDB{{VNI: vni, MAC: mac(1)}: {Device: g.device, Epoch: 1}}}})
	if f.h.Adopting(f.h.SlotOf(g.device)) {
		f.tb.Fatal("the core adopts connections of a port that was never open")
	}
	var table ruleset
	for _, d := range []fabric.Direction{fabric.Out, fabric.In} {
		table.linear("guest_"+string(d), rulingOf(f.snap, "g1", d))
	}
	f.zone++
	f.had = map[string]bool{}
	f.router.load(table.tracked(f.zone))
	talks := make([]*conversation, 8)
	for range opinionBatches {
		batch := make([]sample, opinionBatch)
		for i := range batch {
			at := f.u.IntN(len(talks))
			if talks[at] == nil || talks[at].over() {
				talks[at] = f.another()
			}
			f.numbers++
			batch[i] = f.u.next(talks[at], f.numbers)
		}
		f.follow(batch)
	}
}

// follow sends a batch through both and compares what comes out, from the transport header on: a router changes those before.
func (f *followed) follow(batch []sample) {
	core, router := f.pass(batch), f.router.pass(batch)
	for _, s := range batch {
		f.compared++
		here, there := core.frames[s.number], router.frames[s.number]
		if here != nil {
			f.allowed++
		}
		if (here == nil) != (there == nil) {
			f.disagree(s, fmt.Sprintf("the core allows %v, nftables %v", here != nil, there != nil))
			return
		}
		if header := len(s.frame) - len(packetOf(s.frame)); here != nil && !bytes.Equal(here[header:], there[header:]) {
			f.tb.Errorf("a packet is changed:\n%s\n%s", hex.EncodeToString(here), hex.EncodeToString(there))
		}
	}
}

// packetOf is what follows the IP header of a frame.
func packetOf(frame []byte) []byte {
	if frame[14]>>4 == 4 {
		return frame[34:]
	}
	return frame[54:]
}
