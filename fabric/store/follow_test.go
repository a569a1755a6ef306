package store_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// hasty opens a store that waits for nothing long.
func hasty(tb testing.TB, e *storetest.Etcd, endpoints ...string) *store.Store {
	tb.Helper()
	if len(endpoints) == 0 {
		endpoints = []string{e.Endpoint}
	}
	s := e.OpenAt(tb, endpoints...)
	store.Hasten(s)
	return s
}

// backup copies the data of a member while it is stopped, and starts it again.
func backup(tb testing.TB, e *storetest.Etcd) string {
	tb.Helper()
	dir := tb.TempDir() + "/backup"
	e.Stop()
	if err := os.CopyFS(dir, os.DirFS(e.DataDir)); err != nil {
		tb.Fatal(err)
	}
	e.Restart(tb)
	return dir
}

// restore replaces the data of a member by a backup and runs then before it is started again.
func restore(tb testing.TB, e *storetest.Etcd, dir string) {
	tb.Helper()
	e.Stop()
	if err := errors.Join(os.RemoveAll(e.DataDir), os.CopyFS(e.DataDir, os.DirFS(dir))); err != nil {
		tb.Fatal(err)
	}
	e.Restart(tb)
}

func has(ports ...string) func(*fabric.Snapshot) bool {
	return func(snap *fabric.Snapshot) bool {
		if len(snap.Ports) != len(ports) {
			return false
		}
		return !slices.ContainsFunc(ports, func(p string) bool { return snap.Ports[fabric.PortID(p)] == nil })
	}
}

func holds(snap *fabric.Snapshot) bool {
	return slices.ContainsFunc(snap.Problems, func(p string) bool { return strings.Contains(p, "the last state is held") })
}

func TestARestoredOldBackupIsHeldUntilConfirmed(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("old", "blue"))
	old := backup(t, e)
	apply(t, s, newPort("new-1", "blue"), newPort("new-2", "blue"))
	states := follow(t, s)
	before := await(t, states, "all ports", has("old", "new-1", "new-2"))
	begin := time.Now()
	restore(t, e, old)
	held := await(t, states, "a hold", holds)
	t.Logf("held %v after the restore began", time.Since(begin))
	if !has("old", "new-1", "new-2")(held) || held.Revision != before.Revision {
		t.Errorf("the held state lost something: %v at %d", held.Ports, held.Revision)
	}
	if err := s.Held(); !errors.Is(err, store.ErrRolledBack) {
		t.Errorf("Held says %v", err)
	}
	// Writing goes on, but what is in force does not follow it.
	apply(t, s, newPort("later", "blue"))
	select { // that nothing comes can only be waited for
	case snap := <-states:
		t.Errorf("a state was handed out while held: %v %v", snap.Ports, snap.Problems)
	case <-time.After(300 * time.Millisecond):
	}
	if err := s.ConfirmRestore(t.Context()); err != nil {
		t.Fatal(err)
	}
	after := await(t, states, "the restored data", has("old", "later"))
	if len(after.Problems) != 0 || s.Held() != nil {
		t.Errorf("after the confirmation: %v, %v", after.Problems, s.Held())
	}
	apply(t, s, newPort("last", "blue"))
	await(t, states, "what comes after", has("old", "later", "last"))
	// The same backup again: that it was once confirmed counts no more.
	restore(t, e, old)
	if again := await(t, states, "a second hold", holds); !has("old", "later", "last")(again) {
		t.Errorf("the second hold lost something: %v", again.Ports)
	}
	if err := s.ConfirmRestore(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, states, "the restored data again", has("old"))
}

func TestHistoryThatWasRewrittenIsNoticedAlthoughItIsLonger(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("old", "blue"))
	old := backup(t, e)
	p := newProxy(t, e.Endpoint)
	states := follow(t, hasty(t, e, p.url()))
	await(t, states, "the old port", has("old"))
	apply(t, s, newPort("first-life", "blue"))
	await(t, states, "the first life", has("old", "first-life"))
	p.cut()
	restore(t, e, old)
	for i := range 20 {
		apply(t, s, newPort(fmt.Sprintf("second-life-%d", i), "blue"))
	}
	p.mend()
	held := await(t, states, "a hold", holds)
	if !has("old", "first-life")(held) {
		t.Errorf("the held state is %v", held.Ports)
	}
}

func TestAHoldEndsWhenTheNewerDataIsBack(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("old", "blue"))
	old := backup(t, e)
	apply(t, s, newPort("new", "blue"))
	states := follow(t, s)
	await(t, states, "both ports", has("old", "new"))
	newer := backup(t, e)
	restore(t, e, old)
	await(t, states, "a hold", holds)
	restore(t, e, newer)
	after := await(t, states, "no hold", func(snap *fabric.Snapshot) bool { return !holds(snap) })
	if !has("old", "new")(after) || s.Held() != nil {
		t.Errorf("after the hold: %v, %v", after.Ports, s.Held())
	}
}

func TestOldDataIsHeldBackFromAnAgentThatStartsWithNewer(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("old", "blue"))
	old := backup(t, e)
	apply(t, s, newPort("new", "blue"))
	last, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	restore(t, e, old)
	states := followFrom(t, s, last)
	held := await(t, states, "something", func(*fabric.Snapshot) bool { return true })
	if !holds(held) || !has("old", "new")(held) {
		t.Errorf("the first state is %v with %v", held.Ports, held.Problems)
	}
	if err := s.ConfirmRestore(t.Context()); err != nil {
		t.Fatal(err)
	}
	await(t, states, "the restored data", has("old"))
}

func TestAnAgentThatStartsWithTheCurrentStateGoesOn(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("a", "blue"), newPort("b", "blue"))
	last, err := s.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if _, err := s.Delete(t.Context(), fabric.KindPort, "a"); err != nil {
		t.Fatal(err)
	}
	apply(t, s, newPort("c", "blue"))
	first := <-followFrom(t, s, last)
	if !has("b", "c")(first) || len(first.Problems) != 0 {
		t.Errorf("the first state is %v with %v", first.Ports, first.Problems)
	}
	if first.Ports["b"] != last.Ports["b"] {
		t.Error("a port that did not change was read again")
	}
}

// followFrom is follow from a state of an earlier run.
func followFrom(tb testing.TB, s *store.Store, last *fabric.Snapshot) <-chan *fabric.Snapshot {
	tb.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	states, done := make(chan *fabric.Snapshot, 1000), make(chan struct{})
	go func() {
		defer close(done)
		if err := s.FollowFrom(ctx, last, func(snap *fabric.Snapshot) { states <- snap }); err != nil {
			tb.Error(err)
		}
	}()
	tb.Cleanup(func() {
		cancel()
		<-done
	})
	return states
}

func TestDeletesAreSeenAlthoughTheirHistoryIsCompacted(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	objects := []fabric.Object{newSwitch("blue")}
	for i := range 200 {
		objects = append(objects, newPort(fmt.Sprintf("p%d", i), "blue"))
	}
	apply(t, s, objects...)
	p := newProxy(t, e.Endpoint)
	states := follow(t, hasty(t, e, p.url()))
	await(t, states, "200 ports", func(snap *fabric.Snapshot) bool { return len(snap.Ports) == 200 })
	p.cut()
	var left []string
	for i := range 200 {
		if i%2 == 0 {
			left = append(left, fmt.Sprintf("p%d", i))
			continue
		}
		if _, err := s.Delete(t.Context(), fabric.KindPort, fmt.Sprintf("p%d", i)); err != nil {
			t.Fatal(err)
		}
	}
	r := apply(t, s, newPort("new", "blue"))
	if _, err := store.Raw(e.OpenAs(t, "root")).Compact(t.Context(), int64(r.Revision)); err != nil {
		t.Fatal(err)
	}
	p.mend()
	snap := await(t, states, "the ports that are left", has(append(left, "new")...))
	if len(snap.Problems) != 0 {
		t.Errorf("problems %v", snap.Problems)
	}
}

func TestASilentConnectionIsNoticed(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"), newPort("a", "blue"))
	p := newProxy(t, e.Endpoint)
	states := follow(t, hasty(t, e, p.url()))
	await(t, states, "a port", has("a"))
	p.freeze() // nothing breaks, and nothing arrives
	apply(t, s, newPort("b", "blue"))
	p.mend() // new connections pass again, those that are frozen stay so
	begin := time.Now()
	await(t, states, "both ports", has("a", "b"))
	t.Logf("noticed after %v", time.Since(begin))
}

func TestEventsThatEtcdNeverSentAreFound(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := e.Open(t)
	apply(t, s, newSwitch("blue"), newPort("a", "blue"), newPort("b", "blue"))
	f := store.NewFollower(s)
	sync := func(values bool) {
		t.Helper()
		if err := f.Sync(t.Context(), values); err != nil {
			t.Fatal(err)
		}
	}
	sync(false)
	f.Lose("/weft/v1/port/blue/a")
	if !has("b")(f.Snapshot()) {
		t.Fatalf("ports %v", f.Snapshot().Ports)
	}
	sync(false)
	if !has("a", "b")(f.Snapshot()) {
		t.Errorf("after the comparison of keys: %v", f.Snapshot().Ports)
	}
	before := f.Snapshot().Ports["b"]
	f.Forge("/weft/v1/port/blue/b")
	sync(false)
	if f.Snapshot().Ports["b"] != before {
		t.Error("the comparison of keys read a value again")
	}
	f.Forge("/weft/v1/port/blue/b")
	f.Forge("/weft/v1/port/blue/b")
	sync(true)
	if f.Snapshot().Ports["b"] == before {
		t.Error("the comparison of values did not notice another value")
	}
}

func TestDamagedRecordsAreReportedAndNeverTakenForDeletions(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newHost("h1", "10.240.0.1"), newSwitch("blue", "10.10.0.0/24"), newPort("a", "blue"), newPort("b", "blue"))
	good, err := s.Get(t.Context(), fabric.KindPort, "a")
	if err != nil {
		t.Fatal(err)
	}
	newcomer := e.Open(t)
	states := follow(t, s)
	await(t, states, "both ports", has("a", "b"))
	for name, value := range map[string]string{
		"truncated":           `{"apiVersion":"weft/v1","kind":"Port","metadata":{"na`,
		"empty":               ``,
		"no JSON":             "\x00\xff\x01",
		"another kind":        `{"apiVersion":"weft/v1","kind":"Host","metadata":{"name":"a"},"spec":{"vtep":"10.0.0.1","underlayMTU":1500}}`,
		"another schema":      `{"apiVersion":"weft/v9","kind":"Port","metadata":{"name":"a"},"spec":{"switch":"blue"}}`,
		"another switch":      `{"apiVersion":"weft/v1","kind":"Port","metadata":{"name":"a"},"spec":{"switch":"red"}}`,
		"a value out of rule": `{"apiVersion":"weft/v1","kind":"Port","metadata":{"name":"a"},"spec":{"switch":"blue","mac":"ff:ff:ff:ff:ff:ff"}}`,
	} {
		if _, err := store.Raw(s).Put(t.Context(), "/weft/v1/port/blue/a", value); err != nil {
			t.Fatal(err)
		}
		snap := await(t, states, "a problem", func(snap *fabric.Snapshot) bool { return len(snap.Problems) == 1 })
		if !has("a", "b")(snap) || !strings.Contains(snap.Problems[0], "/weft/v1/port/blue/a") || len(snap.Problems[0]) > 400 {
			t.Errorf("%s: ports %v, problems %v", name, snap.Ports, snap.Problems)
		}
		fresh, err := newcomer.Snapshot(t.Context())
		if err != nil || len(fresh.Problems) != 1 || fresh.Ports["a"] != nil || fresh.Ports["b"] == nil {
			t.Errorf("%s: who starts now sees %v, %v (%v)", name, fresh.Ports, fresh.Problems, err)
		}
		// Applying it again heals it, with the values the index still has.
		r := apply(t, s, newPort("a", "blue"))
		healed, was := r.Objects[0].Object.(*fabric.Port), good.(*fabric.Port)
		if healed.Spec.MAC != was.Spec.MAC || !slices.Equal(healed.Spec.Addresses, was.Spec.Addresses) {
			t.Errorf("%s: healed as %+v, was %+v", name, healed.Spec, was.Spec)
		}
		await(t, states, "no problem", func(snap *fabric.Snapshot) bool { return len(snap.Problems) == 0 && snap.Revision == r.Revision })
	}
	if _, err := store.Raw(s).Put(t.Context(), "/weft/v1/index/subnets", "{"); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Apply(t.Context(), []fabric.Object{newSwitch("red", "10.10.0.0/25")}, store.ApplyOptions{}); !errors.Is(err, fabric.ErrConflict) {
		t.Errorf("with a damaged record of subnets an overlap gives %v", err)
	}
	apply(t, s, newSwitch("red", "10.11.0.0/24"))
}

func TestEtcdThatIsAwayIsSaidSo(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	s := hasty(t, e)
	apply(t, s, newSwitch("blue"))
	states := follow(t, s)
	await(t, states, "the switch", func(snap *fabric.Snapshot) bool { return snap.Switches["blue"] != nil })
	e.Stop()
	_, err := s.Apply(t.Context(), []fabric.Object{newSwitch("red")}, store.ApplyOptions{}) // for ever, were it not for the deadline that hasty sets
	if !errors.Is(err, store.ErrUnavailable) || !strings.Contains(err.Error(), e.Endpoint) {
		t.Errorf("error %v is not ErrUnavailable that names %s", err, e.Endpoint)
	}
	e.Restart(t)
	r := apply(t, s, newSwitch("red"))
	await(t, states, "what came after", func(snap *fabric.Snapshot) bool { return snap.Revision == r.Revision })
}
