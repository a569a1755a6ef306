package store_test

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

func meta(name string) fabric.Metadata { return fabric.Metadata{Name: name} }

func head(k fabric.Kind) fabric.TypeMeta {
	return fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: k}
}

func newHost(name, vtep string) *fabric.Host {
	return &fabric.Host{TypeMeta: head(fabric.KindHost), Metadata: meta(name), Spec: fabric.HostSpec{VTEP: netip.MustParseAddr(vtep), UnderlayMTU: 1500}}
}

func newSwitch(name string, subnets ...string) *fabric.Switch {
	s := &fabric.Switch{TypeMeta: head(fabric.KindSwitch), Metadata: meta(name), Spec: fabric.SwitchSpec{Type: fabric.Private}}
	for _, p := range subnets {
		s.Spec.Subnets = append(s.Spec.Subnets, netip.MustParsePrefix(p))
	}
	return s
}

func newPort(name string, sw fabric.SwitchID) *fabric.Port {
	return &fabric.Port{TypeMeta: head(fabric.KindPort), Metadata: meta(name), Spec: fabric.PortSpec{Switch: sw}}
}

func apply(tb testing.TB, s *store.Store, objects ...fabric.Object) store.ApplyResult {
	tb.Helper()
	r, err := s.Apply(tb.Context(), objects, store.ApplyOptions{})
	if err != nil {
		tb.Fatal(err)
	}
	return r
}

func outcomes(r store.ApplyResult) string {
	var words []string
	for _, o := range r.Objects {
		words = append(words, string(o.Outcome))
	}
	return strings.Join(words, " ")
}

func TestApplyCreatesConfiguresAndLeavesAlone(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	r := apply(t, s, newPort("web-1", "blue"), newSwitch("blue", "10.10.0.0/24", "fd00:10::/64"), newHost("h1", "10.240.0.1"))
	if outcomes(r) != "created created created" {
		t.Fatalf("first apply: %s", outcomes(r))
	}
	sw, port := r.Objects[1].Object.(*fabric.Switch), r.Objects[0].Object.(*fabric.Port)
	if sw.Spec.VNI != 10001 {
		t.Errorf("VNI %d, want 10001", sw.Spec.VNI)
	}
	want := []netip.Addr{netip.MustParseAddr("10.10.0.2"), netip.MustParseAddr("fd00:10::2")}
	if !slices.Equal(port.Spec.Addresses, want) || !strings.HasPrefix(port.Spec.MAC.String(), "52:54:00:") || port.Spec.VM != "web-1" {
		t.Errorf("port %+v, want addresses %v and a MAC of 52:54:00", port.Spec, want)
	}
	again := apply(t, s, newPort("web-1", "blue"), newSwitch("blue", "10.10.0.0/24", "fd00:10::/64"))
	if outcomes(again) != "unchanged unchanged" || again.Revision != r.Revision {
		t.Errorf("second apply: %s at %d, want unchanged at %d", outcomes(again), again.Revision, r.Revision)
	}
	if got := again.Objects[0].Object.(*fabric.Port); got.Spec.MAC != port.Spec.MAC || got.Metadata.Revision != r.Revision {
		t.Errorf("unchanged port %+v differs from %+v", got, port)
	}
	changed := newPort("web-1", "blue")
	changed.Metadata.Labels = map[string]string{"tier": "web"}
	third := apply(t, s, changed)
	if outcomes(third) != "configured" || third.Revision <= r.Revision {
		t.Errorf("third apply: %s at %d", outcomes(third), third.Revision)
	}
	o, err := s.Get(t.Context(), fabric.KindPort, "web-1")
	if err != nil || o.Meta().Labels["tier"] != "web" || o.Meta().Revision != third.Revision || o.(*fabric.Port).Spec.MAC != port.Spec.MAC {
		t.Errorf("stored port %+v (%v)", o, err)
	}
}

func TestDryRunWritesNothing(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	r, err := s.Apply(t.Context(), []fabric.Object{newSwitch("blue")}, store.ApplyOptions{DryRun: true})
	if err != nil || outcomes(r) != "created" || r.Objects[0].Object.(*fabric.Switch).Spec.VNI != 10001 {
		t.Errorf("dry run: %+v (%v)", r, err)
	}
	if _, err := s.Get(t.Context(), fabric.KindSwitch, "blue"); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("after a dry run the switch is there: %v", err)
	}
}

func TestSnapshotHoldsEverything(t *testing.T) {
	t.Parallel()
	s := storetest.Start(t).Open(t)
	r := apply(t, s, newHost("h1", "10.240.0.1"), newSwitch("blue", "10.10.0.0/24"), newPort("a", "blue"), newPort("b", "blue"))
	snap, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if snap.Revision < r.Revision || len(snap.Ports) != 2 || snap.Switches["blue"] == nil || snap.Hosts["h1"] == nil || len(snap.Problems) != 0 || snap.Incarnation == "" {
		t.Errorf("snapshot %+v", snap)
	}
}

// follow runs Follow until the test ends and hands out every state.
func follow(tb testing.TB, s *store.Store) <-chan *fabric.Snapshot {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	states, done := make(chan *fabric.Snapshot, 1000), make(chan struct{})
	go func() {
		defer close(done)
		if err := s.Follow(ctx, func(snap *fabric.Snapshot) { states <- snap }); err != nil {
			tb.Error(err)
		}
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return states
}

// await returns the first state that is as wanted.
func await(tb testing.TB, states <-chan *fabric.Snapshot, what string, wanted func(*fabric.Snapshot) bool) *fabric.Snapshot {
	tb.Helper()
	deadline := time.After(30 * time.Second)
	for {
		select {
		case snap := <-states:
			if wanted(snap) {
				return snap
			}
		case <-deadline:
			tb.Fatalf("no state with %s within 30 s", what)
		}
	}
}

func TestThePastIsThereUntilItIsCompacted(t *testing.T) {
	t.Parallel()
	etcd := storetest.Start(t)
	s, client := etcd.Open(t), store.Raw(etcd.OpenAs(t, "root"))
	first := apply(t, s, newSwitch("blue")).Revision
	second := apply(t, s, newSwitch("red")).Revision
	for rev, want := range map[fabric.Revision][]fabric.SwitchID{first: {"blue"}, second: {"blue", "red"}} {
		snap, err := s.SnapshotAt(t.Context(), rev)
		if err != nil {
			t.Fatal(err)
		}
		if got := slices.Sorted(maps.Keys(snap.Switches)); snap.Revision != rev || !slices.Equal(got, want) {
			t.Errorf("at revision %d: switches %v of revision %d, want %v", rev, got, snap.Revision, want)
		}
	}
	if _, err := s.SnapshotAt(t.Context(), second+1000); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("a revision that etcd has not come to: %v", err)
	}
	if _, err := client.Compact(t.Context(), int64(second)); err != nil {
		t.Fatal(err)
	}
	if _, err := s.SnapshotAt(t.Context(), first); !errors.Is(err, fabric.ErrNotFound) || !strings.Contains(err.Error(), "compacted") {
		t.Errorf("a revision that was compacted: %v", err)
	}
}

func TestFollowSeesEveryChange(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := e.Open(t)
	states := follow(t, s)
	await(t, states, "nothing", func(snap *fabric.Snapshot) bool { return len(snap.Ports) == 0 })
	r := apply(t, s, newSwitch("blue"), newPort("a", "blue"))
	await(t, states, "port a", func(snap *fabric.Snapshot) bool { return snap.Ports["a"] != nil && snap.Revision == r.Revision })
	if _, err := s.Delete(t.Context(), fabric.KindPort, "a"); err != nil {
		t.Fatal(err)
	}
	await(t, states, "no port", func(snap *fabric.Snapshot) bool { return len(snap.Ports) == 0 && snap.Switches["blue"] != nil })
	if err := s.UpdateLocations(t.Context(), nil, fabric.Location{Port: "a", Switch: "blue", Host: "h1", Epoch: 1}); !errors.Is(err, fabric.ErrNotFound) {
		t.Errorf("the location of a deleted port was written: %v", err)
	}
}

func TestStatusesAppearAndGo(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s, other := e.Open(t), e.Open(t)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	waited := make(chan error, 1)
	go func() { waited <- s.WaitInForce(ctx, 7, []fabric.HostID{"h1", "h2"}) }()
	for _, h := range []fabric.HostID{"h1", "h2"} {
		if err := other.ReportStatus(ctx, h, fabric.HostStatus{Generation: 7, Ready: true, Ports: []fabric.PortStatus{{Name: "a", RxPackets: 5}}}); err != nil {
			t.Fatal(err)
		}
	}
	if err := <-waited; err != nil {
		t.Error(err)
	}
	all, err := s.Statuses(ctx)
	if err != nil || len(all) != 2 || !all["h1"].Ready || all["h1"].Ports[0].RxPackets != 0 {
		t.Errorf("statuses %+v (%v)", all, err)
	}
	short, stop := context.WithTimeout(ctx, time.Second)
	defer stop()
	err = s.WaitInForce(short, 8, []fabric.HostID{"h1", "h3"})
	if err == nil || !strings.Contains(err.Error(), "host h1 is at 7") || !strings.Contains(err.Error(), "host h3 does not report") {
		t.Errorf("error %v does not name the hosts that are behind", err)
	}
}

// canary is a lease as short as that of ShortenLease, which nobody renews: the time that it takes is etcd's.
type canary struct {
	s     *store.Store
	lease clientv3.LeaseID
}

func newCanary(t *testing.T, s *store.Store) *canary {
	t.Helper()
	l, err := store.Raw(s).Grant(t.Context(), 2)
	if err != nil {
		t.Fatal(err)
	}
	return &canary{s, l.ID}
}

// gone reports whether it has run out; one that is not granted yet has not.
func (c *canary) gone(t *testing.T) bool {
	t.Helper()
	if c == nil {
		return false
	}
	left, err := store.Raw(c.s).TimeToLive(t.Context(), c.lease)
	if err != nil {
		t.Fatal(err)
	}
	return left.TTL < 0
}

func TestAStatusThatIsNotRenewedDisappears(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s, other := e.Open(t), e.Open(t)
	store.ShortenLease(other)
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	defer cancel()
	seen, gone := make(chan struct{}), make(chan struct{})
	var writes []int64
	go func() {
		_ = s.FollowStatuses(ctx, func(all map[fabric.HostID]fabric.HostStatus) {
			_, there := all["h1"]
			if there && len(writes) == 0 {
				writes = append(writes, 1)
				close(seen)
			}
			if !there && len(writes) == 1 {
				writes = append(writes, 2)
				close(gone)
			}
		})
	}()
	// For twice the life of the lease the same report only renews it.
	var first int64
	twice := []*canary{newCanary(t, s), nil}
	for !twice[0].gone(t) || !twice[1].gone(t) {
		if twice[1] == nil && twice[0].gone(t) {
			twice[1] = newCanary(t, s)
		}
		if err := other.ReportStatus(ctx, "h1", fabric.HostStatus{Generation: 7}); err != nil {
			t.Fatal(err)
		}
		resp, err := store.Raw(s).Get(ctx, "/weft/status/v1/h1")
		if err != nil || len(resp.Kvs) != 1 {
			t.Fatalf("the status is not there: %v (%v)", resp, err)
		}
		if first == 0 {
			first = resp.Kvs[0].ModRevision
		}
		if resp.Kvs[0].ModRevision != first {
			t.Fatal("a report that says nothing new was written")
		}
	}
	<-seen
	select {
	case <-gone:
	case <-ctx.Done():
		t.Error("the status stayed after the last report")
	}
}

func TestADyingMemberIsNotNoticed(t *testing.T) {
	t.Parallel()
	members := storetest.StartCluster(t, 3)
	endpoints := []string{members[0].Endpoint, members[1].Endpoint, members[2].Endpoint}
	s := members[0].OpenAt(t, endpoints...)
	states := follow(t, members[1].OpenAt(t, endpoints...))
	apply(t, s, newSwitch("blue", "10.0.0.0/24"))
	for i, e := range members {
		before := apply(t, s, newPort(fmt.Sprintf("before-%d", i), "blue"))
		e.Stop()
		begin := time.Now()
		after := apply(t, s, newPort(fmt.Sprintf("after-%d", i), "blue"))
		t.Logf("without %s, a write took %v", e.Endpoint, time.Since(begin))
		if outcomes(after) != "created" {
			t.Errorf("a write whose first answer was lost is reported as %s", outcomes(after))
		}
		snap := await(t, states, "what was written", func(snap *fabric.Snapshot) bool { return snap.Revision >= after.Revision })
		if snap.Revision < before.Revision || len(snap.Ports) != 2*(i+1) || len(snap.Problems) != 0 {
			t.Errorf("%d ports at %d, problems %v", len(snap.Ports), snap.Revision, snap.Problems)
		}
		e.Restart(t)
	}
	list, err := s.Members(t.Context())
	if err != nil || len(list) != 3 || list[0].Name != "h1" || !list[0].Healthy {
		t.Errorf("members %+v (%v)", list, err)
	}
}

func TestASnapshotBesideAFollowIsAsNewAsOneThatReadsEverything(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s, other := e.Open(t), e.Open(t)
	if store.Followed(t.Context(), s) != nil {
		t.Error("a state comes from a follow although none runs")
	}
	states := follow(t, s)
	await(t, states, "nothing", func(*fabric.Snapshot) bool { return true })
	apply(t, other, newSwitch("blue"))
	fast := 0
	begin := time.Now()
	for i := range 50 {
		name := fmt.Sprintf("p%d", i)
		apply(t, other, newPort(name, "blue"))
		// A status moves etcd's revision on without an event that the follow could see.
		if err := other.ReportStatus(t.Context(), "h1", fabric.HostStatus{Generation: fabric.Revision(i)}); err != nil {
			t.Fatal(err)
		}
		snap := store.Followed(t.Context(), s)
		if snap == nil {
			continue // it did not catch up in time: Snapshot reads everything
		}
		fast++
		if snap.Ports[fabric.PortID(name)] == nil || len(snap.Ports) != i+1 {
			t.Fatalf("a port that was written before is missing among %d", len(snap.Ports))
		}
	}
	t.Logf("%d of 50 came from the follow, %v each with two writes", fast, time.Since(begin)/50)
	if fast == 0 {
		t.Error("no state came from the follow")
	}
}

func TestAStatusReportedThroughTwoServersStays(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	one, two := e.Open(t), e.Open(t)
	store.ShortenLease(one)
	store.ShortenLease(two)
	st := fabric.HostStatus{Generation: 7}
	for _, s := range []*store.Store{one, two} {
		if err := s.ReportStatus(t.Context(), "h1", st); err != nil {
			t.Fatal(err)
		}
	}
	// From here on only the first reports; the record has the second's lease, which runs out.
	for other := newCanary(t, one); !other.gone(t); {
		if err := one.ReportStatus(t.Context(), "h1", st); err != nil {
			t.Fatal(err)
		}
		if all, err := one.Statuses(t.Context()); err != nil || len(all) != 1 {
			t.Fatalf("the status is gone: %v (%v)", all, err)
		}
	}
}
