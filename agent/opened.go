package agent

import (
	"sync"
	"time"

	"github.com/weftnet/weft/fabric"
)

// openings tells those who stage a port when its guest's first frame has opened it.
type openings struct {
	mu      sync.Mutex
	waiting map[fabric.PortID][]chan<- time.Time
}

// tell wakes all who wait for the port.
func (o *openings) tell(port fabric.PortID, at time.Time) {
	o.mu.Lock()
	defer o.mu.Unlock()
	for _, c := range o.waiting[port] {
		select {
		case c <- at:
		default: // it was told already
		}
	}
}

// wait returns a channel that gets the time of the port's opening, and a function that ends the waiting.
func (o *openings) wait(port fabric.PortID) (<-chan time.Time, func()) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.waiting == nil {
		o.waiting = map[fabric.PortID][]chan<- time.Time{}
	}
	c := make(chan time.Time, 1)
	o.waiting[port] = append(o.waiting[port], c)
	return c, func() {
		o.mu.Lock()
		defer o.mu.Unlock()
		rest := o.waiting[port][:0]
		for _, other := range o.waiting[port] {
			if other != (chan<- time.Time)(c) {
				rest = append(rest, other)
			}
		}
		if o.waiting[port] = rest; len(rest) == 0 {
			delete(o.waiting, port)
		}
	}
}
