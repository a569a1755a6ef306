package datapath

import (
	"errors"
	"fmt"
	"strings"
	"unsafe"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/fabric"
)

// batchSize is how many elements one system call moves, at most, and batchBytes how much memory is kept for them.
const (
	batchSize  = 4096
	batchBytes = 512 << 10
)

// each calls fn with every key and value of a hash map, a batch at a time; fn must not keep the pointers. An element that
// is put or deleted meanwhile may be seen or missed.
func each[K, V any](m *ebpf.Map, b *batch[K, V], fn func(*K, *V)) error {
	b.size(b.most())
	var cursor ebpf.MapBatchCursor
	for {
		n, err := m.BatchLookup(&cursor, b.keys, b.values, nil)
		if errors.Is(err, errNoSpace) { // one bucket holds more than the batch
			b.size(2 * len(b.keys))
			continue
		}
		for i := range n {
			fn(&b.keys[i], &b.values[i])
		}
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("read %s: %w", m, err)
		}
	}
}

// batch is memory for one kind of map, kept from one call to the next.
type batch[K, V any] struct {
	keys   []K
	values []V
}

// most is how many elements are read at once: those of a large kind take no more memory than those of a small one.
func (b *batch[K, V]) most() int {
	var k K
	var v V
	return max(16, min(batchSize, batchBytes/int(unsafe.Sizeof(k)+unsafe.Sizeof(v))))
}

// size makes room for n elements.
func (b *batch[K, V]) size(n int) {
	if len(b.keys) < n {
		b.keys, b.values = make([]K, n), make([]V, n)
	}
}

func (b *batch[K, V]) add(k K, v V) { b.keys, b.values = append(b.keys, k), append(b.values, v) }

// put writes all elements with as few calls as possible.
func (b *batch[K, V]) put(m *ebpf.Map) error {
	for from := 0; from < len(b.keys); from += batchSize {
		to := min(from+batchSize, len(b.keys))
		if _, err := m.BatchUpdate(b.keys[from:to], b.values[from:to], nil); err != nil {
			return fullError(fmt.Sprintf("write %s", m), err)
		}
	}
	return nil
}

// remove deletes the keys with as few calls as possible; those that are not there are gone already.
func remove[K any](m *ebpf.Map, keys []K) error {
	for len(keys) > 0 {
		n, err := m.BatchDelete(keys[:min(len(keys), batchSize)], nil)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			n++ // the kernel stops before a key that is not there
		} else if err != nil {
			return fmt.Errorf("delete from %s: %w", m, err)
		}
		keys = keys[n:]
	}
	return nil
}

// errMapFull is a map without room. It stands for what the kernel says of it (E2BIG: "argument list too long").
var errMapFull = errors.New("the map is full")

// fullError says what failed, and what to do where the reason is a map without room.
func fullError(what string, err error) error {
	switch {
	case !errors.Is(err, errTooBig):
		return fmt.Errorf("%s: %w", what, err)
	case strings.Contains(what, "(fdb_") || strings.Contains(what, "(neighbors_"):
		return fmt.Errorf("%s: %w: this host sees more stations than the core holds", what, errMapFull)
	case strings.HasPrefix(what, "put "):
		return fmt.Errorf("%s: %w: this host's ports are on more segments than the core holds; move some to another host", what, errMapFull)
	}
	return fmt.Errorf("%s: %w: the ports of this host have more rules than the core holds; give them fewer, put addresses into groups, or move some ports to another host", what, errMapFull)
}

// buffers are kept from one call to the next, so that reading the kernel every second leaves little garbage.
type buffers struct {
	fdb       batch[coreFdbKey, coreFdb]
	neighbors batch[coreNeighborKey, coreNeighbor]
	ports     batch[uint32, corePort]
	networks  batch[uint32, coreNetwork]
	vteps     batch[coreAddress, uint32]
	trunks    batch[coreTrunkKey, uint32]
	segments  batch[coreSegmentKey, coreSegment]
}

// putFDB writes entries, save those that the kernel holds under a later epoch.
func (d *Datapath) putFDB(entries map[FDBKey]FDB, failed *failures) {
	if len(entries) == 0 {
		return
	}
	held, err := d.epochs(entries)
	if err != nil {
		failed.add(err)
		return
	}
	var b batch[coreFdbKey, coreFdb]
	for key, e := range entries {
		if e.Epoch < held[key] {
			continue
		}
		value, err := d.fdbToCore(key, e)
		if err != nil {
			failed.add(fmt.Errorf("put station %s on VNI %d: %w", key.MAC, key.VNI, err))
			continue
		}
		b.add(key.toCore(), value)
	}
	failed.add(b.put(d.maps.FdbV1))
}

// epochs are the epochs under which the kernel holds the stations: one by one for a few, all in one sweep for many.
func (d *Datapath) epochs(of map[FDBKey]FDB) (map[FDBKey]fabric.Epoch, error) {
	held := make(map[FDBKey]fabric.Epoch, len(of))
	if len(of) > 256 {
		err := each(d.maps.FdbV1, &d.buffers.fdb, func(k *coreFdbKey, v *coreFdb) {
			held[FDBKey{VNI: fabric.VNI(k.Vni), MAC: k.Mac}] = fabric.Epoch(v.Epoch)
		})
		return held, err
	}
	for key := range of {
		var v coreFdb
		k := key.toCore()
		err := d.maps.FdbV1.Lookup(&k, &v)
		if err == nil {
			held[key] = fabric.Epoch(v.Epoch)
		} else if !errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil, fmt.Errorf("read station %s on VNI %d: %w", key.MAC, key.VNI, err)
		}
	}
	return held, nil
}

// deleteFDB removes entries, save those that the kernel holds under a later epoch than the one to be removed.
func (d *Datapath) deleteFDB(entries map[FDBKey]FDB) error {
	if len(entries) == 0 {
		return nil
	}
	held, err := d.epochs(entries)
	if err != nil {
		return err
	}
	keys := make([]coreFdbKey, 0, len(entries))
	for key, e := range entries {
		if held[key] <= e.Epoch {
			keys = append(keys, key.toCore())
		}
	}
	return remove(d.maps.FdbV1, keys)
}

func (k FDBKey) toCore() coreFdbKey { return coreFdbKey{Vni: uint32(k.VNI), Mac: k.MAC} }

// fdbToCore is the entry as the programs hold it. A relay without a device is counted for the port of that MAC here.
func (d *Datapath) fdbToCore(key FDBKey, e FDB) (c coreFdb, err error) {
	c.Epoch = uint64(e.Epoch)
	if c.Peer, err = d.peerID(e.Peer); err != nil {
		return c, err
	}
	if c.Alt, err = d.peerID(e.Alt); err != nil {
		return c, err
	}
	if key.MAC == fabric.GatewayMAC(key.VNI) {
		c.Flags |= fdbGateway
	}
	if e.Carried {
		c.Flags |= fdbCarried
	}
	if e.Source {
		if e.Device != "" || e.Relay || e.Carried {
			return c, errors.New("a station that receives nothing has no device, and is no relay's")
		}
		c.Flags |= fdbSource
	}
	if e.Relay {
		c.Flags |= fdbRelay
		c.Slot = d.slotOf(key)
	}
	if e.Device == "" {
		return c, nil
	}
	p := d.ports[e.Device]
	if p == nil {
		return c, fmt.Errorf("device %s carries no port here; put the port first", e.Device)
	}
	if p.value.Name[0] == 0 && c.Peer != 0 {
		return c, nil // the port could not be put, for want of its rules perhaps: until it can, the station is where its peer has it
	}
	c.Flags |= fdbLocal
	c.Slot = p.value.Slot
	return c, nil
}

// slotOf is the slot of the port with this MAC here, 0 when there is none.
func (d *Datapath) slotOf(key FDBKey) uint32 {
	for _, p := range d.ports {
		if p.value.Vni == uint32(key.VNI) && p.value.Mac == key.MAC {
			return p.value.Slot
		}
	}
	return 0
}

// forgetSlot removes the stations that a slot was the place of, before the slot gets another owner.
func (d *Datapath) forgetSlot(slot uint32) error {
	var keys []coreFdbKey
	err := each(d.maps.FdbV1, &d.buffers.fdb, func(k *coreFdbKey, v *coreFdb) {
		if v.Slot == slot && v.Flags&fdbLocal != 0 {
			keys = append(keys, *k)
		}
	})
	return errors.Join(err, remove(d.maps.FdbV1, keys))
}

// putNeighbors writes what ARP and ND answer.
func (d *Datapath) putNeighbors(entries map[NeighborKey]fabric.MAC, failed *failures) {
	var b batch[coreNeighborKey, coreNeighbor]
	for key, mac := range entries {
		if !key.Addr.IsValid() {
			failed.add(fmt.Errorf("put neighbor with MAC %s on VNI %d: it has no address", mac, key.VNI))
			continue
		}
		b.add(key.toCore(), coreNeighbor{Mac: mac})
	}
	failed.add(b.put(d.maps.NeighborsV1))
}

func (d *Datapath) deleteNeighbors(entries map[NeighborKey]fabric.MAC) error {
	keys := make([]coreNeighborKey, 0, len(entries))
	for key := range entries {
		keys = append(keys, key.toCore())
	}
	return remove(d.maps.NeighborsV1, keys)
}

func (k NeighborKey) toCore() coreNeighborKey {
	return coreNeighborKey{Vni: uint32(k.VNI), Address: toCore(k.Addr)}
}
