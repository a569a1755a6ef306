package fabric

import "time"

// Rates limit what a port may send (out) and receive (in), each by itself.
type Rates struct {
	Out *Rate `json:"out,omitempty"`
	In  *Rate `json:"in,omitempty"`
}

// Rate is what may pass in one direction at most; an empty one limits nothing.
type Rate struct {
	// Max is in bits a second, MinRate to MaxRate, counted on a wire from the Ethernet header on.
	Max Amount `json:"max,omitempty"`
	// Burst is how many bytes may pass at once, MinBurst to MaxBurst; when it is absent, see DefaultBurst.
	Burst Amount `json:"burst,omitempty"`
	// Min and Weight, of which one may be given and only of what is sent, are what the guest can send for certain on the way out of its
	// host, whatever others send: Min in bits a second, 1M and more, or a weight of 1 to 100. All ports of a switch that have one have
	// the same of the two.
	Min    Amount `json:"min,omitempty"`
	Weight int    `json:"weight,omitempty"`
}

// Bounds of a Rate.
const (
	MinRate Amount = 8_000
	MaxRate Amount = 1_000_000_000_000
	// MinBurst has room for the longest aggregate that a guest hands over at once, and MaxBurst bounds what a port can pile up.
	MinBurst Amount = 100_000
	MaxBurst Amount = 1_000_000_000
	// DefaultBurst is the burst of a slow port; a faster one's is what passes in 100 ms.
	DefaultBurst Amount = 128_000
	// longestBurst is the longest that a burst may take at its rate.
	longestBurst = 10 * time.Minute
)

// EffectiveRate is the limit of a direction that is in force; Max 0: there is none.
type EffectiveRate struct {
	Max, Burst Amount
}

// resolveRate decides a direction by the first layer that speaks about it, and completes it.
func resolveRate(field func(*Rates) *Rate, layers []Settings) (e EffectiveRate) {
	for _, layer := range layers {
		if layer.Rate == nil || field(layer.Rate) == nil {
			continue
		}
		r := field(layer.Rate)
		if r.Max == 0 {
			return e
		}
		if e = (EffectiveRate{r.Max, r.Burst}); e.Burst == 0 {
			e.Burst = min(max(DefaultBurst, r.Max/80), MaxBurst)
		}
		return e
	}
	return e
}

func (r *Rates) check(f *Findings) {
	if r == nil {
		return
	}
	r.Out.check(f, "spec.rate.out")
	r.In.check(f, "spec.rate.in")
	if r.Out != nil {
		Least{r.Out.Min, r.Out.Weight}.check(f, "spec.rate.out")
		if r.Out.Min != 0 && r.Out.Max != 0 && r.Out.Min > r.Out.Max {
			f.add("spec.rate.out.min", "%s is more than max, %s", r.Out.Min, r.Out.Max)
		}
	}
	if r.In != nil && (r.In.Min != 0 || r.In.Weight != 0) {
		f.add("spec.rate.in", "a minimum is of what a guest sends: give it as rate.out.min or rate.out.weight of those who send to it")
	}
}

func (r *Rate) check(f *Findings, path string) {
	switch {
	case r == nil:
		return
	case r.Max == 0 && r.Burst != 0:
		f.add(path, "a burst without a rate: give max too, such as 100M")
		return
	case r.Max == 0:
		return
	case r.Max < MinRate || r.Max > MaxRate:
		f.add(path+".max", "%s bits a second is not in %s to %s; an empty %s is no limit", r.Max, MinRate, MaxRate, path[len("spec."):])
		return
	}
	if b := r.Burst; b != 0 && (b < MinBurst || b > MaxBurst) {
		f.add(path+".burst", "%s bytes is not in %s to %s: what is longer than the burst never passes; leave it out for a good one", b, MinBurst, MaxBurst)
	} else if seconds := b * 8 / r.Max; seconds > Amount(longestBurst/time.Second) {
		f.add(path+".burst", "%s bytes take %d s at %s bits a second, the most is %d s", b, seconds, r.Max, longestBurst/time.Second)
	}
}
