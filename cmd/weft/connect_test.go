package main

import (
	"strings"
	"testing"
)

func TestTheCommandForAServerHostIsTheOneThatWasGiven(t *testing.T) {
	for _, c := range []struct{ given, want string }{
		{"create switch blue", "create switch blue"},
		{"--host h4 create switch blue", "create switch blue"},
		{"create --host=h4 switch blue --socket /run/w.sock", "create switch blue"},
		{"delete port a --cert /root/op -o json", "delete port a -o json"},
		{"apply -f it's.yaml", `apply -f 'it'\''s.yaml'`},
		{"migrate a --to $X", "migrate a --to '$X'"},
	} {
		got := onServer(strings.Fields(c.given), "192.0.2.11:7443")
		if want := "weft --server 192.0.2.11:7443 --cert DIR " + c.want; got != want {
			t.Errorf("for %q got\n%s\nwant\n%s", c.given, got, want)
		}
	}
}
