package store

import (
	"context"
	"errors"
	"hash/maphash"
	"strings"
	"time"

	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// fetchAtOnce is up to how many differing records are fetched one by one; more are cheaper read all together.
const fetchAtOnce = 64

// sync compares the whole table with etcd at a revision, the current one when 0, by key and revision, and with every value
// when asked to, and takes over what differs. It is how a follow begins, how it goes on after a break, and the check that
// no event was lost.
func (f *follower) sync(ctx context.Context, at int64, values bool) error {
	if err := f.probe(ctx); err != nil {
		return err
	}
	first := f.table.revision == 0
	if first {
		at, values = 0, true
	}
	found := make(map[string]record, len(f.table.marks))
	rev, err := f.store.everything(ctx, at, !values, func(r record) { found[r.key] = r })
	if errors.Is(err, rpctypes.ErrCompacted) && at != 0 {
		return f.sync(ctx, 0, values)
	}
	if err != nil {
		return err
	}
	if err := f.admit(ctx, rev, found); err != nil {
		return err
	}
	changes, err := f.differences(ctx, rev, found, values)
	if err != nil {
		return err
	}
	told := !f.compared.IsZero()
	f.compared = time.Now()
	if at != 0 && len(changes) > 0 {
		f.store.log.Warn("etcd failed to send changes; the comparison found them, and they are taken over", "records", len(changes), "revision", rev)
	}
	recovered := f.held != nil
	f.held = nil
	if recovered {
		f.store.setHold("")
	}
	if f.table.apply(changes, rev) || recovered || !told {
		f.publish(f.table.snapshot())
	}
	return nil
}

// differences are the changes that make the table equal to what was found.
func (f *follower) differences(ctx context.Context, rev int64, found map[string]record, values bool) ([]change, error) {
	var changes []change
	for k := range f.table.marks {
		if _, ok := found[k]; !ok {
			changes = append(changes, change{record: record{key: k, revision: rev}, deleted: true})
		}
	}
	var fetch []string
	for k, r := range found {
		m, known := f.table.marks[k]
		if known && m.revision == r.revision && (!values || m.sum == maphash.Bytes(f.table.seed, r.value)) {
			continue
		}
		if values {
			changes = append(changes, change{record: r})
			continue
		}
		fetch = append(fetch, k)
	}
	if len(fetch) > fetchAtOnce {
		return f.refetch(ctx, rev)
	}
	for _, k := range fetch {
		ctx, cancel := f.store.call(ctx)
		resp, err := f.store.client.Get(ctx, k, clientv3.WithRev(rev))
		cancel()
		if err != nil {
			return nil, f.store.failed("read "+k, err)
		}
		for _, kv := range resp.Kvs {
			changes = append(changes, change{record: recordOf(kv)})
		}
	}
	return changes, nil
}

// refetch computes the differences from all values of the revision.
func (f *follower) refetch(ctx context.Context, rev int64) ([]change, error) {
	found := make(map[string]record, len(f.table.marks))
	if _, err := f.store.everything(ctx, rev, false, func(r record) { found[r.key] = r }); err != nil {
		return nil, err
	}
	return f.differences(ctx, rev, found, true)
}

// probe asks etcd for its revision, and for the newest changes that were taken over, as of their own revisions. Honest
// history always answers with them; history that was written anew after a restore does not, even when its revision has
// overtaken ours.
func (f *follower) probe(ctx context.Context) error {
	if f.table.revision == 0 {
		return nil
	}
	d := f.store.newDraft(ctx)
	if _, err := d.get(incarnationKey); err != nil {
		return err
	}
	if d.rev < f.table.revision {
		return f.unlessConfirmed(ctx, f.roll("etcd is at revision %d, this host has seen revision %d", d.rev, f.table.revision))
	}
	if err := f.remembers(ctx, f.table.older); err != nil {
		return f.unlessConfirmed(ctx, err)
	}
	if f.table.newest == f.table.older {
		return nil
	}
	if err := f.remembers(ctx, f.table.newest); err != nil {
		return f.unlessConfirmed(ctx, err)
	}
	f.table.older = f.table.newest
	return nil
}

// remembers checks that etcd's history shows the change.
func (f *follower) remembers(ctx context.Context, a anchor) error {
	if a.mark.revision == 0 {
		return nil
	}
	call, cancel := f.store.call(ctx)
	defer cancel()
	resp, err := f.store.client.Get(call, a.key, clientv3.WithRev(a.mark.revision))
	switch {
	case errors.Is(err, rpctypes.ErrCompacted):
		return nil // history that old is gone
	case errors.Is(err, rpctypes.ErrFutureRev):
		return f.roll("etcd has not reached revision %d, which this host has seen", a.mark.revision)
	case err != nil:
		return f.store.failed("read "+a.key, err)
	case a.deleted && len(resp.Kvs) > 0:
		return f.roll("etcd has %s at revision %d, where this host saw it deleted", a.key, a.mark.revision)
	case a.deleted:
		return nil
	case len(resp.Kvs) == 0 || resp.Kvs[0].ModRevision != a.mark.revision,
		a.mark.sum != 0 && a.mark.sum != maphash.Bytes(f.table.seed, resp.Kvs[0].Value):
		return f.roll("etcd does not have the version of %s that this host saw at revision %d", a.key, a.mark.revision)
	}
	return nil
}

// admit decides whether what was found may replace the table: no record may be older than the version that was seen, and
// the data must be of the incarnation that was followed.
func (f *follower) admit(ctx context.Context, rev int64, found map[string]record) error {
	if f.table.revision == 0 {
		return nil
	}
	if rev < f.table.revision {
		return f.unlessConfirmed(ctx, f.roll("etcd is at revision %d, this host has seen revision %d", rev, f.table.revision))
	}
	for k, r := range found {
		if m, known := f.table.marks[k]; known && r.revision < m.revision {
			return f.unlessConfirmed(ctx, f.roll("etcd has %s of revision %d, this host has seen revision %d of it", k, r.revision, m.revision))
		}
	}
	now, err := f.store.newDraft(ctx).incarnation()
	if err != nil {
		return err
	}
	if before := f.table.current.Incarnation; before != "" && now.ID != "" && now.ID != before {
		return f.unlessConfirmed(ctx, f.roll("etcd holds the data of incarnation %s, this host has followed %s", now.ID, before))
	}
	return nil
}

// unlessConfirmed begins or continues a hold for the reason, unless an operator has confirmed the data at hand: the table
// is then made to take everything over as it is.
func (f *follower) unlessConfirmed(ctx context.Context, reason error) error {
	if !errors.Is(reason, ErrRolledBack) {
		return reason
	}
	now, err := f.store.newDraft(ctx).incarnation()
	if err != nil {
		return err
	}
	if f.held == nil {
		f.held = &held{seen: now.ID}
	}
	f.held.why = strings.TrimSuffix(reason.Error(), ": "+ErrRolledBack.Error())
	if !now.replaces(f.table.current.Incarnation) && !now.replaces(f.held.seen) {
		return reason
	}
	f.store.log.Warn("the restored data was confirmed and is taken over", "incarnation", now.ID)
	f.table.forget()
	return nil
}
