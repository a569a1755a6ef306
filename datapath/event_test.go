package datapath

import (
	"encoding/json"
	"reflect"
	"testing"
	"unsafe"

	"github.com/weftnet/weft/tracing"
)

// FuzzReadRecord holds the reader of the ring to: a record is whole, every field of a hop is the
// record's, and a hop can be told as JSON whatever numbers are in it.
func FuzzReadRecord(f *testing.F) {
	f.Add(bytesOf(coreHop{Kind: kindHop, Ifindex: 7, Ts: 9, Label: 1 << 63, Stage: 1, Result: 1, Reason: 301, Vni: 5, Sport: 1, Dport: 2}))
	f.Add(bytesOf(coreHop{Kind: kindOpened, Ifindex: 7}))
	f.Add(bytesOf(coreHop{Kind: 3, Stage: 255, Result: 255, Reason: 65535}))
	f.Add(bytesOf(coreHop{Kind: kindHop})[1:])
	f.Fuzz(func(t *testing.T, raw []byte) {
		r, ok := readRecord[coreHop](raw)
		if whole := len(raw) >= len(bytesOf(r)); ok != whole {
			t.Fatalf("%d bytes, kind %d: %v", len(raw), r.Kind, ok)
		}
		if !ok {
			return
		}
		if got := bytesOf(r); string(got) != string(raw[:len(got)]) {
			t.Fatalf("%x was read as %x", raw, got)
		}
		h := hopOf(&r)
		if back := recordOf(h, r); back != r {
			t.Fatalf("%+v became %+v", r, back)
		}
		text, err := json.Marshal(h)
		if err != nil {
			t.Fatalf("%+v: %v", h, err)
		}
		var again tracing.Hop
		if err := json.Unmarshal(text, &again); known(h) && (err != nil || !reflect.DeepEqual(again, h)) {
			t.Fatalf("%s is read back as %+v, %v", text, again, err)
		}
	})
}

// recordOf is the reverse of hopOf; what a hop does not carry, and how an address was written, is the record's.
func recordOf(h tracing.Hop, r coreHop) coreHop {
	out := coreHop{
		Kind: r.Kind, Family: r.Family, Ifindex: h.Ifindex, Ts: h.Ktime, Label: h.Label, Session: h.Session, Vni: uint32(h.VNI),
		Peer: toCore(h.Peer), Source: toCore(h.Source), Destination: toCore(h.Destination), Generation: uint32(h.Generation),
		Len: h.Length, Sport: h.SourcePort, Dport: h.DestinationPort, Stage: uint8(h.Stage), Result: uint8(h.Result),
		Reason: uint16(h.Reason), Proto: h.Protocol,
	}
	return out
}

// known reports whether this release has names for the numbers of the hop.
func known(h tracing.Hop) bool {
	var stage tracing.Stage
	var result tracing.Result
	var reason tracing.Reason
	return stage.UnmarshalText([]byte(h.Stage.String())) == nil && result.UnmarshalText([]byte(h.Result.String())) == nil &&
		reason.UnmarshalText([]byte(h.Reason.String())) == nil
}

func bytesOf(r coreHop) []byte {
	return append([]byte{}, (*[unsafe.Sizeof(r)]byte)(unsafe.Pointer(&r))[:]...)
}
