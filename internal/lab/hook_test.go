package lab

import (
	"bytes"
	"encoding/json"
	"errors"
	"path/filepath"
	"strings"
	"testing"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/migration/qmp"
)

// incoming calls the hook as an agent of the host does.
func incoming(t *testing.T, l *Lab, host fabric.HostID, request string) (IncomingAnswer, error) {
	t.Helper()
	var out bytes.Buffer
	args := []string{"hook", "incoming", "--dir", l.Dir, "--host", string(host)}
	if err := Helper(t.Context(), args, strings.NewReader(request), &out); err != nil {
		return IncomingAnswer{}, err
	}
	var answer IncomingAnswer
	if err := json.Unmarshal(out.Bytes(), &answer); err != nil {
		t.Fatalf("the hook printed %q: %v", out.String(), err)
	}
	return answer, nil
}

func TestIncomingHookStartsTheOtherHalf(t *testing.T) {
	l := bare(t, Options{Name: "hook", Hosts: 3})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	source := guest(t, l, GuestOptions{Name: "b", Host: "h2", Address: addressB}).Instances[0]
	echoServer(t, l, "b", ":7")
	conn := dial(t, l, "a", "10.10.0.2:7")
	echo(t, conn, "on h2")
	if _, err := incoming(t, l, "h1", `{"vm":"b","ports":["b"],"move":"m0"}`); err != nil { // a move that was given up
		t.Fatal(err)
	}
	answer, err := incoming(t, l, "h3", `{"vm":"b","ports":["b"],"move":"m1"}`)
	if err != nil {
		t.Fatal(err)
	}
	if err := l.load(); err != nil {
		t.Fatal(err)
	}
	g := l.guest("b")
	if len(g.Instances) != 2 || g.Instances[0] != source || g.Instances[1].Host != "h3" {
		t.Fatalf("the guest is at %+v", g.Instances)
	}
	there := g.Instances[1]
	want := api.Attachment{Device: "tap-b", Kind: api.Tap, QMP: filepath.Join(there.Dir, agentMonitor)}
	if len(answer.Attachments) != 1 || answer.Attachments[0].Port != "b" || answer.Attachments[0].Attachment != want {
		t.Fatalf("the hook answered %+v", answer)
	}
	bridge(t, l, there)
	m, err := qmp.Dial(t.Context(), filepath.Join(source.Dir, agentMonitor), nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.Close()
	if err := m.Migrate(t.Context(), answer.URI); err != nil {
		t.Fatal(err)
	}
	echo(t, conn, "on h3") // it may travel while the guest does
	if err := there.await(t.Context(), "running"); err != nil {
		t.Fatal(err)
	}
}

func TestIncomingHookRefusesWhatCannotMove(t *testing.T) {
	l := bare(t, Options{Name: "nomove", Hosts: 2})
	guest(t, l, GuestOptions{Name: "a", Host: "h1", Address: addressA})
	guest(t, l, GuestOptions{Name: "b", Host: "h1", Kind: Veth, Address: addressB})
	cases := map[string]struct {
		host          fabric.HostID
		request, want string
	}{
		"a container":        {"h2", `{"vm":"b","ports":["b"]}`, "veth"},
		"an absent guest":    {"h2", `{"vm":"z","ports":["z"]}`, "it has [a b]"},
		"the guest's host":   {"h1", `{"vm":"a","ports":["a"]}`, "on h1 already"},
		"no JSON":            {"h2", `vm: a`, "standard input"},
		"a host that is not": {"h9", `{"vm":"a","ports":["a"]}`, "h9"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := incoming(t, l, c.host, c.request); err == nil || !strings.Contains(err.Error(), c.want) {
				t.Fatalf("%v does not mention %q", err, c.want)
			}
		})
	}
	if err := Helper(t.Context(), []string{"hook", "nothing", "--dir", l.Dir}, nil, nil); err == nil {
		t.Error("a hook that does not exist was run")
	}
	if _, err := l.Guest("zz"); !errors.Is(err, fabric.ErrNotFound) {
		t.Error(err)
	}
}
