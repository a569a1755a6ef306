package store

import (
	"fmt"
	"net/netip"

	"github.com/weftnet/weft/fabric"
)

// pool hands out the free addresses of one subnet, the lowest first.
type pool struct {
	used map[netip.Addr]bool
	next netip.Addr
	last netip.Addr // of the subnet; never handed out in IPv4, where it is the broadcast address
	// ranges are where take stays inside; all of the subnet when there are none.
	ranges []fabric.AddressRange
}

// freeAddress is the lowest address of a subnet that nobody has. The network address and the one after it, which is the
// gateway's, are left out, and so is IPv4's broadcast address.
func (a *applying) freeAddress(sw *fabric.Switch, subnet netip.Prefix) (netip.Addr, error) {
	p, err := a.pool(sw, subnet)
	if err != nil {
		return netip.Addr{}, err
	}
	if addr, ok := p.take(a.skip()); ok {
		return addr, nil
	}
	if len(p.ranges) > 0 {
		return netip.Addr{}, fmt.Errorf("spec.addresses: the ranges of subnet %s (spec.services.dhcp.ranges of switch %s) are exhausted: widen them, delete ports that are not needed, or give an address by hand: %w",
			subnet, sw.Metadata.Name, fabric.ErrConflict)
	}
	return netip.Addr{}, fmt.Errorf("spec.addresses: the pool of subnet %s is exhausted, all %d addresses are taken: delete ports that are not needed, or use a larger subnet: %w",
		subnet, len(p.used), fabric.ErrConflict)
}

// pool reads which addresses are taken, once for an attempt: a hundred ports cost one read.
func (a *applying) pool(sw *fabric.Switch, subnet netip.Prefix) (*pool, error) {
	if p, ok := a.pools[subnet]; ok {
		return p, nil
	}
	below := indexAddresses(fabric.SwitchID(sw.Metadata.Name))
	records, err := a.scan(below, true)
	if err != nil {
		return nil, err
	}
	p := &pool{used: map[netip.Addr]bool{}, next: subnet.Addr().Next().Next(), last: last(subnet)}
	for _, r := range records {
		if addr, err := netip.ParseAddr(r.key[len(below):]); err == nil && subnet.Contains(addr) {
			p.used[addr] = true
		}
	}
	for _, r := range sw.Spec.Services.DHCP.Ranges {
		if subnet.Contains(r.First) {
			p.ranges = append(p.ranges, r)
		}
	}
	for _, gateway := range sw.Gateways() {
		p.used[gateway] = true
	}
	if a.pools == nil {
		a.pools = map[netip.Prefix]*pool{}
	}
	a.pools[subnet] = p
	return p, nil
}

// take returns the next free address after skipping some; those skipped stay free for later.
func (p *pool) take(skip uint32) (netip.Addr, bool) {
	var fallback netip.Addr
	lowest := skip == 0
	for addr := p.within(p.next); p.holds(addr); addr = p.within(addr.Next()) {
		if p.used[addr] {
			continue
		}
		if skip == 0 {
			p.used[addr] = true
			if lowest {
				p.next = addr.Next()
			}
			return addr, true
		}
		if !fallback.IsValid() {
			fallback = addr
		}
		skip--
	}
	if fallback.IsValid() {
		p.used[fallback] = true
		return fallback, true
	}
	return netip.Addr{}, false
}

// within is the first address from a on that the ranges allow; not valid when there is none.
func (p *pool) within(a netip.Addr) (first netip.Addr) {
	if len(p.ranges) == 0 {
		return a
	}
	for _, r := range p.ranges {
		candidate := a
		if a.Less(r.First) {
			candidate = r.First
		}
		if !r.Last.Less(candidate) && (!first.IsValid() || candidate.Less(first)) {
			first = candidate
		}
	}
	return first
}

// takeLast returns the highest free address.
func (p *pool) takeLast() (netip.Addr, bool) {
	for addr := p.last.Prev(); !addr.Less(p.next); addr = addr.Prev() {
		if !p.used[addr] {
			p.used[addr] = true
			return addr, true
		}
	}
	return netip.Addr{}, false
}

func (p *pool) holds(addr netip.Addr) bool {
	return addr.IsValid() && (addr.Less(p.last) || addr.Is6() && addr == p.last)
}

// last is the highest address of a prefix.
func last(p netip.Prefix) netip.Addr {
	b := p.Addr().AsSlice()
	for i := p.Bits(); i < len(b)*8; i++ {
		b[i/8] |= 0x80 >> (i % 8)
	}
	addr, _ := netip.AddrFromSlice(b)
	return addr
}
