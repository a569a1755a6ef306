package datapath

import (
	"encoding/binary"
	"math/bits"
	"net/netip"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/policy"
)

// liveParts are the numbers of tables and parts that are in use.
type liveParts struct {
	tables, shapes, places map[uint32]bool
}

func (l *liveParts) add(id uint32, t *coreTable) {
	if l.tables == nil {
		*l = liveParts{map[uint32]bool{}, map[uint32]bool{}, map[uint32]bool{}}
	}
	l.tables[id], l.shapes[t.Shape], l.places[t.Places] = true, true, true
}

func (d *Datapath) liveParts() (l liveParts) {
	for _, t := range d.tables.byDigest {
		l.add(t.id, &t.value)
	}
	return l
}

// sweepParts removes what belongs to no table: of those that are deleted, and of those that were never completed.
func (d *Datapath) sweepParts(live liveParts) error {
	for _, sweep := range []func() error{
		func() error {
			return sweepKeys[coreServiceKey, uint32](d.maps.ServicesV1, func(k *coreServiceKey) bool { return live.shapes[k.Shape] })
		},
		func() error {
			return sweepKeys[coreExactKey, uint32](d.maps.ExactsV1, func(k *coreExactKey) bool { return live.shapes[k.Shape] })
		},
		func() error {
			return sweepKeys[coreVectorKey, coreVector](d.maps.VectorsV1, func(k *coreVectorKey) bool { return live.shapes[k.Shape] })
		},
		func() error {
			return sweepKeys[corePlaceKey, uint32](d.maps.PlacesV1, func(k *corePlaceKey) bool { return live.places[k.Places] })
		},
		func() error {
			return sweepKeys[coreRuleKey, coreRule](d.maps.RulesV1, func(k *coreRuleKey) bool { return live.tables[k.Table] })
		},
	} {
		if err := sweep(); err != nil {
			return err
		}
	}
	return nil
}

// sweepKeys removes the entries whose keys are not to be kept.
func sweepKeys[K, V any](m *ebpf.Map, keep func(*K) bool) error {
	var stale []K
	var b batch[K, V]
	err := each(m, &b, func(k *K, _ *V) {
		if !keep(k) {
			stale = append(stale, *k)
		}
	})
	if err != nil {
		return err
	}
	return remove(m, stale)
}

// writeVectors writes the vectors of a table, some at a time: all of a large one's would take as much memory again.
func (d *Datapath) writeVectors(shape uint32, t *policy.Table) error {
	var b batch[coreVectorKey, coreVector]
	for in := range t.Sides {
		vectors := t.Sides[in].Vectors
		for i := range vectors {
			v := &vectors[i]
			key := coreVectorKey{Shape: shape, Class: v.Class, InDim: uint8(in<<4 | int(v.Dim)), Block: v.Block}
			b.add(key, coreVector{Summary: v.Summary, Words: v.Words})
			if len(b.keys) < vectorsAtOnce {
				continue
			}
			if err := b.put(d.maps.VectorsV1); err != nil {
				return err
			}
			b.keys, b.values = b.keys[:0], b.values[:0]
		}
	}
	return b.put(d.maps.VectorsV1)
}

// vectorsAtOnce are half a megabyte of vectors.
const vectorsAtOnce = 1024

// writeShape writes the vectors, services and exact values of a table.
func (d *Datapath) writeShape(shape uint32, t *policy.Table) error {
	if err := d.writeVectors(shape, t); err != nil {
		return err
	}
	var services batch[coreServiceKey, uint32]
	var exacts batch[coreExactKey, uint32]
	for in := range t.Sides {
		s := &t.Sides[in]
		for _, e := range s.Services {
			key := coreServiceKey{Bits: serviceBits(e.Bits), Shape: shape, InDim: uint8(in<<4 | int(e.Dim)), Kind: uint8(e.Kind), Proto: e.Proto, Port: bits.ReverseBytes16(e.Port)}
			services.add(key, uint32(e.Class))
		}
		for _, e := range s.Exacts {
			exacts.add(coreExactKey{Shape: shape, In: uint8(in), Dim: uint8(e.Dim), Value: e.Value}, uint32(e.Class))
		}
	}
	if err := services.put(d.maps.ServicesV1); err != nil {
		return err
	}
	return exacts.put(d.maps.ExactsV1)
}

// serviceBits is how much of a service's key counts: the number of the shape and the dimension, the kind, the protocol with
// the byte that follows it, the port (struct service_key in bpf/tables.h).
func serviceBits(of uint8) uint32 {
	if of <= 16 {
		return 40 + uint32(of)
	}
	return 64 + uint32(of) - 24
}

// writePlaces writes the addresses of a table.
func (d *Datapath) writePlaces(places uint32, t *policy.Table) error {
	var b batch[corePlaceKey, uint32]
	for in := range t.Sides {
		for _, a := range t.Sides[in].Addresses {
			key := corePlaceKey{Places: places, In: uint8(in), Dim: uint8(a.Dim)}
			key.Family, key.Address = placeOf(a.Prefix.Addr())
			key.Bits = 64 + uint32(a.Prefix.Bits())
			b.add(key, uint32(a.Class))
		}
	}
	return b.put(d.maps.PlacesV1)
}

// placeOf is an address as the trie holds it: IPv4 in the first word.
func placeOf(a netip.Addr) (family uint8, words [4]uint32) {
	b := a.AsSlice()
	for i := 0; i < len(b); i += 4 {
		words[i/4] = binary.NativeEndian.Uint32(b[i:])
	}
	if a.Is4() {
		return 4, words
	}
	return 6, words
}

// writeRules writes what the rules of a table do.
func (d *Datapath) writeRules(id uint32, t *policy.Table) error {
	var b batch[coreRuleKey, coreRule]
	for in := range t.Sides {
		for meter, outcomes := range [][]policy.Outcome{t.Sides[in].Decides, t.Sides[in].Meters} {
			for i, o := range outcomes {
				key := coreRuleKey{Table: id, Index: uint16(i), In: uint8(in), Meter: uint8(meter)}
				rule := coreRule{Id: uint64(o.ID), Idle: o.Idle, Sample: o.Sample, Act: uint8(o.Act)}
				if o.Stateful {
					rule.Stateful = 1
				}
				b.add(key, rule)
			}
		}
	}
	return b.put(d.maps.RulesV1)
}
