// Package trial runs throw-away guests: a network namespace with the kernel's own IP stack, plugged into a port as any guest is, that
// tries what it reaches. A guest ends with its process at the latest and leaves nothing behind.
package trial

import (
	"context"
	"errors"
	"fmt"
	"hash/fnv"
	"io"
	"net"
	"net/netip"
	"sync"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// life is how long a guest lives at most: what asked for it may have died.
const life = 2 * time.Minute

// inside is the guest's NIC in its namespace.
const inside = "eth0"

// Plugs plug devices into ports.
type Plugs interface {
	Attach(ctx context.Context, port fabric.PortID, a api.Attachment) (fabric.PortStatus, error)
	Detach(ctx context.Context, port fabric.PortID) error
}

// Guests are the throw-away guests of this host.
type Guests struct {
	plugs Plugs

	mu     sync.Mutex
	guests map[fabric.PortID]*guest
}

// New has no guests yet.
func New(p Plugs) *Guests { return &Guests{plugs: p, guests: map[fabric.PortID]*guest{}} }

// Wanted is what the records say of a guest.
type Wanted struct {
	// Addresses are the port's, each with the length of its subnet.
	Addresses []netip.Prefix
	// MTU is the switch's, in bytes.
	MTU int
	// Lease is the address that DHCP must give; the zero Addr where nobody serves the guest.
	Lease netip.Addr
}

// Begin starts a guest for the port and returns when the port is in force. A guest that is there already stays.
func (g *Guests) Begin(ctx context.Context, port *fabric.Port, w Wanted) (err error) {
	name := fabric.PortID(port.Metadata.Name)
	if port.Metadata.Labels[api.TrialLabel] == "" {
		return fmt.Errorf("begin a trial at port %s: it is not one of a trial's: use weft test: %w", name, api.ErrForbidden)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.guests[name] != nil {
		return nil
	}
	made, err := open(port, w)
	if err != nil {
		return fmt.Errorf("begin a trial at port %s: %w", name, err)
	}
	if _, err := g.plugs.Attach(ctx, name, api.Attachment{Device: made.device, Kind: api.Veth}); err != nil {
		return errors.Join(err, made.Close())
	}
	g.guests[name] = made
	made.timer = time.AfterFunc(life, func() { _ = g.End(context.Background(), name) })
	return nil
}

// Check says what the guest of the port reaches of the peer.
func (g *Guests) Check(ctx context.Context, port fabric.PortID, peer netip.Addr) ([]api.TrialCheckResult, error) {
	g.mu.Lock()
	found := g.guests[port]
	g.mu.Unlock()
	if found == nil {
		return nil, fmt.Errorf("check from port %s: it has no trial's guest here; guests live for %s: %w", port, life, fabric.ErrNotFound)
	}
	return found.check(ctx, peer), nil
}

// End takes the guest of the port away.
func (g *Guests) End(ctx context.Context, port fabric.PortID) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	found := g.guests[port]
	if found == nil {
		return nil
	}
	delete(g.guests, port)
	return errors.Join(g.plugs.Detach(ctx, port), found.Close())
}

// Close takes all guests away; their ports stay plugged until the agent misses the devices.
func (g *Guests) Close() error {
	g.mu.Lock()
	defer g.mu.Unlock()
	var errs []error
	for name, one := range g.guests {
		errs = append(errs, one.Close())
		delete(g.guests, name)
	}
	return errors.Join(errs...)
}

// guest is a namespace with a NIC and two listeners.
type guest struct {
	device    string
	namespace nic.Namespace
	mac       fabric.MAC
	mtu       int
	lease     netip.Addr
	listeners []net.Listener
	timer     *time.Timer
	asking    sync.Mutex // one DHCP client at a time
}

// open makes a guest; its NIC is not plugged in yet.
func open(port *fabric.Port, w Wanted) (_ *guest, err error) {
	g := &guest{device: device(port.Metadata.Name), mac: port.Spec.MAC, mtu: w.MTU, lease: w.Lease}
	defer func() {
		if err != nil {
			err = errors.Join(err, g.Close())
		}
	}()
	if g.namespace, err = nic.OpenNamespace(); err != nil {
		return g, err
	}
	pair := nic.Veth{Name: g.device, Peer: inside, PeerNamespace: g.namespace, PeerMAC: port.Spec.MAC}
	if err := nic.CreateVeth(pair); err != nil {
		return g, err
	}
	return g, g.namespace.Do(func() error {
		if err := errors.Join(nic.SetMTU(inside, w.MTU), nic.SetUp(inside)); err != nil {
			return err
		}
		for _, a := range w.Addresses {
			if err := nic.AddAddress(inside, a); err != nil {
				return err
			}
		}
		return g.listen()
	})
}

// device is the name of the port's end of the pair, 11 bytes.
func device(port string) string {
	sum := fnv.New32a()
	_, _ = sum.Write([]byte(port))
	return fmt.Sprintf("wt-%08x", sum.Sum32())
}

// listen answers on both TCP ports with what was sent.
func (g *guest) listen() error {
	for _, port := range []int{api.TrialOpenPort, api.TrialDeniedPort} {
		l, err := net.Listen("tcp", fmt.Sprintf(":%d", port))
		if err != nil {
			return err
		}
		g.listeners = append(g.listeners, l)
		go echo(l)
	}
	return nil
}

// echo ends with its listener; a connection ends with the guest's life at the latest.
func echo(l net.Listener) {
	for {
		c, err := l.Accept()
		if err != nil {
			return
		}
		go func() {
			defer c.Close()
			_ = c.SetDeadline(time.Now().Add(life))
			_, _ = io.Copy(c, c)
		}()
	}
}

// Close takes the namespace and the NIC away.
func (g *guest) Close() error {
	if g.timer != nil {
		g.timer.Stop()
	}
	var errs []error
	for _, l := range g.listeners {
		errs = append(errs, l.Close())
	}
	return errors.Join(append(errs, nic.Delete(g.device), g.namespace.Close())...)
}
