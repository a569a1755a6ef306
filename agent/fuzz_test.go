package agent

import (
	"bytes"
	"crypto/sha256"
	"encoding/json"
	"io"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/weftnet/weft/agent/plan"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// FuzzReadIncoming holds the reader of a hook's answer to: what is accepted has one device for each port of the move, and
// reads the same when it is written again.
func FuzzReadIncoming(f *testing.F) {
	f.Add([]byte(`{"uri": "tcp:10.240.0.1:4444", "attachments": [{"port": "a", "device": "tap-a", "kind": "tap", "qmp": "/a.qmp"}, {"port": "b", "device": "tap-b", "kind": "tap"}]}`))
	f.Add([]byte(`{"uri": "x", "attachments": [{"port": "a"}, {"port": "b"}, {"port": "a", "device": "tap-c"}]}`))
	f.Add([]byte(`{"uri": "x", "attachments": null}`))
	move := &fabric.Move{Metadata: fabric.Metadata{Name: "m"}, Spec: fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a", "b"}}}
	f.Fuzz(func(t *testing.T, printed []byte) {
		answer, err := readIncoming(printed, move)
		if err != nil {
			return
		}
		devices := map[fabric.PortID]int{}
		for _, a := range answer.Attachments {
			devices[a.Port]++
		}
		if want := map[fabric.PortID]int{"a": 1, "b": 1}; answer.URI == "" || !reflect.DeepEqual(devices, want) {
			t.Fatalf("accepted for ports a and b: %+v", answer)
		}
		text, err := json.Marshal(answer)
		if err != nil {
			t.Fatal(err)
		}
		if again, err := readIncoming(text, move); err != nil || !reflect.DeepEqual(again, answer) {
			t.Fatalf("%s is read back as %+v, %v", text, again, err)
		}
	})
}

// FuzzUnsealed holds the reader of sealed files to: what is accepted is, byte for byte, what seal writes. Half of the inputs
// carry the right checksum, which chance does not find.
func FuzzUnsealed(f *testing.F) {
	f.Add([]byte("weft local 1\n{}\n"), true)
	f.Add([]byte("weft local 2\n{}\n"), true)
	f.Add([]byte("weft local -1\n{}\n"), true)
	f.Add([]byte("weft local +1 x\n{}\n"), true)
	f.Add([]byte("weft local 1\n{}\n"), false)
	f.Add([]byte(""), false)
	f.Fuzz(func(t *testing.T, text []byte, sum bool) {
		if sum {
			h := sha(text)
			text = append(append(bytes.Clone(text), h...), '\n')
		}
		body, err := unsealed(text, "local")
		if err != nil {
			return
		}
		path := filepath.Join(t.TempDir(), "local")
		if err := seal(path, "local", func(w io.Writer) error { _, err := w.Write(body); return err }); err != nil {
			t.Fatal(err)
		}
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(bytes.TrimSuffix(want, []byte("\n")), bytes.TrimSuffix(text, []byte("\n"))) {
			t.Fatalf("accepted %q, written %q", text, want)
		}
	})
}

// sha is the trailer of a text.
func sha(text []byte) string {
	sum := sha256.New()
	sum.Write(text)
	return trailer(sum)
}

// FuzzReadLocal holds the reader of the host's own knowledge to: what is accepted reads the same when it is written again,
// and can be planned with.
func FuzzReadLocal(f *testing.F) {
	f.Add([]byte(`{"attachments":{"a":{"device":"tap-a","kind":1,"qmp":"/a.qmp"}},"handoffs":{"a":{"to":"h2","epoch":3}},"staged":{"p0":"m1"},"moves":{"m1":{"uri":"tcp:x","qmp":"y"}}}`))
	f.Add([]byte(`{"attachments":{"":{"device":"","kind":255}}} {}`))
	f.Add([]byte(`null`))
	snap := blue(3, 2)
	f.Fuzz(func(t *testing.T, body []byte) {
		l, err := readLocal(body)
		if err != nil {
			return
		}
		var text bytes.Buffer
		if err := l.write(&text); err != nil {
			t.Fatal(err)
		}
		if again, err := readLocal(text.Bytes()); err != nil || !reflect.DeepEqual(again.clone(), l.clone()) {
			t.Fatalf("%q is read back as %+v, %v", text.Bytes(), again, err)
		}
		planned(t, snap, l)
	})
}

// FuzzReadSnapshot holds the reader of the last good state to: what is accepted has every object under its own name, reads
// the same when it is written again, and can be planned with.
func FuzzReadSnapshot(f *testing.F) {
	whole := blue(10, 3)
	whole.Profiles = map[string]*fabric.Profile{"gold": {Metadata: fabric.Metadata{Name: "gold"}}}
	whole.Groups = map[string]*fabric.Group{"web": {Metadata: fabric.Metadata{Name: "web"}}}
	whole.Moves = map[fabric.MoveID]*fabric.Move{"m1": {Metadata: fabric.Metadata{Name: "m1"}, Spec: fabric.MoveSpec{VM: "a", Ports: []fabric.PortID{"a"}}}}
	var text bytes.Buffer
	if err := writeSnapshot(&text, whole); err != nil {
		f.Fatal(err)
	}
	f.Add(text.Bytes())
	f.Add([]byte("{\"revision\":4}\n{\"location\":null}\n"))
	f.Add([]byte("{\"revision\":4}\n{\"kind\":\"Port\",\"object\":null}\n"))
	f.Add([]byte("{\"revision\":4}\n{\"kind\":\"Switch\",\"object\":{\"metadata\":{\"name\":\"blue\"},\"spec\":{\"vni\":4294967295,\"mtu\":-5}}}\n"))
	f.Fuzz(func(t *testing.T, body []byte) {
		s, err := readSnapshot(bytes.NewReader(body))
		if err != nil {
			return
		}
		for id, p := range s.Ports {
			if p == nil || id == "" || p.Metadata.Name != string(id) {
				t.Fatalf("port %q is %+v", id, p)
			}
		}
		once := rewritten(t, s)
		if twice := rewritten(t, once); !reflect.DeepEqual(once, twice) {
			t.Fatalf("%+v became %+v", once, twice)
		}
		if len(once.Ports) != len(s.Ports) || len(once.Locations) != len(s.Locations) || once.Revision != s.Revision {
			t.Fatalf("%+v lost something: %+v", s, once)
		}
		l := local{}.clone()
		for id := range s.Ports {
			l.Attachments[id] = attachment{Attachment: plan.Attachment{Device: "tap-" + string(id), Kind: datapath.Tap}}
		}
		planned(t, s, l)
	})
}

// rewritten writes a snapshot and reads it.
func rewritten(tb testing.TB, s *fabric.Snapshot) *fabric.Snapshot {
	tb.Helper()
	var text bytes.Buffer
	if err := writeSnapshot(&text, s); err != nil {
		tb.Fatal(err)
	}
	out, err := readSnapshot(&text)
	if err != nil {
		tb.Fatalf("%q cannot be read: %v", text.Bytes(), err)
	}
	return out
}

// planned fails unless every port of the plan is one that is plugged in here.
func planned(tb testing.TB, s *fabric.Snapshot, l local) {
	tb.Helper()
	plugged := plan.Local{VTEP: netip.MustParseAddr("10.240.0.1"), Handoffs: l.Handoffs, Staged: l.Staged, Attachments: map[fabric.PortID]plan.Attachment{}}
	for name, a := range l.Attachments {
		plugged.Attachments[name] = a.Attachment
	}
	for device, p := range plan.Wanted(s, "h1", plugged).Ports {
		if plugged.Attachments[p.Name].Device != device {
			tb.Fatalf("port %q is planned on %q: %+v", p.Name, device, plugged)
		}
	}
}
