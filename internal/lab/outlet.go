package lab

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// outlet is where guests are plugged in.
type outlet interface {
	// port makes the guest's port and returns its NIC.
	port(ctx context.Context, o GuestOptions) (NIC, error)
	// attach binds the port to a device of the host.
	attach(ctx context.Context, host fabric.HostID, port fabric.PortID, a api.Attachment) error
	// remove takes the port away.
	remove(ctx context.Context, port fabric.PortID, host fabric.HostID) error
}

// outlet is the fabric, or nothing in a bare lab.
func (l *Lab) outlet() outlet {
	if l.Bare {
		return bareOutlet{}
	}
	return fabricOutlet{l}
}

// bareOutlet serves labs without agents: the caller puts the device on a bridge of its own.
type bareOutlet struct{}

func (bareOutlet) port(_ context.Context, o GuestOptions) (NIC, error) {
	if !o.Address.IsValid() {
		return NIC{}, fmt.Errorf("guest %s: a bare lab has no fabric to choose an address; give one", o.Name)
	}
	bits, mtu := 24, o.MTU
	if o.Address.Is6() {
		bits = 64
	}
	if mtu == 0 {
		mtu = 1450
	}
	last := o.Address.AsSlice()
	mac := fabric.MAC{0x52, 0x54, 0, 0, last[len(last)-2], last[len(last)-1]}
	return NIC{MAC: mac, Addresses: []netip.Prefix{netip.PrefixFrom(o.Address, bits)}, MTU: mtu}, nil
}

func (bareOutlet) attach(context.Context, fabric.HostID, fabric.PortID, api.Attachment) error {
	return nil
}

func (bareOutlet) remove(context.Context, fabric.PortID, fabric.HostID) error { return nil }

// fabricOutlet plugs guests into switches through the API of the lab's hosts.
type fabricOutlet struct{ lab *Lab }

// Socket is the path of the API of the host's agent.
func (l *Lab) Socket(h fabric.HostID) string { return l.file(string(h), "weft.sock") }

// Client calls the host's agent.
func (l *Lab) Client(h fabric.HostID) (*client.Client, error) {
	if err := l.checkHost(h); err != nil {
		return nil, err
	}
	return client.New(client.Options{Socket: l.Socket(h), Operator: l.operator, Dial: l.dialer(h)})
}

// Apply makes a change through the first host's agent, and returns when it is in force on every host that lives.
func (l *Lab) Apply(ctx context.Context, objects ...fabric.Object) error {
	c, err := l.Client("h1")
	if err != nil {
		return err
	}
	defer c.Close()
	result, err := c.Apply(ctx, objects, false)
	if err != nil {
		return err
	}
	reach, err := c.WaitInForce(ctx, result.Revision)
	if err == nil && !reach.Done {
		err = fmt.Errorf("revision %d is not in force everywhere: %+v", result.Revision, reach)
	}
	return err
}

// operator is the certificate of the lab's operator.
func (l *Lab) operator() (*tls.Config, error) {
	id, err := identity.Load(identity.FilesIn(l.OperatorDir()), time.Now())
	if err != nil {
		return nil, err
	}
	return id.Client(), nil
}

// dialer makes TCP connections as a process of the host would.
func (l *Lab) dialer(h fabric.HostID) func(context.Context, string, string) (net.Conn, error) {
	return func(ctx context.Context, network, address string) (conn net.Conn, err error) {
		err = l.HostNamespace(h).Do(func() (err error) {
			dialer := net.Dialer{Timeout: 5 * time.Second}
			conn, err = dialer.DialContext(ctx, network, address)
			return err
		})
		return conn, err
	}
}

// server calls the first host that can write to etcd and answers.
func (l *Lab) server(ctx context.Context) (*client.Client, error) {
	var errs []error
	for _, h := range l.servers() {
		c, err := l.Client(h)
		if err != nil {
			return nil, err
		}
		short, cancel := context.WithTimeout(ctx, 2*time.Second)
		_, err = c.Version(short)
		cancel()
		if err == nil {
			return c, nil
		}
		c.Close()
		errs = append(errs, err)
	}
	return nil, fmt.Errorf("no server host of lab %s answers: %w", l.Name, errors.Join(errs...))
}

func (f fabricOutlet) port(ctx context.Context, o GuestOptions) (NIC, error) {
	c, err := f.lab.server(ctx)
	if err != nil {
		return NIC{}, err
	}
	defer c.Close()
	port, err := c.Port(ctx, fabric.PortID(o.Name))
	if errors.Is(err, fabric.ErrNotFound) {
		port, err = makePort(ctx, c, o)
	}
	if err != nil {
		return NIC{}, err
	}
	if port.Spec.Switch != o.Switch {
		return NIC{}, fmt.Errorf("guest %s: its port is on switch %s, not %s: %w", o.Name, port.Spec.Switch, o.Switch, fabric.ErrConflict)
	}
	if err := f.known(ctx, o.Host, port); err != nil {
		return NIC{}, err
	}
	object, err := c.Get(ctx, fabric.KindSwitch, string(o.Switch))
	if err != nil {
		return NIC{}, err
	}
	return nicOf(port, object.(*fabric.Switch)), nil
}

// makePort asks the fabric for a new port with everything allocated.
func makePort(ctx context.Context, c *client.Client, o GuestOptions) (*fabric.Port, error) {
	port := &fabric.Port{
		TypeMeta: fabric.TypeMeta{APIVersion: fabric.APIVersion, Kind: fabric.KindPort},
		Metadata: fabric.Metadata{Name: o.Name},
		Spec:     fabric.PortSpec{VM: o.Name, Switch: o.Switch, Host: o.Host},
	}
	if o.Address.IsValid() {
		port.Spec.Addresses = []netip.Addr{o.Address}
	}
	result, err := c.Apply(ctx, []fabric.Object{port}, false)
	if err != nil {
		return nil, err
	}
	made := new(fabric.Port)
	if err := json.Unmarshal(result.Items[0].Object, made); err != nil {
		return nil, fmt.Errorf("read the port %s as it was made: %w", o.Name, err)
	}
	return made, nil
}

// nicOf is what a guest is told about its port.
func nicOf(port *fabric.Port, sw *fabric.Switch) NIC {
	n := NIC{MAC: port.Spec.MAC, MTU: sw.Status.MTU}
	for _, a := range port.Spec.Addresses {
		bits := a.BitLen()
		for _, subnet := range sw.Spec.Subnets {
			if subnet.Contains(a) {
				bits = subnet.Bits()
			}
		}
		n.Addresses = append(n.Addresses, netip.PrefixFrom(a, bits))
	}
	return n
}

// knownLimit is how long a host may take to hear of a port that was made on another one.
const knownLimit = 15 * time.Second

// known waits until the host knows the port as it is now. It may still remember an earlier port of this name, held elsewhere.
func (f fabricOutlet) known(ctx context.Context, host fabric.HostID, port *fabric.Port) error {
	c, err := f.lab.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	ctx, cancel := context.WithTimeoutCause(ctx, knownLimit, fmt.Errorf("it does not know it after %s", knownLimit))
	defer cancel()
	err = poll(ctx, 10*time.Millisecond, func() (bool, error) {
		have, err := c.Port(ctx, fabric.PortID(port.Metadata.Name))
		if errors.Is(err, fabric.ErrNotFound) {
			return false, nil
		}
		return err == nil && have.Metadata.Revision >= port.Metadata.Revision, err
	})
	if err != nil {
		return fmt.Errorf("wait until host %s knows port %s: %w", host, port.Metadata.Name, err)
	}
	return nil
}

func (f fabricOutlet) attach(ctx context.Context, host fabric.HostID, port fabric.PortID, a api.Attachment) error {
	c, err := f.lab.Client(host)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Attach(ctx, port, a)
	return err
}

func (f fabricOutlet) remove(ctx context.Context, port fabric.PortID, host fabric.HostID) error {
	if host != "" {
		c, err := f.lab.Client(host)
		if err != nil {
			return err
		}
		defer c.Close()
		if err := c.Detach(ctx, port); err != nil && !errors.Is(err, fabric.ErrNotFound) {
			return err
		}
	}
	c, err := f.lab.server(ctx)
	if err != nil {
		return err
	}
	defer c.Close()
	_, err = c.Delete(ctx, fabric.KindPort, string(port))
	if errors.Is(err, fabric.ErrNotFound) {
		return nil
	}
	return err
}

// raise brings a guest's device up after its port was attached, never before: a port without the core is closed.
func (l *Lab) raise(host fabric.HostID, device string) error {
	return l.HostNamespace(host).Do(func() error { return nic.SetUp(device) })
}
