package server

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/weftnet/weft/api"
)

// FuzzReadPending holds the reader of a change that waits to: what is accepted says when it is undone, can be undone whole,
// and reads the same when it is written again.
func FuzzReadPending(f *testing.F) {
	f.Add([]byte(`{"revision":4,"undoneAt":"2026-11-22T12:00:00Z","objects":["group/g"],"trace":"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01","before":[{"apiVersion":"weft/v1","kind":"Group","metadata":{"name":"g"},"spec":{"cidrs":["10.0.0.0/8"]}}],"created":[{"kind":"Switch","name":"s"}]}`))
	f.Add([]byte(`{"undoneAt":"2026-11-22T12:00:00Z","before":[null]}`))
	f.Add([]byte(`null`))
	f.Fuzz(func(t *testing.T, b []byte) {
		p, err := readPending(b)
		if err != nil {
			return
		}
		if p.UndoneAt.IsZero() {
			t.Fatalf("%q is never undone", b)
		}
		for _, before := range p.Before {
			if _, err := api.Decode(before); err != nil {
				t.Fatalf("%q cannot be undone: %v", b, err)
			}
		}
		text, err := json.Marshal(p)
		if err != nil {
			t.Fatal(err)
		}
		again, err := readPending(text)
		if err != nil || !again.UndoneAt.Equal(p.UndoneAt) || len(again.Before) != len(p.Before) || !reflect.DeepEqual(again.Created, p.Created) {
			t.Fatalf("%q is read back as %+v, %v", text, again, err)
		}
	})
}
