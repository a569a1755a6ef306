package store_test

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	"pgregory.net/rapid"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/store"
	"github.com/weftnet/weft/fabric/store/storetest"
)

// writer is one client's list of things to do.
type writer []func(s *store.Store) error

// TestConcurrentWritersNeverShareAValue lets several clients create, change and delete ports and switches at once, with
// few names, few explicit values and a small subnet, and then checks every record against every index record.
func TestConcurrentWritersNeverShareAValue(t *testing.T) {
	t.Parallel()
	e := storetest.Start(t)
	clients := []*store.Store{e.Open(t), e.Open(t), e.Open(t)}
	rapid.Check(t, func(r *rapid.T) {
		if _, err := store.Raw(clients[0]).Delete(t.Context(), "/weft/", clientv3.WithPrefix()); err != nil {
			r.Fatal(err)
		}
		apply(t, clients[0], newSwitch("s0", "10.0.0.0/27"), newSwitch("s1"))
		writers := make([]writer, len(clients))
		for i := range writers {
			writers[i] = rapid.Custom(drawWriter).Draw(r, fmt.Sprintf("client %d", i))
		}
		var all sync.WaitGroup
		unexpected := make([]error, len(clients))
		for i, w := range writers {
			all.Go(func() {
				for _, do := range w {
					err := do(clients[i])
					// Conflicts and missing references are what the test provokes; anything else is wrong.
					if err != nil && !errors.Is(err, fabric.ErrConflict) && !errors.Is(err, fabric.ErrInvalid) && !errors.Is(err, fabric.ErrNotFound) {
						unexpected[i] = err
						return
					}
				}
			})
		}
		all.Wait()
		if err := errors.Join(unexpected...); err != nil {
			r.Fatal(err)
		}
		if err := consistent(t, clients[0]); err != nil {
			r.Fatal(err)
		}
	})
}

// drawWriter draws a list of random changes.
func drawWriter(r *rapid.T) writer {
	var w writer
	for range rapid.IntRange(1, 8).Draw(r, "changes") {
		name := fmt.Sprintf("p%d", rapid.IntRange(0, 5).Draw(r, "name"))
		sw := fabric.SwitchID(fmt.Sprintf("s%d", rapid.IntRange(0, 2).Draw(r, "switch")))
		switch rapid.IntRange(0, 6).Draw(r, "what") {
		case 0:
			w = append(w, func(s *store.Store) error {
				_, err := s.Delete(r.Context(), fabric.KindPort, name)
				return err
			})
		case 1:
			w = append(w, func(s *store.Store) error {
				_, err := s.Delete(r.Context(), fabric.KindSwitch, string(sw))
				return err
			})
		case 2:
			o := newSwitch(string(sw), fmt.Sprintf("10.0.%d.0/2%d", rapid.IntRange(0, 1).Draw(r, "net"), rapid.IntRange(3, 7).Draw(r, "bits")))
			o.Spec.Subnets[0] = o.Spec.Subnets[0].Masked()
			o.Spec.VNI = fabric.VNI(rapid.SampledFrom([]int{0, 0, 10001, 10002}).Draw(r, "vni"))
			w = append(w, applyOne(r, o))
		default:
			o := newPort(name, sw)
			if n := rapid.IntRange(0, 3).Draw(r, "mac"); n > 0 {
				o.Spec.MAC = fabric.MAC{0x52, 0x54, 0, 0, 0, byte(n)}
			}
			if n := rapid.IntRange(0, 4).Draw(r, "address"); n > 1 {
				o.Spec.Addresses = addresses(fmt.Sprintf("10.0.0.%d", n))
			}
			w = append(w, applyOne(r, o))
		}
	}
	return w
}

func applyOne(r *rapid.T, o fabric.Object) func(*store.Store) error {
	return func(s *store.Store) error {
		_, err := s.Apply(r.Context(), []fabric.Object{o}, store.ApplyOptions{})
		return err
	}
}

// consistent checks that the index says exactly what the objects say, and that no two subnets overlap. An index key holds
// one value, so what it says exactly is unique.
func consistent(tb testing.TB, s *store.Store) error {
	tb.Helper()
	snap, err := s.Snapshot(tb.Context())
	if err != nil {
		return err
	}
	want := map[string]string{}
	say := func(k, owner string) error {
		if other, taken := want[k]; taken {
			return fmt.Errorf("%s belongs to %s and %s", k, other, owner)
		}
		want[k] = owner
		return nil
	}
	subnets := map[string][]netip.Prefix{}
	for id, sw := range snap.Switches {
		err = errors.Join(err, say(fmt.Sprintf("vni/%d", sw.Spec.VNI), string(id)))
		if len(sw.Spec.Subnets) > 0 {
			subnets[string(id)] = sw.Spec.Subnets
		}
		for other, o := range snap.Switches {
			for _, p := range sw.Spec.Subnets {
				for _, q := range o.Spec.Subnets {
					if id != other && p.Overlaps(q) {
						err = errors.Join(err, fmt.Errorf("%s of %s overlaps %s of %s", p, id, q, other))
					}
				}
			}
		}
	}
	for id, p := range snap.Ports {
		sw := snap.Switches[p.Spec.Switch]
		if sw == nil {
			return fmt.Errorf("port %s is on switch %s, which is not there", id, p.Spec.Switch)
		}
		err = errors.Join(err, say("port/"+string(id), string(p.Spec.Switch)), say("mac/"+p.Spec.MAC.String(), string(id)))
		for _, a := range p.Spec.Addresses {
			err = errors.Join(err, say("address/"+string(p.Spec.Switch)+"/"+a.String(), string(id)))
			if len(sw.Spec.Subnets) > 0 && !sw.Spec.Subnets[0].Contains(a) {
				err = errors.Join(err, fmt.Errorf("port %s has %s outside %v", id, a, sw.Spec.Subnets))
			}
		}
	}
	if err != nil {
		return err
	}
	return indexSays(tb, s, want, subnets)
}

// indexSays compares the index in etcd with what it should say.
func indexSays(tb testing.TB, s *store.Store, want map[string]string, subnets map[string][]netip.Prefix) error {
	tb.Helper()
	resp, err := store.Raw(s).Get(tb.Context(), "/weft/v1/index/", clientv3.WithPrefix())
	if err != nil {
		return err
	}
	for _, kv := range resp.Kvs {
		k := strings.TrimPrefix(string(kv.Key), "/weft/v1/index/")
		if k == "subnets" {
			expected, err := json.Marshal(subnets)
			if err != nil || string(expected) != string(kv.Value) {
				return fmt.Errorf("the record of subnets says %s, the switches say %s (%v)", kv.Value, expected, err)
			}
			continue
		}
		if want[k] != string(kv.Value) {
			return fmt.Errorf("index %s says %q, the objects say %q", k, kv.Value, want[k])
		}
		delete(want, k)
	}
	if len(want) > 0 {
		return fmt.Errorf("the index lacks %v", want)
	}
	return nil
}
