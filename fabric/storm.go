package fabric

import "time"

// Storms limit what a port may send to more than one station, or to one that nobody knows, each kind by itself. The core's own budget
// holds for kinds without a limit: 10,000 copies of group frames a second, 2,000 at once.
type Storms struct {
	Broadcast *Storm `json:"broadcast,omitempty"`
	Multicast *Storm `json:"multicast,omitempty"`
	Unknown   *Storm `json:"unknown,omitempty"`
}

// Storm is the most that may pass of a kind: as many packets, and as many bits, as pass in 200 ms may do so at once. An empty one has
// no limit of its own.
type Storm struct {
	// PPS is in packets a second, 1 to MaxPPS.
	PPS Amount `json:"pps,omitempty"`
	// Rate is in bits a second, MinRate to MaxRate.
	Rate Amount `json:"rate,omitempty"`
}

// MaxPPS is the most packets a second that a Storm counts to.
const MaxPPS Amount = 1_000_000_000

// stormTime is for how long a storm may go on at once.
const stormTime = 200 * time.Millisecond

// PacketBurst is how many packets may pass at once.
func (s Storm) PacketBurst() Amount { return max(1, s.PPS/Amount(time.Second/stormTime)) }

// BitBurst is how many bits may pass at once: at least the longest aggregate.
func (s Storm) BitBurst() Amount { return max(8*MinBurst, s.Rate/Amount(time.Second/stormTime)) }

// resolveStorm decides a kind by the first layer that speaks about it.
func resolveStorm(field func(*Storms) *Storm, layers []Settings) Storm {
	for _, layer := range layers {
		if layer.Storm != nil && field(layer.Storm) != nil {
			return *field(layer.Storm)
		}
	}
	return Storm{}
}

// kinds are the fields of Storms by name, in the order of EffectiveSettings.Storm.
func (s *Storms) kinds() []struct {
	name string
	of   *Storm
} {
	return []struct {
		name string
		of   *Storm
	}{{"broadcast", s.Broadcast}, {"multicast", s.Multicast}, {"unknown", s.Unknown}}
}

func (s *Storms) check(f *Findings) {
	if s == nil {
		return
	}
	for _, kind := range s.kinds() {
		if kind.of == nil {
			continue
		}
		path := "spec.storm." + kind.name
		if kind.of.PPS > MaxPPS {
			f.add(path+".pps", "%s packets a second, the most is %s", kind.of.PPS, MaxPPS)
		}
		if r := kind.of.Rate; r != 0 && (r < MinRate || r > MaxRate) {
			f.add(path+".rate", "%s bits a second is not in %s to %s", r, MinRate, MaxRate)
		}
	}
}
