package datapath

import (
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"net/netip"
	"sync/atomic"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/fabric"
)

// Sizes of the maps, and marks of slots and gates: the same as in bpf/types.h.
const (
	maxPorts       = 4096
	maxPeers       = 4096
	maxHits        = 524288
	firstSlot      = 3
	slotUnderlay   = 0
	slotTunnel     = 1
	slotNowhere    = 2
	maxFloodPorts  = 1024
	maxFloodPeers  = 512
	gateMask       = 0x0f
	gateReady      = 0x10
	gateEpochShift = 8
	outEgress      = 1
	outPeer        = 2
	outHost        = 3
	fdbLocal       = 1
	fdbRelay       = 2
	fdbGateway     = 4
	fdbCarried     = 8
	fdbSource      = 16
	segmentQinQ    = 1
	maxUplinks     = 64
	maxVLAN        = 4094
	networkWire    = 1

	uplinkHost       = 1
	uplinkCarries    = 2
	uplinkWasPromisc = 4
	uplinkSpare      = 8
	uplinkByPort     = 16
	uplinkByFlow     = 32
	uplinkDown       = 64
	uplinkShared     = uplinkByPort | uplinkByFlow
	maxShares        = 16
)

// shared is memory that the programs read while we write: single words, each changed with one store.
type shared struct {
	memory [][]byte
	config *coreConfig
	slots  []coreSlot
	limits []coreLimits
	// tallies are those of one CPU after the other.
	tallies []coreTally
}

// mapShared maps the arrays into this process.
func mapShared(m coreMaps) (s shared, err error) {
	config, err := mapArray(m.ConfigV1, int(unsafe.Sizeof(coreConfig{})))
	if err != nil {
		return s, err
	}
	slots, err := mapArray(m.SlotsV1, maxPorts*int(unsafe.Sizeof(coreSlot{})))
	if err != nil {
		return s, errors.Join(err, unix.Munmap(config))
	}
	limits, err := mapArray(m.LimitsV3, maxPorts*int(unsafe.Sizeof(coreLimits{})))
	if err != nil {
		return s, errors.Join(err, unix.Munmap(config), unix.Munmap(slots))
	}
	places := int(m.TalliesV1.MaxEntries())
	counted, err := mapArray(m.TalliesV1, places*int(unsafe.Sizeof(coreTally{})))
	if err != nil {
		return s, errors.Join(err, unix.Munmap(config), unix.Munmap(slots), unix.Munmap(limits))
	}
	return shared{
		memory:  [][]byte{config, slots, limits, counted},
		config:  (*coreConfig)(unsafe.Pointer(&config[0])),
		slots:   unsafe.Slice((*coreSlot)(unsafe.Pointer(&slots[0])), maxPorts),
		limits:  unsafe.Slice((*coreLimits)(unsafe.Pointer(&limits[0])), maxPorts),
		tallies: unsafe.Slice((*coreTally)(unsafe.Pointer(&counted[0])), places),
	}, nil
}

func mapArray(m *ebpf.Map, size int) ([]byte, error) {
	page := unix.Getpagesize()
	memory, err := unix.Mmap(m.FD(), 0, (size+page-1)/page*page, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("map %s into memory: %w", m, err)
	}
	return memory, nil
}

// Close unmaps.
func (s shared) Close() error {
	var errs []error
	for _, m := range s.memory {
		errs = append(errs, unix.Munmap(m))
	}
	return errors.Join(errs...)
}

// configure writes what holds for the whole host. The secret mark is drawn once in the life of the pins, because frames
// marked by the old loader's programs are still under way.
func (d *Datapath) configure(o Options) error {
	c := d.shared.config
	if c.Mark == 0 {
		var draw [4]byte
		if _, err := rand.Read(draw[:]); err != nil {
			return err
		}
		c.Mark = binary.NativeEndian.Uint32(draw[:])&^(maxPorts-1) | maxPorts
	}
	c.Underlay, c.Tunnel = uint32(d.underlay.Index), uint32(d.tunnel.Index)
	c.DecapFlags = decapFlags()
	c.LabelKey0, c.LabelKey1 = o.LabelKeys[0], o.LabelKeys[1]
	d.setVTEP(o.VTEP)
	return nil
}

// setVTEP writes this host's tunnel end point, and only what differs: the programs read it meanwhile.
func (d *Datapath) setVTEP(a netip.Addr) {
	c, ipv6 := d.shared.config, uint32(0)
	if isIPv6(a) {
		ipv6 = 1
	}
	if c.Vtep != toCore(a) {
		c.Vtep = toCore(a)
	}
	if c.Ipv6 != ipv6 {
		c.Ipv6 = ipv6
	}
}

// gateWord is the port's gate as the programs read it.
func gateWord(gate Gate, epoch fabric.Epoch, generation fabric.Revision) uint64 {
	word := uint64(epoch)<<gateEpochShift | uint64(gate)
	if generation != 0 {
		word |= gateReady
	}
	return word
}

// loadGate reads a slot's gate.
func (s shared) loadGate(slot uint32) (Gate, fabric.Epoch) {
	word := atomic.LoadUint64(&s.slots[slot].Gate)
	return Gate(word & gateMask), fabric.Epoch(word >> gateEpochShift)
}

// setGate changes a slot's gate with one store. A staged port that the guest's first frame has opened under the same epoch
// stays open: the kernel knows better than whoever looked before.
func (s shared) setGate(slot uint32, gate Gate, epoch fabric.Epoch, generation fabric.Revision) {
	word := &s.slots[slot].Gate
	for {
		old := atomic.LoadUint64(word)
		next := gateWord(gate, epoch, generation)
		if gate == Staged && Gate(old&gateMask) == Open && fabric.Epoch(old>>gateEpochShift) == epoch {
			next = gateWord(Open, epoch, generation)
		}
		if atomic.CompareAndSwapUint64(word, old, next) {
			return
		}
	}
}

// setOut says where a slot is; ifindex 0: nowhere.
func (s shared) setOut(slot uint32, vni fabric.VNI, how, ifindex int) {
	word := uint64(0)
	if ifindex != 0 {
		word = uint64(vni)<<40 | uint64(how)<<32 | uint64(ifindex)
	}
	atomic.StoreUint64(&s.slots[slot].Out, word)
}

// toCore is the address as the programs hold it: 16 bytes, IPv4 as ::ffff:a.b.c.d.
func toCore(a netip.Addr) (c coreAddress) {
	if !a.IsValid() {
		return c
	}
	b := a.As16()
	for i := range c.W {
		c.W[i] = binary.NativeEndian.Uint32(b[4*i:])
	}
	return c
}

// fromCore is the reverse; all zero is no address.
func fromCore(c coreAddress) netip.Addr {
	if c == (coreAddress{}) {
		return netip.Addr{}
	}
	var b [16]byte
	for i, w := range c.W {
		binary.NativeEndian.PutUint32(b[4*i:], w)
	}
	return netip.AddrFrom16(b).Unmap()
}

func isIPv6(a netip.Addr) bool { return a.Is6() && !a.Is4In6() }

// slotAllocator hands out the numbers from first to end-1. A number that was given back is used again last, so that
// nothing that still names it meets its next owner soon.
type slotAllocator struct {
	first, end, next uint32
	taken            map[uint32]bool
}

// take finds a free number; false when all are in use.
func (a *slotAllocator) take() (uint32, bool) {
	for range a.end - a.first {
		if a.next < a.first || a.next >= a.end {
			a.next = a.first
		}
		n := a.next
		a.next++
		if !a.taken[n] {
			a.adopt(n)
			return n, true
		}
	}
	return 0, false
}

// ahead are the n numbers that are handed out next.
func (a *slotAllocator) ahead(n int) (next []uint32) {
	at := a.next
	for range a.end - a.first {
		if at < a.first || at >= a.end {
			at = a.first
		}
		if !a.taken[at] {
			if next = append(next, at); len(next) == n {
				break
			}
		}
		at++
	}
	return next
}

// adopt marks a number as used.
func (a *slotAllocator) adopt(n uint32) {
	if a.taken == nil {
		a.taken = map[uint32]bool{}
	}
	a.taken[n] = true
}

// release gives a number back.
func (a *slotAllocator) release(n uint32) { delete(a.taken, n) }
