package lab

import (
	"context"
	"errors"
	"net/netip"
	"time"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/api/client"
	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/fabric/identity"
)

// The device that carries b on h1 while h3 has it open, too.
const (
	doubleDevice = "double0"
	doublePeer   = "double1"
)

// doubled lets h1 take b over while h3, which has it, hears nothing of the records: as when a guest is started again elsewhere because its
// host was held for dead.
func doubled(k *clinic, a string) {
	k.barrier("tcp sport 2379")
	k.guest("b", "ping", "-q", "-i", "0.05", a)
	o, err := k.api.Get(k.Context(), fabric.KindPort, "b")
	if err != nil {
		k.Fatal(err)
	}
	h3, err := identity.Load(identity.FilesIn(k.lab.file("h3", "tls")), time.Now())
	if err != nil {
		k.Fatal(err)
	}
	c, err := client.New(client.Options{Address: hostPort(k.lab.VTEP("h1"), apiPort), TLS: h3.Client(), Dial: k.lab.dialer("h1")})
	if err != nil {
		k.Fatal(err)
	}
	defer c.Close()
	release := api.LocationReport{Host: "h3", Act: api.Release, Port: "b", Epoch: o.(*fabric.Port).Status.Epoch}
	if _, err := c.ReportLocation(k.Context(), release); err != nil {
		k.Fatal(err)
	}
	if err := k.lab.HostNamespace("h1").Do(func() error {
		return errors.Join(nic.CreateVeth(nic.Veth{Name: doubleDevice, Peer: doublePeer, MTU: 1500}), nic.SetUp(doublePeer))
	}); err != nil {
		k.Fatal(err)
	}
	if _, err := k.api.Attach(k.Context(), "b", api.Attachment{Device: doubleDevice, Kind: api.Veth}); err != nil {
		k.Fatal(err)
	}
}

// single takes b off h1, and gives h3 another guest of that name.
func single(k *clinic, b string) {
	k.underlay("nft", "delete table bridge ward")
	err := k.api.Detach(context.Background(), "b")
	if err := errors.Join(err, k.lab.HostNamespace("h1").Do(func() error { return nic.Delete(doubleDevice) })); err != nil {
		k.Fatal(err)
	}
	st, err := k.api.Status(context.Background())
	if err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 30*time.Second)
		defer cancel()
		_, err = k.api.WaitInForce(ctx, st.Revision) // h3 knows again who has the port
	}
	if err != nil {
		k.Fatal(err)
	}
	again(k, b)
}

// again gives h3 another guest b with the same address.
func again(k *clinic, b string) {
	if err := k.lab.RemoveGuest(context.Background(), "b"); err != nil {
		k.Fatal(err)
	}
	plug(k.T, k.lab, GuestOptions{Name: "b", Host: "h3", Address: netip.MustParseAddr(b)})
	run(k.T, k.lab, "a", "ip", "neigh", "flush", "dev", "eth0") // it has another MAC now
}
