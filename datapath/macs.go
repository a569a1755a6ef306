package datapath

import (
	"bytes"
	"fmt"
	"slices"
	"sync/atomic"

	"github.com/weftnet/weft/fabric"
)

// MaxPortMACs is how many MACs a port's guest may use beside the port's own, without those that are learned.
const MaxPortMACs = 16

// StationMAC is a MAC that a guest may use beside its port's own; the zero value is none.
type StationMAC struct {
	MAC fabric.MAC
	// Sibling is set for the MAC of another port of the same VM: whichever sends with it last receives what is sent to it.
	Sibling bool
}

// MACs are what a guest may use beside its port's own MAC.
type MACs struct {
	// Listed are in the order of SortMACs; the rest are zero.
	Listed [MaxPortMACs]StationMAC
	// Learned is how many others it may use, where guard mac is off; 0: as many as it likes.
	Learned uint16
	// Shared is set when the port's own MAC is another's sibling MAC, or it has any: see StationMAC.
	Shared bool
}

// SortMACs is the order of MACs.Listed.
func SortMACs(list []StationMAC) {
	slices.SortFunc(list, func(a, b StationMAC) int { return bytes.Compare(a.MAC[:], b.MAC[:]) })
}

// The bits of a port's guards that are no guards, and the values of macs_v1, the same as in bpf/types.h.
const (
	guardMACs   = 1 << 7
	guardShared = 1 << 8
	guardMask   = guardMACs - 1
	macAllowed  = 1
	macSibling  = 2
	macLearned  = 3
)

func (m MACs) check() error {
	for i, s := range m.Listed {
		if s == (StationMAC{}) {
			continue
		}
		if !s.MAC.IsUnicast() || i > 0 && bytes.Compare(m.Listed[i-1].MAC[:], s.MAC[:]) >= 0 {
			return fmt.Errorf("MAC %s beside its own is no station's, or not in order", s.MAC)
		}
	}
	return nil
}

// bits are those that tell the programs to look.
func (m MACs) bits() (bits uint32) {
	if m.Listed[0] != (StationMAC{}) || m.Learned > 0 {
		bits |= guardMACs
	}
	if m.Shared {
		bits |= guardShared
	}
	return bits
}

// putMACs writes a slot's MACs before its port is written, which may then ask for them.
func (d *Datapath) putMACs(slot uint32, m MACs) error {
	var b batch[coreMacKey, uint32]
	for _, s := range m.Listed {
		if s == (StationMAC{}) {
			continue
		}
		why := uint32(macAllowed)
		if s.Sibling {
			why = macSibling
		}
		b.add(coreMacKey{Slot: slot, Mac: s.MAC}, why)
	}
	atomic.StoreUint64(&d.shared.limits[slot].Macs, uint64(m.Learned))
	return b.put(d.maps.MacsV1)
}

// trimMACs removes those of a slot that are not listed any more, and those that were learned under another limit.
func (d *Datapath) trimMACs(slot uint32, m MACs) error {
	listed := map[fabric.MAC]bool{}
	for _, s := range m.Listed {
		listed[s.MAC] = true
	}
	var stale []coreMacKey
	var b batch[coreMacKey, uint32]
	learned := uint64(0)
	err := each(d.maps.MacsV1, &b, func(k *coreMacKey, why *uint32) {
		switch {
		case k.Slot != slot || *why != macLearned && listed[k.Mac]:
		case *why == macLearned && m.Learned > 0 && learned < uint64(m.Learned):
			learned++
		default:
			stale = append(stale, *k)
		}
	})
	if err != nil {
		return err
	}
	if len(stale) > 0 {
		atomic.StoreUint64(&d.shared.limits[slot].Learned, learned)
	}
	return remove(d.maps.MacsV1, stale)
}

// readMACs are the listed MACs of all slots.
func (d *Datapath) readMACs() (map[uint32][]StationMAC, error) {
	all := map[uint32][]StationMAC{}
	var b batch[coreMacKey, uint32]
	err := each(d.maps.MacsV1, &b, func(k *coreMacKey, why *uint32) {
		if *why != macLearned {
			all[k.Slot] = append(all[k.Slot], StationMAC{MAC: k.Mac, Sibling: *why == macSibling})
		}
	})
	for _, list := range all {
		SortMACs(list)
	}
	return all, err
}

// macsFromCore are a port's as the programs hold them.
func (d *Datapath) macsFromCore(c *corePort, listed []StationMAC) (m MACs) {
	copy(m.Listed[:], listed)
	m.Shared = c.Guards&guardShared != 0
	if c.Guards&guardMACs == 0 {
		m.Listed = [MaxPortMACs]StationMAC{} // nobody asks for what is left over
	} else {
		m.Learned = uint16(atomic.LoadUint64(&d.shared.limits[c.Slot].Macs))
	}
	return m
}
