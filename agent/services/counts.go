package services

import (
	"github.com/weftnet/weft/agent/dhcp"
	"github.com/weftnet/weft/agent/dns"
	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/tracing/export"
)

// Counts are what guests were answered since each server was opened, and the packets that the NAT table's rules have met. It may be
// called by anybody.
func (k *Keeper) Counts() (counts []export.ServiceCount) {
	k.mu.Lock()
	defer k.mu.Unlock()
	add := func(service, device string, byResult map[string]uint64) {
		for result, n := range byResult {
			counts = append(counts, export.ServiceCount{Service: service, Device: device, Result: result, Count: n})
		}
	}
	for _, r := range k.servers {
		switch s := r.server.(type) {
		case *dhcp.Server:
			n := s.Counts()
			add("dhcp", r.config.(dhcp.Config).Device, map[string]uint64{
				"answered": n.Answered, "refused": n.Refused, "unknown": n.Unknown, "malformed": n.Malformed, "unfit": n.Unfit, "limited": n.Limited, "panicked": n.Panicked, "failed": n.Failed,
			})
		case *dns.Server:
			n := s.Counts()
			add("dns", r.config.(dns.Config).Device, map[string]uint64{
				"answered": n.Answered, "asked": n.Asked, "malformed": n.Malformed, "limited": n.Limited, "panicked": n.Panicked,
			})
		}
	}
	if met, err := nat.Counters(); err == nil { // what cannot be read is trouble of Keep's
		add("nat", "", met)
	}
	return counts
}
