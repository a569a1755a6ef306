package lab

import (
	"context"
	"slices"
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

func TestAHostThatRunsNoEtcdHasGuestsAndMovesThem(t *testing.T) {
	l := live(t, Options{Name: "four", Hosts: 4})
	for host, want := range map[fabric.HostID]fabric.EtcdUser{"h3": fabric.EtcdWriter, "h4": fabric.EtcdReader} {
		id, err := identity.Load(identity.EtcdFilesIn(l.file(string(host), "tls")), time.Now())
		if err != nil || id.Name != string(want) {
			t.Errorf("%s is %s to etcd (%v), want %s", host, id.Name, err, want)
		}
	}
	changeThrough(t, l, "h4")
	blue(t, l)
	plug(t, l, GuestOptions{Name: "a", Host: "h1"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h4"})
	active(t, l, "b", "h4")
	for _, to := range []fabric.HostID{"h4", "h2", "h4"} {
		if to != b.Host() {
			migrate(t, l, "b", to)
			settled(t, l, "b", to)
			active(t, l, "b", to)
			b, _ = l.Guest("b")
		}
		run(t, l, "a", "ping", "-c", "2", "-i", "0.2", "-W", "5", first(b))
	}
}

// active waits until every host, by its own view, knows that the host has the port in force.
func active(t *testing.T, l *Lab, port string, host fabric.HostID) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	for _, asked := range HostNames(l.Hosts) {
		c, err := l.Client(asked)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		var last fabric.PortStatus
		err = poll(ctx, 50*time.Millisecond, func() (bool, error) {
			s, err := c.Status(ctx)
			if err != nil {
				return false, err
			}
			at := slices.IndexFunc(s.Ports, func(p fabric.Port) bool { return p.Metadata.Name == port })
			if at < 0 {
				return false, nil
			}
			last = s.Ports[at].Status
			return last.State == fabric.PortActive && last.Host == host, nil
		})
		if err != nil {
			t.Fatalf("%s sees port %s as %+v, want it active on %s: %v", asked, port, last, host, err)
		}
	}
}

// changeThrough makes a change by the agent of a host that cannot write: the lab's operator is asked to.
func changeThrough(t *testing.T, l *Lab, host fabric.HostID) {
	t.Helper()
	c, err := l.Client(host)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	profile := &fabric.Profile{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindProfile}, Metadata: fabric.Metadata{Name: "gold"}}
	result, err := c.Apply(t.Context(), []fabric.Object{profile}, false)
	if err != nil {
		t.Fatalf("apply through %s: %v", host, err)
	}
	if reach, err := c.InForce(t.Context(), result.Revision); err != nil || !reach.Done {
		t.Fatalf("in force: %+v, %v", reach, err)
	}
	if _, err := c.Delete(t.Context(), fabric.KindProfile, "gold"); err != nil {
		t.Fatalf("delete through %s: %v", host, err)
	}
}
