package lab

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/fabric"
)

// TestLibvirtGuestsUseTheFabricAsTheyAre has two real libvirts, each on a host of a lab, and guests whose descriptions name the
// switch and nothing else of weft.
func TestLibvirtGuestsUseTheFabricAsTheyAre(t *testing.T) {
	l := live(t, Options{Name: "libvirt", Hosts: 3})
	blue(t, l)
	r := &libvirtRig{lab: l, h1: libvirtd(t, l, "h1"), h3: libvirtd(t, l, "h3")}
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	r.client = c
	plug(t, l, GuestOptions{Name: "peer", Host: "h2"})
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the difference is shown before it is made", r.integrates},
		{"a guest boots with its port in force", r.boots},
		{"a guest is migrated by libvirt", r.migrates},
	} {
		if !t.Run(part.name, part.run) {
			return // each part goes on with what the one before it has made
		}
	}
}

// libvirtRig is a lab with two libvirts.
type libvirtRig struct {
	lab    *Lab
	client *client.Client
	h1, h3 *daemon
	vm1    netip.Addr
}

func (r *libvirtRig) integrates(t *testing.T) {
	r.h1.weft(t, "create", "profile", "web")
	plan := r.h1.weft(t, "integrate", "libvirt")
	if !strings.Contains(plan, "+  <name>blue</name>") || !strings.Contains(plan, "qemu.d/weft") || strings.TrimSpace(r.h1.virsh(t, "net-list", "--all", "--name")) != "" {
		t.Errorf("the difference alone was not shown, or was made:\n%s", plan)
	}
	for _, d := range []*daemon{r.h1, r.h3} {
		d.weft(t, "integrate", "libvirt", "--yes")
		d.restart(t)
		if again := d.weft(t, "integrate", "libvirt"); !strings.Contains(again, "as it should be") {
			t.Errorf("once integrated, there is still a difference:\n%s", again)
		}
	}
}

// port is how the fabric has a port.
func (r *libvirtRig) port(t *testing.T, name fabric.PortID) *fabric.Port {
	t.Helper()
	p, err := r.client.Port(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func (r *libvirtRig) boots(t *testing.T) {
	r.h1.boot(t, "vm1", domain(t, "vm1", onNetwork("52:54:00:05:00:01", "web")))
	p := r.port(t, "vm1")
	if p.Status.State != fabric.PortActive || p.Status.Host != "h1" || p.Spec.Profile != "web" || p.Spec.VM != "vm1" {
		t.Errorf("the port is %+v", p)
	}
	r.vm1 = p.Spec.Addresses[0]
	r.h1.inside(t, "vm1", "ip address replace "+r.vm1.String()+"/24 dev eth0")
	run(t, r.lab, "peer", "ping", "-c", "3", "-i", "0.2", "-W", "5", r.vm1.String())
}

// migrates has libvirt move the guest while the peer pings it.
func (r *libvirtRig) migrates(t *testing.T) {
	r.h3.prepare(t, "vm1")
	pings := make(chan string, 1)
	go func() {
		pings <- run(t, r.lab, "peer", "ping", "-q", "-i", "0.01", "-c", "500", "-W", "5", r.vm1.String())
	}()
	r.h1.virsh(t, "migrate", "--live", "--p2p", "vm1", r.h3.uri(), "tcp://"+r.lab.VTEP("h3").String())
	moves := r.moves(t)
	said := <-pings
	t.Logf("%s", said)
	if len(moves) != 1 || moves[0].Status.Phase != fabric.MoveActive && moves[0].Status.Phase != fabric.MoveSettled {
		t.Fatalf("the moves are %+v", moves)
	}
	t.Logf("%+v", *moves[0])
	if p := r.port(t, "vm1"); p.Status.State != fabric.PortActive || p.Status.Host != "h3" {
		t.Errorf("the port is %+v", p)
	}
	r.h3.inside(t, "vm1", "true")
}

// moves are those of which there is a record.
func (r *libvirtRig) moves(t *testing.T) (moves []*fabric.Move) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	all, err := r.client.List(ctx, fabric.KindMove)
	if err != nil {
		t.Fatal(err)
	}
	for _, o := range all.Items {
		moves = append(moves, o.(*fabric.Move))
	}
	return moves
}
