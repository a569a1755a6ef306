package lab

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/internal/lab/impair"
	"github.com/weftnet/weft/tracing"
)

// sickness is a fault that is put into a lab and must be named.
type sickness struct {
	name string
	// inject does the harm, and undo what heals it.
	inject, undo func(*clinic)
	target       string
	// destination is b when empty.
	destination string
	// want is what one of the causes must be: fault, host and, where they are given, peer, stage, way, rule, reason, the kernel's reason and the changed object.
	want   tracing.Cause
	change string
	// tries is how often it is asked: 1 when 0. Loss by chance may miss a volley.
	tries int
}

// clinic is a lab with the guests a on h2, b on h3, and etcd on h1 alone: a host that is stopped takes no etcd along.
type clinic struct {
	*testing.T
	lab *Lab
	api *client.Client
	// stop ends what was begun in the background.
	stop []func()
}

// TestWhyNamesWhatIsWrong gives a lab one fault after the other; weft why must name each.
func TestWhyNamesWhatIsWrong(t *testing.T) {
	l := live(t, Options{Name: "why", Hosts: 3, Servers: 1})
	blue(t, l)
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	well := &clinic{T: t, lab: l, api: c}
	well.vlan(20)
	a := plug(t, l, GuestOptions{Name: "a", Host: "h2"})
	b := plug(t, l, GuestOptions{Name: "b", Host: "h3"})
	run(t, l, "a", "ping", "-c", "1", "-W", "5", first(b))
	well.healthy()
	for _, s := range sicknesses(first(a), first(b)) {
		t.Run(s.name, func(t *testing.T) {
			k := &clinic{T: t, lab: l, api: c}
			defer func() {
				for _, stop := range k.stop {
					stop()
				}
				s.undo(k)
				k.healthy()
			}()
			s.inject(k)
			k.diagnosed(s)
		})
	}
	well.unexplained()
}

// unexplained takes counts away from under the core of b's host. The agent must see by its sums that frames are missing, and say so wherever
// an operator looks.
func (k *clinic) unexplained() {
	k.Helper()
	b, err := k.lab.Guest("b")
	if err != nil {
		k.Fatal(err)
	}
	host := b.Host()
	const frames, firstPort = 7, 3 // slots before that are of the host's own sides
	if n, err := impair.Forget(filepath.Join(k.lab.file(string(host), "bpf"), "maps", "stats_v1"), firstPort, frames); err != nil || n == 0 {
		k.Fatalf("counts of %d slots were changed, want that of b at least: %v", n, err)
	}
	says := fmt.Sprintf("%d frames at port/b are unexplained", frames)
	k.await("the event", func() (string, bool) {
		e := k.events(host, "counters.unexplained")
		return e, strings.Contains(e, says)
	})
	k.await("the status", func() (string, bool) {
		st, err := k.api.Status(k.Context())
		return fmt.Sprintf("%+v, %v", st.Problems, err), slices.ContainsFunc(st.Problems, func(p api.Problem) bool {
			return p.Object == "host/"+string(host) && strings.Contains(p.Message, says)
		})
	})
	k.dropping("b", tracing.ReasonUnexplained.String())
	x, err := k.api.Why(k.Context(), api.TraceRequest{Source: "a", Destination: "b", Protocol: "tcp", Port: 22})
	if err != nil || !slices.ContainsFunc(x.Causes, func(c tracing.Cause) bool { return c.Host == host && strings.Contains(c.Message, says) }) {
		k.Errorf("why does not say that %s: %+v, %v", says, x, err)
	}
}

// diagnosed asks, and checks the answer.
func (k *clinic) diagnosed(s sickness) {
	k.Helper()
	r := api.TraceRequest{Source: "a", Destination: cmp.Or(s.destination, "b")}
	if err := r.ParseTarget(s.target); err != nil {
		k.Fatal(err)
	}
	var x *tracing.Examination
	for range max(1, s.tries) {
		begun := time.Now()
		var err error
		if x, err = k.api.Why(k.Context(), r); err != nil {
			k.Fatal(err)
		}
		took := time.Since(begun)
		if slices.ContainsFunc(x.Causes, s.is) {
			k.Logf("after %s: %+v", took.Round(time.Millisecond), x.Causes[slices.IndexFunc(x.Causes, s.is)])
			return
		}
	}
	k.Errorf("%+v (change of %s) is not among the causes:", s.want, s.change)
	for _, c := range x.Causes {
		k.Errorf("  %+v, change %+v", c, c.Change)
	}
	k.Logf("probe %+v; volleys %+v; drops %+v; unsent %q", x.Probe, x.Volleys, x.Drops, x.Unsent)
}

// is reports whether a cause is the one that is wanted.
func (s sickness) is(c tracing.Cause) bool {
	w := s.want
	if c.Fault != w.Fault || c.Host != w.Host || w.Peer != "" && c.Peer != w.Peer || w.Stage != 0 && c.Stage != w.Stage || w.Way != "" && c.Way != w.Way || c.Rule != w.Rule || w.Reason != 0 && c.Reason != w.Reason || w.Kernel != "" && c.Kernel != w.Kernel {
		return false
	}
	return s.change == "" || c.Change != nil && c.Change.Object == s.change
}

// healthy waits until there is nothing to name.
func (k *clinic) healthy() {
	k.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 40*time.Second)
	defer cancel()
	var x *tracing.Examination
	err := poll(ctx, 200*time.Millisecond, func() (bool, error) {
		var err error
		x, err = k.api.Why(ctx, api.TraceRequest{Source: "a", Destination: "b", Protocol: "tcp", Port: 22})
		return err == nil && len(x.Causes) == 0, nil
	})
	if err != nil {
		k.Fatalf("it does not get well: %+v", x)
	}
}

// write applies records, and waits until they are in force unless a host is not to have them.
func (k *clinic) write(wait bool, objects ...fabric.Object) {
	k.Helper()
	ctx, cancel := context.WithTimeout(k.Context(), 30*time.Second)
	defer cancel()
	var result api.ApplyResult
	if err := poll(ctx, 200*time.Millisecond, func() (bool, error) { // etcd may just have lost its leader
		var err error
		result, err = k.api.Apply(ctx, objects, false)
		return err == nil, nil
	}); err != nil {
		k.Fatal(err)
	}
	if !wait {
		return
	}
	if _, err := k.api.WaitInForce(k.Context(), result.Revision); err != nil {
		k.Fatal(err)
	}
}

// port changes a port's record.
func (k *clinic) port(name string, wait bool, change func(*fabric.PortSpec)) {
	k.Helper()
	o, err := k.api.Get(context.Background(), fabric.KindPort, name)
	if err != nil {
		k.Fatal(err)
	}
	written, err := api.Written(o)
	if err != nil {
		k.Fatal(err)
	}
	p := written.(*fabric.Port)
	change(&p.Spec)
	k.write(wait, p)
}

// vlan gives the switch a VLAN.
func (k *clinic) vlan(id fabric.VLANID) {
	k.Helper()
	o, err := k.api.Get(k.Context(), fabric.KindSwitch, "blue")
	if err != nil {
		k.Fatal(err)
	}
	written, err := api.Written(o)
	if err != nil {
		k.Fatal(err)
	}
	sw := written.(*fabric.Switch)
	sw.Spec.VLANs = []fabric.SwitchVLAN{{ID: id}}
	k.write(true, sw)
}

// policy writes a policy of these rules.
func (k *clinic) policy(name string, wait bool, rules ...fabric.Rule) {
	k.write(wait, &fabric.Policy{TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPolicy}, Metadata: fabric.Metadata{Name: name}, Spec: fabric.PolicySpec{Rules: rules}})
}

// guest runs something in a guest until the fault is healed.
func (k *clinic) guest(name string, argv ...string) {
	k.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = k.lab.Exec(ctx, name, argv, Streams{}) // it ends when it is killed
	}()
	k.stop = append(k.stop, func() { cancel(); <-done })
}

// dropping waits until a host has counted drops at a port by this name: what is asked after that meets more of them.
func (k *clinic) dropping(port fabric.PortID, name string) {
	k.Helper()
	k.await("drops of "+string(port)+" by "+name, func() (string, bool) {
		all, err := k.api.Drops(k.Context())
		return fmt.Sprintf("%+v, %v", all, err), slices.ContainsFunc(all.Items, func(d tracing.Drop) bool { return d.Port == port && d.Name() == name })
	})
}

// barrier loses what matches on its way to h3.
func (k *clinic) barrier(match string) {
	k.Helper()
	k.underlay("nft", "add table bridge ward; add chain bridge ward c { type filter hook forward priority 0; }; add rule bridge ward c oifname h3 "+match+" drop")
}

// underlay runs a command in the namespace of the switch between the hosts.
func (k *clinic) underlay(argv ...string) { k.at(k.lab.underlay(), argv...) }

func (k *clinic) at(ns nic.Namespace, argv ...string) {
	k.Helper()
	if err := ns.Do(func() error {
		out, err := exec.Command(argv[0], argv[1:]...).CombinedOutput()
		if err != nil {
			return fmt.Errorf("%q: %w: %s", argv, err, out)
		}
		return nil
	}); err != nil {
		k.Fatal(err)
	}
}

// signal sends a signal to the pump that moves a guest's packets.
func (k *clinic) signal(guest string, s os.Signal) {
	k.Helper()
	g, err := k.lab.Guest(guest)
	if err != nil {
		k.Fatal(err)
	}
	if err := g.Instances[0].Process.Signal(s.(syscall.Signal)); err != nil {
		k.Fatal(err)
	}
}

// agent stops a host's agent, or lets it go on.
func (k *clinic) agent(do func(fabric.HostID) error, host fabric.HostID) {
	k.Helper()
	if err := do(host); err != nil {
		k.Fatal(err)
	}
}

func (k *clinic) loss(host fabric.HostID, part float64) {
	k.Helper()
	if err := k.lab.Impair(host, impair.Rates{Loss: part}); err != nil {
		k.Fatal(err)
	}
}
