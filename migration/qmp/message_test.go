package qmp

import (
	"bufio"
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestDecode(t *testing.T) {
	for _, c := range []struct {
		name, line string
		check      func(message) bool
	}{
		{"a greeting has the version", `{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": "Debian"}, "capabilities": ["oob"]}}`,
			func(m message) bool { return *m.greeting == Version{7, 2, 22, "Debian"} }},
		{"an event has its time to the microsecond", `{"timestamp": {"seconds": 1700000000, "microseconds": 123456}, "event": "STOP"}`,
			func(m message) bool {
				return m.notice.Name == "STOP" && m.notice.Time.Equal(time.Unix(1700000000, 123456000))
			}},
		{"an event of a monitor without a clock has no time", `{"timestamp": {"seconds": -1, "microseconds": -1}, "event": "STOP"}`,
			func(m message) bool { return m.notice.Time.IsZero() }},
		{"a reply knows its command", `{"return": {}, "id": 7}`, func(m message) bool { return m.id == 7 && string(m.reply) == "{}" }},
		{"a refusal has class and sentence", `{"error": {"class": "CommandNotFound", "desc": "no"}, "id": 3}`,
			func(m message) bool {
				return m.id == 3 && m.refusal.Class == "CommandNotFound" && m.refusal.Desc == "no"
			}},
		{"unknown members are left alone", `{"return": [], "id": 1, "x-new": true}`, func(m message) bool { return m.id == 1 }},
	} {
		t.Run(c.name, func(t *testing.T) {
			m, err := decode([]byte(c.line))
			if err != nil || !c.check(m) {
				t.Errorf("%+v, %v", m, err)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, line := range []string{"", "hello", "[]", "{}", `{"return": {}, "id": "mine"}`, `{"return": {}, "id": -1}`, `{"event": 5}`, `{"QMP": []}`} {
		if _, err := decode([]byte(line)); !errors.Is(err, ErrProtocol) {
			t.Errorf("%q: %v, want ErrProtocol", line, err)
		}
	}
}

func TestReadLineIsBounded(t *testing.T) {
	long := strings.Repeat("x", MaxMessage-1) + "\n"
	r := bufio.NewReader(strings.NewReader(long + "x" + long))
	if line, err := readLine(r); err != nil || len(line) != MaxMessage {
		t.Errorf("a line of MaxMessage: %d bytes, %v", len(line), err)
	}
	if _, err := readLine(r); !errors.Is(err, ErrProtocol) {
		t.Errorf("a longer line: %v", err)
	}
}

// FuzzDecode holds the decoder to: no panic, exactly one kind per message, and nothing but ErrProtocol.
func FuzzDecode(f *testing.F) {
	f.Add([]byte(`{"QMP": {"version": {"qemu": {"micro": 22, "minor": 2, "major": 7}, "package": ""}, "capabilities": []}}`))
	f.Add([]byte(`{"timestamp": {"seconds": 1, "microseconds": 2}, "event": "MIGRATION", "data": {"status": "active"}}`))
	f.Add([]byte(`{"return": {"status": "running", "running": true}, "id": 2}`))
	f.Add([]byte(`{"error": {"class": "GenericError", "desc": "\ud800"}, "id": 18446744073709551615}`))
	f.Add([]byte("{\"return\":{}}\n{\"event\":\"STOP\"}\n"))
	f.Fuzz(func(t *testing.T, b []byte) {
		r := bufio.NewReader(bytes.NewReader(b))
		for {
			line, err := readLine(r)
			if err != nil {
				return
			}
			m, err := decode(line)
			if err != nil {
				if !errors.Is(err, ErrProtocol) {
					t.Fatalf("%q: %v", line, err)
				}
				continue
			}
			set := 0
			for _, is := range []bool{m.greeting != nil, m.notice != nil, m.reply != nil, m.refusal != nil} {
				if is {
					set++
				}
			}
			if set != 1 {
				t.Fatalf("%q decodes to %d kinds", line, set)
			}
			if m.notice != nil {
				EventOf(*m.notice)
			}
		}
	})
}
