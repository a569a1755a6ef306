package lab

import (
	"bytes"
	"encoding/json"
	"maps"
	"testing"
)

// FuzzMonitorAnswer holds a pump's monitor to: every line has exactly one answer, a return or an error with class and
// sentence; the id comes back as it was sent; and no request takes the pump out of its bounds.
func FuzzMonitorAnswer(f *testing.F) {
	f.Add([]byte(`{"execute":"qmp_capabilities","id":18446744073709551615}`))
	f.Add([]byte(`{"execute":"migrate-set-capabilities","arguments":{"capabilities":[{"capability":"events","state":true},{"capability":"xbzrle","state":true}]},"id":"x"}`))
	f.Add([]byte(`{"execute":"x-weft-set-pause","arguments":{"ms":-1e300},"id":null}`))
	f.Add([]byte(`{"execute":"migrate","arguments":{"uri":"pump:/nowhere"},"id":{"a":[1]}}`))
	f.Add([]byte(`{"execute":"query-migrate"}`))
	f.Add([]byte(`{"execute":"cont"`))
	f.Fuzz(func(t *testing.T, line []byte) {
		p := &pump{state: stateIncoming, move: moveNone, caps: map[string]bool{}, guest: -1, quit: func() {}}
		commands := p.commands()
		delete(commands, "announce-self") // it takes no arguments, and writes to a descriptor that only a real pump has
		p.monitor = &monitor{commands: commands, clients: map[*monitorClient]struct{}{}}
		text, err := json.Marshal(p.monitor.answer(&monitorClient{}, line))
		if err != nil {
			t.Fatalf("%q: %v", line, err)
		}
		var reply struct {
			Return, ID json.RawMessage
			Error      *struct{ Class, Desc string }
		}
		if err := json.Unmarshal(text, &reply); err != nil {
			t.Fatalf("%q: %s: %v", line, text, err)
		}
		if (reply.Error == nil) == (reply.Return == nil) || reply.Error != nil && (reply.Error.Class == "" || reply.Error.Desc == "") {
			t.Fatalf("%q was answered with %s", line, text)
		}
		var asked struct{ ID json.RawMessage }
		if json.Unmarshal(line, &asked) == nil && !bytes.Equal(compacted(t, asked.ID), compacted(t, reply.ID)) {
			t.Fatalf("%q was answered with the id %s", line, reply.ID)
		}
		unknown := maps.Clone(p.caps)
		for _, name := range knownCapabilities {
			delete(unknown, name)
		}
		if len(unknown) > 0 || p.config.Pause < 0 || p.config.Pause > maxPause {
			t.Fatalf("%q left the pump with a pause of %s and the capabilities %v", line, p.config.Pause, p.caps)
		}
	})
}

// compacted is JSON as Marshal writes it.
func compacted(tb testing.TB, text json.RawMessage) []byte {
	tb.Helper()
	if len(text) == 0 {
		return nil
	}
	out, err := json.Marshal(text)
	if err != nil {
		tb.Fatal(err)
	}
	return out
}
