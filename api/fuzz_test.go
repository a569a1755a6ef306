package api_test

import (
	"encoding/json"
	"errors"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

// documents are seeds: one object, a list, two objects, and none.
var documents = []string{
	`{"apiVersion":"weft/v1","kind":"Port","metadata":{"name":"a","labels":{"tier":"web"}},"spec":{"vm":"a","switch":"blue","addresses":["10.0.0.1"],"mac":"52:54:00:00:00:09"}}`,
	`{"items":[{"apiVersion":"weft/v1","kind":"Group","metadata":{"name":"g"},"spec":{"cidrs":["10.0.0.0/8"]}}]}`,
	`{"apiVersion":"weft/v1","kind":"Profile","metadata":{"name":"p"}}` + "\n---\n" + `{"apiVersion":"weft/v1","kind":"Profile","metadata":{"name":"q"}}`,
	"", "null", "[]",
}

// FuzzDecode holds Decode to: what is refused is fabric.ErrInvalid and names no line, and what is accepted is an object that
// users may write again without changing anything.
func FuzzDecode(f *testing.F) {
	for _, d := range documents {
		f.Add([]byte(d))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		o, err := api.Decode(text)
		if err != nil {
			var findings fabric.Findings
			if !errors.Is(err, fabric.ErrInvalid) || errors.As(err, &findings) && findings[0].Line != 0 {
				t.Fatalf("%q: %v", text, err)
			}
			return
		}
		w, err := api.Written(o)
		if err != nil {
			t.Fatalf("%q was accepted, but not as written: %v", text, err)
		}
		if changes, err := api.Diff(o, w); err != nil || len(changes) != 0 {
			t.Fatalf("%q as written differs: %v, %v", text, changes, err)
		}
	})
}

// FuzzSet holds Set to: what is refused is fabric.ErrInvalid, and setting twice is setting once.
func FuzzSet(f *testing.F) {
	for _, a := range []string{"mac=52:54:00:00:00:0a", "addresses=[10.0.0.2]", "labels.tier=", "guards={}", "metadata.name=b", "=", "vm=&a [*a]", "spec..x={y: {}}", "0=0:", "mtu=.inf"} {
		f.Add(a)
	}
	f.Fuzz(func(t *testing.T, assignment string) {
		once, err := api.Set(aPort(), []string{assignment})
		if err != nil {
			if !errors.Is(err, fabric.ErrInvalid) {
				t.Fatalf("%q: %v", assignment, err)
			}
			return
		}
		if fabric.Ref(once) != fabric.Ref(aPort()) {
			t.Fatalf("%q made %s of %s", assignment, fabric.Ref(once), fabric.Ref(aPort()))
		}
		twice, err := api.Set(once, []string{assignment})
		if err != nil {
			t.Fatalf("%q again: %v", assignment, err)
		}
		if changes, err := api.Diff(once, twice); err != nil || len(changes) != 0 {
			t.Fatalf("%q again changes %v, %v", assignment, changes, err)
		}
	})
}

// FuzzError holds the shape of errors to: what a server says keeps its identity on the way to the caller and back.
func FuzzError(f *testing.F) {
	f.Add([]byte(`{"error":"no such port","code":"not-found","object":"port/a","next":"weft get ports"}`))
	f.Add([]byte(`{"error":"","code":"of a later release","servers":["h1:7443"]}`))
	f.Fuzz(func(t *testing.T, text []byte) {
		var e api.Error
		if json.Unmarshal(text, &e) != nil {
			return
		}
		if s := e.GetStatus(); s < 400 || s > 599 {
			t.Fatalf("%q has status %d", text, s)
		}
		if again := api.ErrorOf(&e); again != &e || errors.Is(again, fabric.ErrNotFound) != (e.Code == api.CodeNotFound) {
			t.Fatalf("%q became %+v", text, again)
		}
	})
}
