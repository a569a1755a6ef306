package lab

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weftnet/weft/api"
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
	r.peer = plug(t, l, GuestOptions{Name: "peer", Host: "h2"}).NIC.Addresses[0].Addr()
	for _, part := range []struct {
		name string
		run  func(*testing.T)
	}{
		{"the difference is shown before it is made", r.integrates},
		{"a guest that asks for what the records do not give is not started", r.refuses},
		{"a guest boots with its port in force", r.boots},
		{"NICs come and go while it runs", r.hotplugs},
		{"libvirtd ends and comes again", r.survives},
		{"a migration fails, and the guest goes on", r.fails},
		{"a guest is migrated by libvirt", r.migrates},
		{"everything is taken away again", r.undoes},
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
	// vm1 is the address of the first guest, peer that of the lab's guest that it is pinged from.
	vm1, peer netip.Addr
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

// onBridge is a NIC that names the switch's bridge.
const onBridge = "<interface type='bridge'><mac address='52:54:00:05:00:03'/><source bridge='sw-blue'/><model type='virtio'/></interface>"

// refuses starts guests that the fabric does not let in, and wants libvirt to say why.
func (r *libvirtRig) refuses(t *testing.T) {
	taken := &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: "other"},
		Spec: fabric.PortSpec{Switch: "blue", MAC: fabric.MAC{0x52, 0x54, 0, 5, 0, 9}},
	}
	if _, err := r.client.Apply(t.Context(), []fabric.Object{taken}, false); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct{ name, nic, want string }{
		{"there is no such profile", onNetwork("52:54:00:05:00:08", "db"), "db"},
		{"the MAC is another guest's", onNetwork("52:54:00:05:00:09", "web"), "belongs to other"},
		{"a bridge is no way round", "<interface type='bridge'><mac address='52:54:00:05:00:09'/><source bridge='sw-blue'/></interface>", "belongs to other"},
	} {
		r.h1.virsh(t, "define", domain(t, "vm2", c.nic))
		if _, err := r.h1.try(t, "start", "vm2"); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: the error is %v, want %q in it", c.name, err, c.want)
		}
		r.h1.virsh(t, "undefine", "vm2")
	}
}

// hotplugs plugs a NIC in by the network's name and one by the bridge's, while the guest runs.
func (r *libvirtRig) hotplugs(t *testing.T) {
	byBridge := &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort}, Metadata: fabric.Metadata{Name: "by-bridge"},
		Spec: fabric.PortSpec{VM: "vm1", Switch: "blue", MAC: fabric.MAC{0x52, 0x54, 0, 5, 0, 3}},
	}
	if _, err := r.client.Apply(t.Context(), []fabric.Object{byBridge}, false); err != nil {
		t.Fatal(err)
	}
	for _, n := range []struct {
		port fabric.PortID
		nic  string
	}{
		{"vm1-050002", onNetwork("52:54:00:05:00:02", "web")},
		{"by-bridge", onBridge},
	} {
		path := filepath.Join(t.TempDir(), "nic.xml")
		if err := os.WriteFile(path, []byte(n.nic), 0o644); err != nil {
			t.Fatal(err)
		}
		r.h1.virsh(t, "attach-device", "vm1", path, "--live")
		eventually(t, "port "+string(n.port)+" is active", func() bool { return r.port(t, n.port).Status.State == fabric.PortActive })
		address := r.port(t, n.port).Spec.Addresses[0].String()
		r.h1.inside(t, "vm1", "until ip link set eth1 mtu 1450 up; do sleep 0.1; done; ip address replace "+address+"/24 dev eth1; ping -I eth1 -c 3 -W 5 "+r.peer.String())
		if n.port == "by-bridge" {
			continue // it goes where the guest goes
		}
		r.h1.virsh(t, "detach-device", "vm1", path, "--live")
		eventually(t, "eth1 is gone from the guest", func() bool { return strings.Count(r.h1.virsh(t, "domiflist", "vm1"), "52:54") == 1 })
	}
	eventually(t, "the port of a NIC that is gone is held by no host", func() bool { return r.port(t, "vm1-050002").Status.Host == "" })
}

// survives ends libvirtd, and starts it again, under a guest that is pinged.
func (r *libvirtRig) survives(t *testing.T) {
	before := r.port(t, "vm1").Status
	done := make(chan struct{})
	pings := r.ping(t, done)
	r.h1.restart(t)
	close(done)
	sum := <-pings
	if sum[0] == 0 || sum[1] != 0 {
		t.Errorf("%d of %d pings were lost while libvirtd was started again", sum[1], sum[0])
	}
	after := r.port(t, "vm1").Status
	if after.State != fabric.PortActive || after.Device != before.Device || after.Epoch != before.Epoch || after.RxPackets < before.RxPackets+uint64(sum[0]) {
		t.Errorf("the port was %+v, and is %+v", before, after)
	}
	if state := strings.TrimSpace(r.h1.virsh(t, "domstate", "vm1")); state != "running" {
		t.Errorf("vm1 is %s", state)
	}
}

// fails ends migrations while the guest's memory is on its way: on a person's word, and by the death of the machine at the destination.
func (r *libvirtRig) fails(t *testing.T) {
	r.h3.prepare(t, "vm1")
	r.h1.virsh(t, "migrate-setspeed", "vm1", "2") // MiB/s: it would take a minute
	for name, end := range map[string]func(*fabric.Move) error{
		"aborted by a person": func(m *fabric.Move) error {
			_, err := r.client.AbortMove(t.Context(), fabric.MoveID(m.Metadata.Name))
			return err
		},
		"the destination dies": func(*fabric.Move) error {
			pid, err := strconv.Atoi(strings.TrimSpace(read(t, r.h3.dir("run/qemu/vm1.pid"))))
			return errors.Join(err, processOf(pid).Kill())
		},
	} {
		failed := make(chan error, 1)
		go func() {
			_, err := r.h1.try(t, "migrate", "--live", "--p2p", "vm1", r.h3.uri(), "tcp://"+r.lab.VTEP("h3").String())
			failed <- err
		}()
		var m *fabric.Move
		eventually(t, "the memory is on its way", func() bool {
			m = r.running(t)
			return m != nil && m.Status.Phase == fabric.MoveCopying && strings.Contains(r.h1.virsh(t, "domjobinfo", "vm1"), "Data remaining")
		})
		if m == nil {
			t.Fatal(name + ": no move was begun")
		}
		if err := end(m); err != nil {
			t.Fatal(err)
		}
		if err := <-failed; err == nil {
			t.Error(name + ": the migration succeeded")
		}
		eventually(t, name+": the move is over", func() bool { return r.running(t) == nil })
		for _, port := range []fabric.PortID{"vm1", "by-bridge"} {
			if p := r.port(t, port); p.Status.Host != "h1" || p.Status.State != fabric.PortActive {
				t.Errorf("%s: the port is %+v", name, p)
			}
		}
		run(t, r.lab, "peer", "ping", "-c", "3", "-i", "0.2", "-W", "5", r.vm1.String())
	}
	r.h1.virsh(t, "migrate-setspeed", "vm1", "1000")
}

// running is the move that is not over; nil when there is none.
func (r *libvirtRig) running(t *testing.T) *fabric.Move {
	t.Helper()
	for _, m := range r.moves(t) {
		if m.Status.Phase != fabric.MoveAborted && m.Status.Phase != fabric.MoveFailed && m.Status.Phase != fabric.MoveSettled {
			return m
		}
	}
	return nil
}

// ping pings the guest from the peer every 10 ms until done is closed, and once more; the channel gets how many were sent, and how
// many were lost.
func (r *libvirtRig) ping(t *testing.T, done <-chan struct{}) <-chan [2]int {
	counted := make(chan [2]int, 1)
	go func() {
		defer close(counted) // a ping that cannot be run ends the goroutine
		var sum [2]int
		for last := false; !last; {
			select {
			case <-done:
				last = true
			default:
			}
			said := run(t, r.lab, "peer", "ping", "-q", "-i", "0.01", "-c", "100", "-W", "5", r.vm1.String())
			var sent, received int
			if _, err := fmt.Sscanf(said[max(strings.Index(said, "statistics ---"), 0):], "statistics ---\n%d packets transmitted, %d received", &sent, &received); err != nil {
				t.Errorf("ping said %q: %v", said, err)
			}
			t.Logf("%s", said[strings.LastIndex(strings.TrimSpace(said), "\n")+1:])
			sum[0], sum[1] = sum[0]+sent, sum[1]+sent-received
		}
		counted <- sum
	}()
	return counted
}

// undoes stops the guest and takes the integration back.
func (r *libvirtRig) undoes(t *testing.T) {
	if out, err := exec.Command(r.lab.Binary, "--socket", r.lab.Socket("h3"), "integrate", "libvirt", "--undo", "--yes").CombinedOutput(); err == nil || !strings.Contains(string(out), "guests are plugged into it") {
		t.Errorf("a network was taken from under a guest: %v\n%s", err, out)
	}
	r.h3.virsh(t, "destroy", "vm1")
	eventually(t, "the port of a guest that was stopped is held by no host", func() bool { return r.port(t, "vm1").Status.Host == "" })
	for _, d := range []*daemon{r.h1, r.h3} {
		d.weft(t, "integrate", "libvirt", "--undo", "--yes")
		if left := strings.TrimSpace(d.virsh(t, "net-list", "--all", "--name")); left != "" {
			t.Errorf("on %s the networks %s are left", d.host, left)
		}
		if left, _ := filepath.Glob(d.dir("etc/hooks/*.d/*")); len(left) > 0 {
			t.Errorf("on %s %v are left", d.host, left)
		}
	}
}

// migrates has libvirt move the guest while the peer pings it.
func (r *libvirtRig) migrates(t *testing.T) {
	for _, plan := range []bool{true, false} {
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		if _, err := r.client.Move(ctx, api.MoveRequest{VM: "vm1", To: "h3", DryRun: plan}); err == nil || !strings.Contains(err.Error(), "guest-not-driven") {
			t.Errorf("asked to migrate libvirt's guest itself (plan: %v), the agent says %v", plan, err)
		}
		cancel()
	}
	done := make(chan struct{})
	pings := r.ping(t, done)
	r.h1.virsh(t, "migrate", "--live", "--p2p", "vm1", r.h3.uri(), "tcp://"+r.lab.VTEP("h3").String())
	move := r.running(t)
	close(done)
	sum := <-pings
	if move == nil || move.Status.Phase != fabric.MoveActive || len(move.Spec.Ports) != 2 {
		t.Fatalf("the move is %+v", move)
	}
	result := move.Status.Result
	t.Logf("%d of %d pings were lost; the guest stood still for %.0f ms; the network added %.3f ms", sum[1], sum[0], result.GuestPauseMs, result.FabricGapMs)
	// What QEMU has read from the tap and not yet given to its guest when that stops is lost with it, one or two; a busy machine may be
	// late to drain the rest. Without redirecting, every ping of the pause is lost, one each 10 ms.
	if most := max(2, int(result.GuestPauseMs/10/2)); sum[0] == 0 || sum[1] > most {
		t.Errorf("%d of %d pings were lost, want at most %d", sum[1], sum[0], most)
	}
	for _, port := range []fabric.PortID{"vm1", "by-bridge"} {
		if p := r.port(t, port); p.Status.State != fabric.PortActive || p.Status.Host != "h3" {
			t.Errorf("the port is %+v", p)
		}
	}
	path := filepath.Join(t.TempDir(), "nic.xml")
	if err := os.WriteFile(path, []byte(onBridge), 0o644); err != nil {
		t.Fatal(err)
	}
	r.h3.inside(t, "vm1", "ping -I eth1 -c 3 -W 5 "+r.peer.String())
	r.h3.virsh(t, "detach-device", "vm1", path, "--live")
	eventually(t, "the port of a NIC on a bridge that is gone is held by no host", func() bool { return r.port(t, "by-bridge").Status.Host == "" })
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
