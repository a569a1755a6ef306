package store

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/mvccpb"
	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/fabric"
)

// lease keeps one host's status alive.
type lease struct {
	mu      sync.Mutex
	id      clientv3.LeaseID
	renewed time.Time
	written []byte
}

// ReportStatus writes what a host says about itself. The record disappears 10 s after the last report, so report at least
// every 3 s; a report that says nothing new only renews it. Packet counters are left out: they change all the time, and a
// host answers for them itself.
func (s *Store) ReportStatus(ctx context.Context, host fabric.HostID, st fabric.HostStatus) error {
	doing := fmt.Sprintf("report the status of host %s", host)
	value, err := json.Marshal(withoutCounters(st))
	if err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	l := s.leaseOf(host)
	l.mu.Lock()
	defer l.mu.Unlock()
	renewed, err := l.renew(ctx, s)
	if err != nil {
		return s.failed(doing, err)
	}
	if bytes.Equal(l.written, value) && !renewed {
		return nil
	}
	// A host that reports through another server for a while leaves the record with that server's lease; each renewal
	// looks whether it is still this one's.
	k, mine := statusKey(host), clientv3.Compare(clientv3.LeaseValue(statusKey(host)), "=", l.id)
	put := clientv3.OpPut(k, string(value), clientv3.WithLease(l.id))
	same := clientv3.Compare(clientv3.Value(k), "=", string(value))
	ctx, cancel := s.call(ctx)
	defer cancel()
	if _, err := s.client.Txn(ctx).If(mine, same).Else(put).Commit(); err != nil {
		l.id, l.written = 0, nil // whatever is wrong with the lease, the next report makes a new one
		return s.failed(doing, err)
	}
	l.written = value
	return nil
}

func (s *Store) leaseOf(host fabric.HostID) *lease {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.leases[host] == nil {
		s.leases[host] = &lease{}
	}
	return s.leases[host]
}

// renew makes the lease when there is none, and renews it when a third of its life has passed; it reports whether it did.
func (l *lease) renew(ctx context.Context, s *Store) (bool, error) {
	ctx, cancel := s.call(ctx)
	defer cancel()
	now := time.Now()
	if l.id != 0 && now.Sub(l.renewed) < s.timing.lease/3 {
		return false, nil
	}
	if l.id != 0 && now.Sub(l.renewed) < s.timing.lease {
		if _, err := s.client.KeepAliveOnce(ctx, l.id); err == nil {
			l.renewed = now
			return true, nil
		}
	}
	granted, err := s.client.Grant(ctx, int64(s.timing.lease/time.Second))
	if err != nil {
		return false, err
	}
	l.id, l.renewed, l.written = granted.ID, now, nil
	return true, nil
}

// withdraw lets the statuses reported through this store disappear at once.
func (s *Store) withdraw() {
	s.mu.Lock()
	leases := maps.Clone(s.leases)
	s.mu.Unlock()
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	for host, l := range leases {
		l.mu.Lock()
		if l.id != 0 {
			if _, err := s.client.Revoke(ctx, l.id); err != nil {
				s.log.Debug("the status stays until its lease ends", "host", host, "error", err)
			}
			l.id, l.written = 0, nil
		}
		l.mu.Unlock()
	}
}

func withoutCounters(st fabric.HostStatus) fabric.HostStatus {
	st.Ports = slices.Clone(st.Ports)
	for i := range st.Ports {
		p := &st.Ports[i]
		p.RxPackets, p.RxBytes, p.TxPackets, p.TxBytes, p.Drops = 0, 0, 0, 0, nil
	}
	st.Alive = false
	return st
}

// Statuses returns what every host that is alive said last.
func (s *Store) Statuses(ctx context.Context) (map[fabric.HostID]fabric.HostStatus, error) {
	all, _, err := s.statuses(ctx)
	return all, err
}

func (s *Store) statuses(ctx context.Context) (map[fabric.HostID]fabric.HostStatus, int64, error) {
	d := s.newDraft(ctx)
	records, err := d.scan(statusPrefix, false)
	if err != nil {
		return nil, 0, err
	}
	all := make(map[fabric.HostID]fabric.HostStatus, len(records))
	for _, r := range records {
		s.noteStatus(all, change{record: r})
	}
	return all, d.rev, nil
}

// noteStatus takes one record over; one that cannot be read is left out, as if the host had not reported.
func (s *Store) noteStatus(all map[fabric.HostID]fabric.HostStatus, c change) {
	host := fabric.HostID(strings.TrimPrefix(c.key, statusPrefix))
	delete(all, host)
	if c.deleted {
		return
	}
	var st fabric.HostStatus
	if err := json.Unmarshal(c.value, &st); err != nil {
		s.log.Warn("a host's status cannot be read and is left out", "host", host, "revision", c.revision, "error", err)
		return
	}
	all[host] = st
}

// FollowStatuses calls fn with the statuses of all hosts that are alive, and again after every change, until ctx ends; it
// then returns nil. Each call gets a map of its own.
func (s *Store) FollowStatuses(ctx context.Context, fn func(map[fabric.HostID]fabric.HostStatus)) error {
	for failures := 0; ctx.Err() == nil; failures++ {
		all, rev, err := s.statuses(ctx)
		if err == nil {
			fn(maps.Clone(all))
			begin := time.Now()
			w := stream{below: statusPrefix, from: rev + 1, tick: func(context.Context) error { return nil }}
			w.events = func(_ int64, events []*mvccpb.Event) error {
				for _, c := range changesOf(events) {
					s.noteStatus(all, c)
				}
				if len(events) > 0 {
					fn(maps.Clone(all))
				}
				return nil
			}
			err = w.run(ctx, s)
			if time.Since(begin) > s.timing.stale {
				failures = 0
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		s.log.Debug("following the hosts' statuses broke off and is taken up again", "error", err)
		timer := time.NewTimer(min(s.timing.retry<<min(failures, 4), s.timing.hold))
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
		}
	}
	return nil
}

// WaitInForce returns when every host has reported a generation of at least rev. When ctx ends first, the error names the
// hosts that are behind and what they say about it.
func (s *Store) WaitInForce(ctx context.Context, rev fabric.Revision, hosts []fabric.HostID) error {
	follow, cancel := context.WithCancel(ctx)
	defer cancel()
	behind := slices.Clone(hosts)
	var said map[fabric.HostID]fabric.HostStatus
	if err := s.FollowStatuses(follow, func(all map[fabric.HostID]fabric.HostStatus) {
		said = all
		behind = slices.DeleteFunc(slices.Clone(hosts), func(h fabric.HostID) bool {
			st, alive := all[h]
			return alive && st.Generation >= rev
		})
		if len(behind) == 0 {
			cancel()
		}
	}); err != nil {
		return err
	}
	if len(behind) == 0 {
		return nil
	}
	why := make([]string, len(behind))
	for i, h := range behind {
		why[i] = lag(h, said, rev)
	}
	return fmt.Errorf("revision %d is not in force everywhere: %s: %w", rev, strings.Join(why, "; "), context.Cause(ctx))
}

// lag says how far a host is behind, and why.
func lag(h fabric.HostID, said map[fabric.HostID]fabric.HostStatus, rev fabric.Revision) string {
	st, alive := said[h]
	if !alive {
		return fmt.Sprintf("host %s does not report: check that its agent runs and reaches etcd", h)
	}
	text := fmt.Sprintf("host %s is at %d", h, st.Generation)
	if len(st.Problems) > 0 {
		text += " (" + strings.Join(st.Problems, ", ") + ")"
	}
	return text
}
