package lab

import (
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// TestLibvirtGuestsUseTheFabricAsTheyAre has two real libvirts, each on a host of a lab, and a guest whose description names the
// switch and nothing else of weft.
func TestLibvirtGuestsUseTheFabricAsTheyAre(t *testing.T) {
	l := live(t, Options{Name: "libvirt", Hosts: 2})
	blue(t, l)
	h1 := libvirtd(t, l, "h1")
	h1.weft(t, "create", "profile", "web")
	plan := h1.weft(t, "integrate", "libvirt")
	t.Log(plan)
	if !strings.Contains(plan, "network blue") || strings.TrimSpace(h1.virsh(t, "net-list", "--all", "--name")) != "" {
		t.Errorf("the difference alone was not shown, or was made:\n%s", plan)
	}
	h1.weft(t, "integrate", "libvirt", "--yes")
	h1.restart(t)

	h1.boot(t, "vm1", domain(t, "vm1", onNetwork("52:54:00:05:00:01", "web")))
	c, err := l.Client("h1")
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	port, err := c.Port(t.Context(), "vm1")
	if err != nil || port.Status.State != fabric.PortActive || port.Spec.Profile != "web" {
		t.Fatalf("the port is %+v, %v", port, err)
	}
	h1.inside(t, "vm1", "ip address replace "+port.Spec.Addresses[0].String()+"/24 dev eth0")
	plug(t, l, GuestOptions{Name: "peer", Host: "h2"})
	run(t, l, "peer", "ping", "-c", "3", "-i", "0.2", "-W", "5", port.Spec.Addresses[0].String())
}
