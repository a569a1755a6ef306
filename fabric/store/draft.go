package store

import (
	"context"
	"fmt"
	"slices"
	"strings"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/fabric"
)

// Limits of one change.
const (
	// maxRequest bounds the bytes of one transaction; the embedded etcd takes twice as much.
	maxRequest = 8 << 20
	// pageSize is how many records are read at once.
	pageSize = 1000
)

// draft is a transaction in the making: reads are of one revision, see what the draft has written so far, and leave
// conditions behind; commit writes everything, or nothing when a condition no longer holds.
type draft struct {
	store *Store
	ctx   context.Context
	rev   int64 // of all reads; 0 before the first

	read   map[string]record  // as it is in etcd at rev
	loaded []string           // prefixes of which read holds everything
	writes map[string]*string // nil deletes
	conds  map[string]clientv3.Cmp
}

func (s *Store) newDraft(ctx context.Context) *draft {
	return &draft{store: s, ctx: ctx, read: map[string]record{}, writes: map[string]*string{}, conds: map[string]clientv3.Cmp{}}
}

// get reads one record as the draft leaves it; one with revision 0 when there is none. A record written by the draft
// itself has the revision it had before, at least 1.
func (d *draft) get(k string) (record, error) {
	r, err := d.stored(k)
	if err != nil {
		return record{}, err
	}
	w, written := d.writes[k]
	switch {
	case !written:
		return r, nil
	case w == nil:
		return record{key: k}, nil
	}
	return record{key: k, value: []byte(*w), revision: max(r.revision, 1)}, nil
}

// stored reads one record as it is in etcd.
func (d *draft) stored(k string) (record, error) {
	if r, ok := d.read[k]; ok {
		return r, nil
	}
	r := record{key: k}
	if d.holds(k) {
		return r, nil
	}
	ctx, cancel := d.store.call(d.ctx)
	defer cancel()
	resp, err := d.store.client.Get(ctx, k, clientv3.WithRev(d.rev))
	if err != nil {
		return record{}, d.store.failed("read "+k, err)
	}
	d.pin(resp.Header.Revision)
	if len(resp.Kvs) > 0 {
		r = recordOf(resp.Kvs[0])
	}
	d.read[k] = r
	return r, nil
}

// scan reads all records below a prefix as the draft leaves them, in the order of their keys.
func (d *draft) scan(below string, keysOnly bool) ([]record, error) {
	var out []record
	keep := func(_ int64, r record) {
		if _, written := d.writes[r.key]; !written && r.revision != 0 {
			out = append(out, r)
		}
	}
	if d.holds(below) {
		for k, r := range d.read {
			if strings.HasPrefix(k, below) {
				keep(d.rev, r)
			}
		}
	} else if err := d.store.each(d.ctx, below, clientv3.GetPrefixRangeEnd(below), d.rev, keysOnly, keep, d.pin); err != nil {
		return nil, err
	}
	for k, w := range d.writes {
		if w != nil && strings.HasPrefix(k, below) {
			out = append(out, record{key: k, value: []byte(*w), revision: max(d.read[k].revision, 1)})
		}
	}
	slices.SortFunc(out, func(a, b record) int { return strings.Compare(a.key, b.key) })
	return out, nil
}

// load reads everything below a prefix at once, for changes of many objects.
func (d *draft) load(below string) error {
	err := d.store.each(d.ctx, below, clientv3.GetPrefixRangeEnd(below), d.rev, false, func(rev int64, r record) {
		d.read[r.key] = r
	}, d.pin)
	if err == nil {
		d.loaded = append(d.loaded, below)
	}
	return err
}

// holds reports whether everything below a key or prefix has been read.
func (d *draft) holds(k string) bool {
	return slices.ContainsFunc(d.loaded, func(p string) bool { return strings.HasPrefix(k, p) })
}

func (d *draft) pin(rev int64) {
	if d.rev == 0 {
		d.rev = rev
	}
}

// unchanged makes the commit depend on a record being as it was read, or still absent.
func (d *draft) unchanged(k string) {
	d.conds[k] = clientv3.Compare(clientv3.ModRevision(k), "=", d.read[k].revision)
}

// present makes the commit depend on a record still being there, in whatever version.
func (d *draft) present(k string) {
	if _, written := d.writes[k]; written {
		return
	}
	if _, stricter := d.conds[k]; !stricter {
		d.conds[k] = clientv3.Compare(clientv3.CreateRevision(k), ">", 0)
	}
}

// untouched makes the commit depend on no record below a prefix having been written since the draft read it.
func (d *draft) untouched(below string) {
	d.conds[below] = clientv3.Compare(clientv3.ModRevision(below), "<", d.rev+1).WithPrefix()
}

// put writes a record; the commit depends on it being as it was read.
func (d *draft) put(k string, value []byte) error {
	if _, err := d.stored(k); err != nil {
		return err
	}
	d.unchanged(k)
	text := string(value)
	d.writes[k] = &text
	return nil
}

// remove deletes a record; the commit depends on it being as it was read.
func (d *draft) remove(k string) error {
	if _, err := d.stored(k); err != nil {
		return err
	}
	d.unchanged(k)
	d.writes[k] = nil
	return nil
}

// commit writes the draft. It reports false, and nothing is written, when a condition no longer holds.
func (d *draft) commit(doing string) (rev int64, ok bool, err error) {
	conds := make([]clientv3.Cmp, 0, len(d.conds))
	for _, c := range d.conds {
		conds = append(conds, c)
	}
	ops, size := make([]clientv3.Op, 0, len(d.writes)), 0
	for k, w := range d.writes {
		size += len(k)
		if w == nil {
			ops = append(ops, clientv3.OpDelete(k))
			continue
		}
		size += len(*w)
		ops = append(ops, clientv3.OpPut(k, *w))
	}
	if size > maxRequest {
		return 0, false, fmt.Errorf("%s: %d records of %d bytes together, one transaction takes %d: apply fewer objects at once: %w",
			doing, len(ops), size, maxRequest, fabric.ErrInvalid)
	}
	ctx, cancel := d.store.call(d.ctx)
	defer cancel()
	resp, err := d.store.client.Txn(ctx).If(conds...).Then(ops...).Commit()
	if err != nil {
		return 0, false, d.store.failed(doing, err)
	}
	return resp.Header.Revision, resp.Succeeded, nil
}

// object reads and decodes one object as the draft leaves it; nil when there is none.
func (d *draft) object(kind fabric.Kind, name string) (fabric.Object, error) {
	k := key(kind, name)
	if kind == fabric.KindPort {
		owner, err := d.get(indexPort(name))
		if err != nil || owner.revision == 0 {
			return nil, err
		}
		k = portKey(fabric.SwitchID(owner.value), name)
	}
	r, err := d.get(k)
	if err != nil || r.revision == 0 {
		return nil, err
	}
	return decodeObject(r)
}

// each hands over all records from a key up to end, page by page, all of one revision: rev, or that of the first page
// when 0. seen gets the revision even when there is no record.
func (s *Store) each(ctx context.Context, from, end string, rev int64, keysOnly bool, fn func(rev int64, r record), seen func(int64)) error {
	options := []clientv3.OpOption{clientv3.WithRange(end), clientv3.WithLimit(pageSize)}
	if keysOnly {
		options = append(options, clientv3.WithKeysOnly())
	}
	for {
		ctx, cancel := s.call(ctx)
		resp, err := s.client.Get(ctx, from, append(options[:len(options):len(options)], clientv3.WithRev(rev))...)
		cancel()
		if err != nil {
			return s.failed("read the records from "+from, err)
		}
		if rev == 0 {
			rev = resp.Header.Revision
		}
		seen(rev)
		for _, kv := range resp.Kvs {
			fn(rev, recordOf(kv))
		}
		if !resp.More {
			return nil
		}
		from = string(resp.Kvs[len(resp.Kvs)-1].Key) + "\x00"
	}
}
