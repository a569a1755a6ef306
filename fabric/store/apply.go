package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"time"

	"github.com/weftnet/weft/fabric"
)

// Limits of Apply.
const (
	// attempts bounds how often a change is computed anew because somebody else wrote in between.
	attempts = 64
	// bulk is how many objects make reading everything at once cheaper than reading each record.
	bulk = 8
)

// ApplyOptions modify an apply.
type ApplyOptions struct {
	// DryRun checks everything, allocations included, and writes nothing.
	DryRun bool
}

// Outcome is what an apply did to one object.
type Outcome string

// The outcomes of an apply.
const (
	Created    Outcome = "created"
	Configured Outcome = "configured"
	Unchanged  Outcome = "unchanged"
)

// Applied says what became of one object.
type Applied struct {
	// Object is the object as stored, with everything that was allocated and its revision.
	Object  fabric.Object
	Outcome Outcome
}

// ApplyResult says what became of all objects of an apply.
type ApplyResult struct {
	// Objects are in the order of the request.
	Objects []Applied
	// Revision is that of the change, or of the newest object when nothing changed; the objects are in force on a host whose
	// generation is at least this. 0 after a dry run that would have changed something.
	Revision fabric.Revision
}

// Apply makes the objects what is given: it validates them, checks what they refer to (among what is stored and one
// another), allocates the VNI, MAC and addresses that were left out, and writes all of them in one transaction or none.
// Applying twice changes nothing the second time. Where metadata.revision is given, the object must still have it.
//
// Errors: fabric.ErrInvalid (a broken rule, or a reference to nothing), fabric.ErrConflict (a MAC, address, VNI, subnet or
// name that has an owner, which is named; a revision that is no longer current; an exhausted pool), ErrUnavailable.
func (s *Store) Apply(ctx context.Context, objects []fabric.Object, o ApplyOptions) (ApplyResult, error) {
	wanted, err := prepare(objects)
	if err != nil {
		return ApplyResult{}, err
	}
	doing := fmt.Sprintf("apply %d objects", len(objects))
	if len(objects) == 1 {
		doing = "apply " + fabric.Ref(objects[0])
	}
	maybe := map[string]Outcome{} // of attempts of which it is not known whether they succeeded
	for attempt := range attempts {
		if err := s.pause(ctx, attempt); err != nil {
			return ApplyResult{}, fmt.Errorf("%s: %w", doing, err)
		}
		a := &applying{draft: s.newDraft(ctx), attempt: attempt}
		result, err := a.all(wanted)
		if err != nil {
			return ApplyResult{}, fmt.Errorf("%s: %w", doing, err)
		}
		if o.DryRun || len(a.writes) == 0 {
			return remember(result, maybe), nil
		}
		rev, done, err := a.commit(doing)
		if err != nil && errors.Is(err, ErrUnavailable) && ctx.Err() == nil && attempt < 2 {
			for _, r := range result.Objects {
				maybe[fabric.Ref(r.Object)] = r.Outcome
			}
			continue
		}
		if err != nil {
			return ApplyResult{}, err
		}
		if done {
			return stamp(result, fabric.Revision(rev)), nil
		}
	}
	return ApplyResult{}, fmt.Errorf("%s: others wrote the same records %d times in between: try again: %w", doing, attempts, fabric.ErrConflict)
}

// prepare copies, defaults and validates the objects.
func prepare(objects []fabric.Object) ([]fabric.Object, error) {
	var errs []error
	seen := map[string]bool{}
	wanted := make([]fabric.Object, 0, len(objects))
	for _, o := range objects {
		c, err := clone(o)
		if err != nil {
			return nil, err
		}
		c.Default()
		if err := c.Validate(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", fabric.Ref(o), err))
			continue
		}
		switch ref := fabric.Ref(c); {
		case c.Type().Kind == fabric.KindMove:
			errs = append(errs, fmt.Errorf("%s: a move is made by migrating a VM, not by apply: %w", ref, fabric.ErrInvalid))
		case seen[ref]:
			errs = append(errs, fmt.Errorf("%s is given twice: remove one: %w", ref, fabric.ErrInvalid))
		default:
			seen[ref] = true
		}
		wanted = append(wanted, c)
	}
	return wanted, errors.Join(errs...)
}

// pause waits before another attempt, longer and more at random each time, so that many writers do not meet again.
func (s *Store) pause(ctx context.Context, attempt int) error {
	if attempt == 0 {
		return ctx.Err()
	}
	most := min(uint32(1)<<min(attempt, 6), 64)
	wait := time.NewTimer(time.Duration(s.random(most*1000)) * time.Microsecond)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// remember corrects the outcome of objects that an earlier attempt wrote although its answer was lost.
func remember(r ApplyResult, maybe map[string]Outcome) ApplyResult {
	for i, o := range r.Objects {
		r.Revision = max(r.Revision, o.Object.Meta().Revision)
		if earlier, ok := maybe[fabric.Ref(o.Object)]; ok && o.Outcome == Unchanged {
			r.Objects[i].Outcome = earlier
		}
	}
	return r
}

// stamp gives what was written the revision of the transaction.
func stamp(r ApplyResult, rev fabric.Revision) ApplyResult {
	r.Revision = rev
	for _, o := range r.Objects {
		if o.Outcome != Unchanged {
			o.Object.Meta().Revision = rev
		}
	}
	return r
}

// applying is one attempt at an apply.
type applying struct {
	*draft
	attempt int
	pools   map[netip.Prefix]*pool // by subnet; subnets of two switches never overlap
	judged  judged
	served  served
	minima  minima
	// segmented is set when a profile has changed its VLAN, or a switch its profile.
	segmented bool
}

// all puts every object into the draft; an apply may bring a switch together with its ports.
func (a *applying) all(wanted []fabric.Object) (ApplyResult, error) {
	if len(wanted) >= bulk {
		if err := a.load(prefix); err != nil {
			return ApplyResult{}, err
		}
	}
	order := make([]int, len(wanted))
	for i := range order {
		order[i] = i
	}
	slices.SortStableFunc(order, func(x, y int) int { return cmp.Compare(rank(wanted[x]), rank(wanted[y])) })
	var errs []error
	result := ApplyResult{Objects: make([]Applied, len(wanted))}
	for _, i := range order {
		o, err := clone(wanted[i])
		if err != nil {
			return ApplyResult{}, err
		}
		outcome, err := a.one(o)
		if errors.Is(err, ErrUnavailable) || a.ctx.Err() != nil {
			return ApplyResult{}, err
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", fabric.Ref(o), err))
		}
		result.Objects[i] = Applied{Object: o, Outcome: outcome}
	}
	if err := errors.Join(errs...); err != nil {
		return ApplyResult{}, err
	}
	if err := a.segments(); err != nil {
		return ApplyResult{}, err
	}
	if err := a.quotas(); err != nil {
		return ApplyResult{}, err
	}
	if err := a.services(); err != nil {
		return ApplyResult{}, err
	}
	if err := a.reserved(); err != nil {
		return ApplyResult{}, err
	}
	return result, a.ensureIncarnation()
}

// rank orders an apply: what others refer to first, and of one kind those first that say which values they want, so that
// nothing that is left out is allocated away from them.
func rank(o fabric.Object) int {
	r := 2 * slices.Index(fabric.Kinds(), o.Type().Kind)
	switch o := o.(type) {
	case *fabric.Switch:
		if o.Spec.VNI == 0 {
			r++
		}
	case *fabric.Mirror:
		if o.Spec.VNI == 0 {
			r++
		}
	case *fabric.Port:
		if o.Spec.Addresses == nil || o.Spec.MAC.IsZero() {
			r++
		}
	}
	return r
}

// one puts one object into the draft and completes it with what is allocated.
func (a *applying) one(o fabric.Object) (Outcome, error) {
	before, err := a.before(o)
	if err != nil {
		return "", err
	}
	switch o := o.(type) {
	case *fabric.Policy:
		err = a.policy(o)
	case *fabric.Profile:
		err = a.profile(o, as[*fabric.Profile](before))
	case *fabric.Host:
		err = a.host(o, as[*fabric.Host](before))
	case *fabric.Switch:
		err = a.sw(o, as[*fabric.Switch](before))
	case *fabric.Mirror:
		err = a.mirror(o, as[*fabric.Mirror](before))
	case *fabric.Port:
		err = a.port(o, as[*fabric.Port](before))
	}
	if err != nil {
		return "", err
	}
	outcome := Created
	if before != nil {
		equal, err := same(o, before)
		if err != nil {
			return "", err
		}
		if equal {
			*o.Meta() = *before.Meta()
			return Unchanged, nil
		}
		outcome = Configured
	}
	value, err := encodeObject(o)
	if err != nil {
		return "", err
	}
	return outcome, a.put(objectKey(o), value)
}

// before is the object as it is stored, nil when there is none, after checking the revision the caller read it at. A
// stored record that cannot be read is replaced by what is applied.
func (a *applying) before(o fabric.Object) (fabric.Object, error) {
	kind, name, read := o.Type().Kind, o.Meta().Name, o.Meta().Revision
	before, err := a.object(kind, name)
	if err != nil && !errors.Is(err, fabric.ErrInvalid) {
		return nil, err
	}
	if before == nil && read != 0 && err == nil {
		return nil, fmt.Errorf("it was deleted since you read it at revision %d: leave metadata.revision out to create it: %w", read, fabric.ErrConflict)
	}
	if before != nil && read != 0 && read != before.Meta().Revision {
		return nil, fmt.Errorf("it was changed since you read it (revision %d, now %d): get it again and apply your change to that: %w",
			read, before.Meta().Revision, fabric.ErrConflict)
	}
	return before, nil
}

// as is o as a T, nil when o is nil.
func as[T fabric.Object](o fabric.Object) T {
	t, _ := o.(T)
	return t
}

// refer checks that a named object exists and makes the commit depend on its staying so.
func (a *applying) refer(field string, kind fabric.Kind, name string) error {
	if name == "" {
		return nil
	}
	r, err := a.get(key(kind, name))
	if err != nil {
		return err
	}
	if r.revision == 0 {
		return a.missing(field, kind, name)
	}
	a.present(r.key)
	return nil
}

// missing says that a reference points to nothing, and what was probably meant.
func (a *applying) missing(field string, kind fabric.Kind, name string) error {
	records, err := a.scan(kindPrefix(kind), true)
	if err != nil {
		return err
	}
	var known []string
	for _, r := range records {
		if p, ok := parse(r.key); ok {
			known = append(known, p.name)
		}
	}
	next := fmt.Sprintf("create it first, or see 'weft get %s'", fabric.Plural(kind))
	if near := fabric.Nearest(name, known); near != "" {
		next = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Errorf("%s: there is no %s %q: %s: %w", field, word(kind), name, next, fabric.ErrInvalid)
}

// own takes a value that may have only one owner.
func (a *applying) own(k, owner, what string) error {
	r, err := a.get(k)
	if err != nil {
		return err
	}
	if r.revision != 0 && string(r.value) != owner {
		return fmt.Errorf("%s belongs to %s: choose another, or leave it out to have one allocated: %w", what, r.value, fabric.ErrConflict)
	}
	if r.revision != 0 {
		return nil
	}
	return a.put(k, []byte(owner))
}
