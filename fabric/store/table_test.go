package store

import (
	"encoding/json"
	"fmt"
	"net/netip"
	"runtime"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// ports makes the records of n ports and their locations, as etcd would hand them over.
func ports(tb testing.TB, n int) []change {
	tb.Helper()
	var changes []change
	add := func(k string, v any) {
		b, err := json.Marshal(v)
		if err != nil {
			tb.Fatal(err)
		}
		changes = append(changes, change{record: record{key: k, value: b, revision: int64(len(changes) + 1)}})
	}
	head := func(k fabric.Kind) fabric.TypeMeta {
		return fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: k}
	}
	addr := netip.MustParseAddr("10.0.0.2")
	for i := range n {
		name := fmt.Sprintf("web-server-%d", i)
		add(portKey("blue", name), fabric.Port{
			TypeMeta: head(fabric.KindPort), Metadata: fabric.Metadata{Name: name, Trace: fmt.Sprintf("00-%032x-%016x-01", i, i)},
			Spec: fabric.PortSpec{
				VM: name, Switch: "blue", Host: "h1", MAC: fabric.MAC{0x52, 0x54, 0, byte(i >> 16), byte(i >> 8), byte(i)}, Addresses: []netip.Addr{addr},
			},
		})
		add(locationKey("blue", fabric.PortID(name)), fabric.Location{Port: fabric.PortID(name), Switch: "blue", Host: "h1", Epoch: 1})
		addr = addr.Next()
	}
	add(key(fabric.KindSwitch, "blue"), fabric.Switch{TypeMeta: head(fabric.KindSwitch), Metadata: fabric.Metadata{Name: "blue"}, Spec: fabric.SwitchSpec{Type: fabric.Private, VNI: 10001}})
	return changes
}

func heap() int64 {
	runtime.GC()
	runtime.GC()
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// An agent has 80 MB for everything when there are ten thousand ports; following them may take a quarter of that, also
// while somebody still holds earlier snapshots.
func TestTenThousandPortsAreSmall(t *testing.T) {
	changes := ports(t, 10000)
	before := heap()
	table := newTable(nil)
	table.apply(changes, int64(len(changes)))
	changes = changes[:1]
	held := []*fabric.Snapshot{table.snapshot()}
	for i := range 3 {
		c := changes[0]
		c.revision = int64(100000 + i)
		table.apply([]change{c}, c.revision)
		held = append(held, table.snapshot())
	}
	used := heap() - before
	t.Logf("%.1f MB for 10,000 ports and 4 snapshots", float64(used)/1e6)
	if used > 20e6 {
		t.Errorf("%.1f MB, want at most 20", float64(used)/1e6)
	}
	if a, b := held[0].Ports["web-server-7"], held[3].Ports["web-server-7"]; a != b || a == nil {
		t.Error("snapshots do not share a port that did not change")
	}
	if held[0].Ports["web-server-0"].Metadata.Revision == held[1].Ports["web-server-0"].Metadata.Revision {
		t.Error("a snapshot changed after it was handed out")
	}
	runtime.KeepAlive(table)
	runtime.KeepAlive(changes)
}

func BenchmarkOneChangeAmongTenThousandPorts(b *testing.B) {
	changes := ports(b, 10000)
	table := newTable(nil)
	table.apply(changes, int64(len(changes)))
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		c := changes[0]
		c.revision = int64(100000 + i)
		table.apply([]change{c}, c.revision)
		table.snapshot()
	}
}

func BenchmarkLoadTenThousandPorts(b *testing.B) {
	changes := ports(b, 10000)
	b.ReportAllocs()
	for b.Loop() {
		newTable(nil).apply(changes, int64(len(changes)))
	}
}

func TestKeysAreReadAsTheyAreWritten(t *testing.T) {
	for k, want := range map[string]place{
		portKey("blue", "a"):               {kind: fabric.KindPort, sw: "blue", name: "a"},
		locationKey("blue", "a"):           {location: true, sw: "blue", name: "a"},
		key(fabric.KindSwitch, "blue"):     {kind: fabric.KindSwitch, name: "blue"},
		key(fabric.KindMove, "m1"):         {kind: fabric.KindMove, name: "m1"},
		key(fabric.KindMirror, "ids"):      {kind: fabric.KindMirror, name: "ids"},
		key(fabric.KindProfile, "default"): {kind: fabric.KindProfile, name: "default"},
	} {
		if got, ok := parse(k); !ok || got != want {
			t.Errorf("%s became %+v", k, got)
		}
	}
	for _, k := range []string{prefix, prefix + "port/a", prefix + "port/a/b/c", prefix + "router/x", prefix + "host/", prefix + "host/a/b", incarnationKey, "elsewhere"} {
		if got, ok := parse(k); ok {
			t.Errorf("%s became %+v", k, got)
		}
	}
}

func FuzzRecords(f *testing.F) {
	f.Add("port/blue/a", []byte(`{"apiVersion":"weft/v1","kind":"Port","metadata":{"name":"a"},"spec":{"switch":"blue"}}`))
	f.Add("location/blue/a", []byte(`{"port":"a","switch":"blue","host":"h1","epoch":1}`))
	f.Add("incarnation", []byte(`{"id":"x"}`))
	f.Add("move/m", []byte(`{"apiVersion":"weft/v1","kind":"Move","status":{"at":{"granted":"2026"}}}`))
	f.Fuzz(func(t *testing.T, k string, value []byte) {
		table := newTable(nil)
		good := ports(t, 1)
		table.apply(good, 3)
		table.apply([]change{{record: record{key: prefix + k, value: value, revision: 4}}}, 4)
		s := table.snapshot()
		for id, p := range s.Ports {
			if err := p.Validate(); err != nil || string(id) != p.Metadata.Name {
				t.Errorf("port %s was taken over although %v", id, err)
			}
		}
		if s.Ports["web-server-0"] == nil {
			t.Error("a foreign record removed a port")
		}
		table.apply([]change{{record: record{key: prefix + k, revision: 5}, deleted: true}}, 5)
		if len(table.snapshot().Problems) != 0 {
			t.Errorf("a record that is gone is still a problem: %v", table.snapshot().Problems)
		}
	})
}
