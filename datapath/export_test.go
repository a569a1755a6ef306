package datapath

import (
	"sync/atomic"
	"time"

	"github.com/weftnet/weft/policy"
)

// EndTruces lets the time pass for which programs are left off.
func (d *Datapath) EndTruces() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for key, f := range d.fights {
		if !f.until.IsZero() {
			f.until = time.Now()
			d.fights[key] = f
		}
	}
}

// Attempts is how often a table was tried in vain.
func (d *Datapath) Attempts(digest policy.Digest) int {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.tables.refused[digest].attempts
}

// EndRefusals lets the time pass for which tables are not tried again.
func (d *Datapath) EndRefusals() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for digest, r := range d.tables.refused {
		r.until = time.Now()
		d.tables.refused[digest] = r
	}
}

// GraceOfMaps is what grace does where membarrier is refused.
func (d *Datapath) GraceOfMaps() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.graceOfMaps()
}

// PruneHits keeps the hits of at most so many rules, beside those that judge.
func (d *Datapath) PruneHits(most int) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.pruneHits(most)
}

// Tracing is what the programs look for.
func (d *Datapath) Tracing() uint32 { return atomic.LoadUint32(&d.shared.config.Tracing) }
