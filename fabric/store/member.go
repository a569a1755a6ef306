package store

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
)

// Member is one member of the etcd cluster.
type Member struct {
	Name string
	// Healthy is true when the member answers, knows a leader and reports no alarm.
	Healthy bool
	// Leader is true for the one that leads.
	Leader bool
	// Reason says why the member is not healthy.
	Reason string
}

// memberTimeout is how long one member may take to answer.
const memberTimeout = time.Second

// Members asks every member of the cluster how it is, in the order of their names. It works as long as one of them answers.
func (s *Store) Members(ctx context.Context) ([]Member, error) {
	call, cancel := s.call(ctx)
	defer cancel()
	list, err := s.client.MemberList(call, clientv3.WithSerializable())
	if err != nil {
		return nil, s.failed("list etcd's members", err)
	}
	members := make([]Member, len(list.Members))
	var all sync.WaitGroup
	for i, m := range list.Members {
		all.Go(func() { members[i] = s.member(ctx, m) })
	}
	all.Wait()
	slices.SortFunc(members, func(a, b Member) int { return cmp.Compare(a.Name, b.Name) })
	return members, nil
}

// member asks one member.
func (s *Store) member(ctx context.Context, m *etcdserverpb.Member) Member {
	out := Member{Name: cmp.Or(m.Name, fmt.Sprintf("%x", m.ID))}
	if len(m.ClientURLs) == 0 {
		out.Reason = "it has not started yet"
		return out
	}
	ctx, cancel := context.WithTimeout(ctx, memberTimeout)
	defer cancel()
	status, err := s.client.Status(ctx, m.ClientURLs[0])
	switch {
	case err != nil:
		out.Reason = fmt.Sprintf("it does not answer at %s: %v", m.ClientURLs[0], err)
	case status.Leader == 0:
		out.Reason = "it knows no leader: a majority of the members must run and reach one another"
	case len(status.Errors) > 0:
		out.Reason = fmt.Sprintf("it reports %q", status.Errors)
	default:
		out.Healthy, out.Leader = true, status.Leader == m.ID
	}
	return out
}
