package store

import (
	"context"
	"encoding/json"
	"fmt"
	"hash/maphash"
	"maps"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// mark is what is remembered of a record besides its content: enough to notice that etcd tells another story later.
type mark struct {
	revision int64
	sum      uint64 // of the value; 0 when it is not known
}

// change is one record as it is at its revision; a nil value means that it was deleted.
type change struct {
	record
	deleted bool
}

// table is the wanted state as it was read so far: a snapshot that is replaced, never changed, and marks of every record
// but the index. Snapshots share all records, and all maps that did not change.
type table struct {
	current  *fabric.Snapshot
	revision int64 // up to which nothing is missing
	marks    map[string]mark
	bad      map[string]string // records that cannot be read, with the sentence about them
	newest   anchor            // the newest change of all
	older    anchor            // the newest change at the last probe but one
	seed     maphash.Seed
	words    map[string]string // texts that many records share
}

// anchor is a change that the history of etcd must always show: the record at its revision, or its absence.
type anchor struct {
	key     string
	mark    mark
	deleted bool
}

// newTable starts from a snapshot that was followed before, or from nothing.
func newTable(last *fabric.Snapshot) *table {
	t := &table{current: emptySnapshot(), marks: map[string]mark{}, bad: map[string]string{}, seed: maphash.MakeSeed(), words: map[string]string{}}
	if last == nil {
		return t
	}
	c := *last
	c.Problems = nil
	t.current, t.revision = &c, int64(last.Revision)
	note := func(k string, rev fabric.Revision) {
		t.marks[k] = mark{revision: int64(rev)}
		if int64(rev) > t.newest.mark.revision {
			t.newest = anchor{key: k, mark: mark{revision: int64(rev)}}
		}
	}
	for _, o := range objectsOf(last) {
		note(objectKey(o), o.Meta().Revision)
	}
	for _, l := range last.Locations {
		note(locationKey(l.Switch, l.Port), l.Revision)
	}
	return t
}

func emptySnapshot() *fabric.Snapshot {
	return &fabric.Snapshot{
		Hosts: map[fabric.HostID]*fabric.Host{}, Switches: map[fabric.SwitchID]*fabric.Switch{},
		Ports: map[fabric.PortID]*fabric.Port{}, Profiles: map[string]*fabric.Profile{}, Groups: map[string]*fabric.Group{},
		Policies: map[string]*fabric.Policy{}, Mirrors: map[string]*fabric.Mirror{},
		Moves: map[fabric.MoveID]*fabric.Move{}, Locations: map[fabric.PortID]fabric.Location{},
	}
}

func objectsOf(s *fabric.Snapshot) []fabric.Object {
	var all []fabric.Object
	for _, o := range s.Hosts {
		all = append(all, o)
	}
	for _, o := range s.Switches {
		all = append(all, o)
	}
	for _, o := range s.Ports {
		all = append(all, o)
	}
	for _, o := range s.Profiles {
		all = append(all, o)
	}
	for _, o := range s.Groups {
		all = append(all, o)
	}
	for _, o := range s.Policies {
		all = append(all, o)
	}
	for _, o := range s.Mirrors {
		all = append(all, o)
	}
	for _, o := range s.Moves {
		all = append(all, o)
	}
	return all
}

// load reads everything but the index, as of a revision, the current one when 0, into an empty table.
func (t *table) load(ctx context.Context, s *Store, at int64) error {
	var changes []change
	rev, err := s.everything(ctx, at, false, func(r record) { changes = append(changes, change{record: r}) })
	if err != nil {
		return err
	}
	t.apply(changes, rev)
	return nil
}

// everything hands over all records but the index as of a revision, the current one when 0, and returns the revision.
func (s *Store) everything(ctx context.Context, rev int64, keysOnly bool, fn func(record)) (int64, error) {
	each := func(_ int64, r record) { fn(r) }
	pin := func(r int64) { rev = r }
	if err := s.each(ctx, prefix, indexPrefix, rev, keysOnly, each, pin); err != nil {
		return 0, err
	}
	return rev, s.each(ctx, indexEnd, prefixEnd, rev, keysOnly, each, pin)
}

// forget makes the table take everything over, older or not, at the next comparison. What it holds stays until then.
func (t *table) forget() {
	for k := range t.marks {
		t.marks[k] = mark{revision: -1}
	}
	t.revision, t.newest, t.older = 0, anchor{}, anchor{}
}

// snapshot is the current state with what is wrong with the data.
func (t *table) snapshot(problems ...string) *fabric.Snapshot {
	c := *t.current
	for _, k := range slices.Sorted(maps.Keys(t.bad)) {
		problems = append(problems, t.bad[k])
	}
	c.Problems = problems
	return &c
}

// apply takes changes over, in order; the snapshot is then complete up to revision rev. It reports whether anything that
// a reader of snapshots sees has changed.
func (t *table) apply(changes []change, rev int64) bool {
	next := &edit{Snapshot: *t.current, words: t.words}
	seen := false
	for _, c := range changes {
		if len(c.key) >= len(indexPrefix) && c.key[:len(indexPrefix)] == indexPrefix {
			continue
		}
		if t.one(next, c) {
			seen = true
		}
	}
	t.revision = max(t.revision, rev)
	if seen || t.current.Revision == 0 {
		next.Revision = fabric.Revision(t.revision)
		t.current = &next.Snapshot
	}
	return seen
}

// one takes one change over. A value that cannot be read leaves the last good version where it is: damage must never
// look like a deletion.
func (t *table) one(next *edit, c change) bool {
	if c.deleted {
		delete(t.marks, c.key)
		delete(t.bad, c.key)
		t.note(anchor{key: c.key, mark: mark{revision: c.revision}, deleted: true})
		next.remove(c.key)
		return true
	}
	m := mark{revision: c.revision, sum: maphash.Bytes(t.seed, c.value)}
	t.marks[c.key] = m
	t.note(anchor{key: c.key, mark: m})
	if err := next.put(c.record); err != nil {
		t.bad[c.key] = fmt.Sprintf("%v; its last good version, if there was one, stays in force: apply it again", err)
		return true
	}
	delete(t.bad, c.key)
	return true
}

func (t *table) note(a anchor) {
	if a.mark.revision >= t.newest.mark.revision {
		t.newest = a
	}
}

// edit is a snapshot in the making; each map is copied before its first change.
type edit struct {
	fabric.Snapshot
	copied [9]bool
	words  map[string]string // the table's
}

// own makes a map of the edit its own before it is written.
func own[K comparable, V any](e *edit, i int, m *map[K]V) map[K]V {
	if !e.copied[i] {
		*m = maps.Clone(*m)
		e.copied[i] = true
	}
	return *m
}

func (e *edit) put(r record) error {
	if r.key == incarnationKey {
		var inc incarnation
		if err := json.Unmarshal(r.value, &inc); err != nil {
			return broken(r, err)
		}
		e.Incarnation = inc.ID
		return nil
	}
	p, ok := parse(r.key)
	if !ok {
		return nil // of another release
	}
	if p.location {
		l, err := decodeLocation(r)
		if err != nil {
			return err
		}
		l.Port, l.Switch, l.Host = fabric.PortID(p.name), fabric.SwitchID(e.word(string(l.Switch))), fabric.HostID(e.word(string(l.Host)))
		own(e, 0, &e.Locations)[l.Port] = l
		return nil
	}
	o, err := decodeObject(r)
	if err != nil {
		return err
	}
	switch o := o.(type) {
	case *fabric.Host:
		own(e, 1, &e.Hosts)[fabric.HostID(p.name)] = o
	case *fabric.Switch:
		own(e, 2, &e.Switches)[fabric.SwitchID(p.name)] = o
	case *fabric.Port:
		own(e, 3, &e.Ports)[fabric.PortID(p.name)] = e.share(o)
	case *fabric.Profile:
		own(e, 4, &e.Profiles)[p.name] = o
	case *fabric.Group:
		own(e, 5, &e.Groups)[p.name] = o
	case *fabric.Policy:
		own(e, 7, &e.Policies)[p.name] = o
	case *fabric.Mirror:
		own(e, 8, &e.Mirrors)[p.name] = o
	case *fabric.Move:
		own(e, 6, &e.Moves)[fabric.MoveID(p.name)] = o
	}
	return nil
}

// word returns the one copy of a text that many records hold: ten thousand ports name the same few switches.
func (e *edit) word(s string) string {
	if one, ok := e.words[s]; ok {
		return one
	}
	e.words[s] = s
	return s
}

// share lets a port's texts be those of other records.
func (e *edit) share(p *fabric.Port) *fabric.Port {
	p.Spec.Switch = fabric.SwitchID(e.word(string(p.Spec.Switch)))
	p.Spec.Host = fabric.HostID(e.word(string(p.Spec.Host)))
	p.Spec.Profile = e.word(p.Spec.Profile)
	if p.Spec.VM == p.Metadata.Name {
		p.Spec.VM = p.Metadata.Name
	}
	return p
}

func (e *edit) remove(k string) {
	p, ok := parse(k)
	if !ok {
		return
	}
	if p.location {
		// A port of this name may be on another switch by now.
		if e.Locations[fabric.PortID(p.name)].Switch == p.sw {
			delete(own(e, 0, &e.Locations), fabric.PortID(p.name))
		}
		return
	}
	switch p.kind {
	case fabric.KindHost:
		delete(own(e, 1, &e.Hosts), fabric.HostID(p.name))
	case fabric.KindSwitch:
		delete(own(e, 2, &e.Switches), fabric.SwitchID(p.name))
	case fabric.KindPort:
		if port := e.Ports[fabric.PortID(p.name)]; port != nil && port.Spec.Switch == p.sw {
			delete(own(e, 3, &e.Ports), fabric.PortID(p.name))
		}
	case fabric.KindProfile:
		delete(own(e, 4, &e.Profiles), p.name)
	case fabric.KindGroup:
		delete(own(e, 5, &e.Groups), p.name)
	case fabric.KindPolicy:
		delete(own(e, 7, &e.Policies), p.name)
	case fabric.KindMirror:
		delete(own(e, 8, &e.Mirrors), p.name)
	case fabric.KindMove:
		delete(own(e, 6, &e.Moves), fabric.MoveID(p.name))
	}
}
