package datapath

import (
	"context"
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Heard is a station on the wire that has sent something to a guest here.
type Heard struct {
	// Device is the NIC that it was heard at.
	Device string
	// Ago is how long ago, to a second or so.
	Ago time.Duration
}

// heardFor is how long a station on the wire is remembered after it was heard last; the core forgets the oldest sooner when it
// hears more than 16,384.
const heardFor = 5 * time.Minute

// Heard returns the stations on the wire that guests here have heard of in the last five minutes. They are for showing: no frame is
// forwarded by them.
func (d *Datapath) Heard(ctx context.Context) (map[FDBKey]Heard, error) {
	if err := d.begin(ctx); err != nil {
		return nil, fmt.Errorf("read the stations on the wire: %w", err)
	}
	defer d.mu.Unlock()
	devices := map[uint32]string{}
	for device, u := range d.uplinks {
		devices[u.value.Ifindex] = device
	}
	all, now := map[FDBKey]Heard{}, monotonic()
	var key coreFdbKey
	var h coreHeard
	entries := d.maps.HeardV1.Iterate()
	for entries.Next(&key, &h) {
		ago := time.Duration(max(now, h.At) - h.At)
		if device, there := devices[h.Ifindex]; there && ago <= heardFor {
			all[FDBKey{VNI: fabric.VNI(key.Vni), MAC: key.Mac}] = Heard{Device: device, Ago: ago}
		}
	}
	if err := entries.Err(); err != nil {
		return nil, fmt.Errorf("read the stations on the wire: %w", err)
	}
	return all, nil
}
