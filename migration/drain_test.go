package migration

import (
	"bytes"
	"context"
	"errors"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

// TestLeftoversOfATapAreSentOn fills the queue of a real tap whose reader has stopped and finds every frame at the new host.
func TestLeftoversOfATapAreSentOn(t *testing.T) {
	ns, err := nic.CreateNamespace("weft-drain-test")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ns.Delete() })
	here, guest := netip.MustParseAddr("127.0.0.1"), netip.MustParsePrefix("10.9.9.1/24")
	var received [][]byte
	err = ns.Do(func() error { // on a thread of its own: nothing in here may end the test
		if err := nic.SetUp("lo"); err != nil {
			return err
		}
		tap, err := nic.OpenTap("t0", nic.TapOptions{Offload: nic.FullOffload, NoIPv6: true})
		if err != nil {
			return err
		}
		defer tap.Close()
		if err := errors.Join(nic.SetUp("t0"), nic.AddAddress("t0", guest)); err != nil {
			return err
		}
		listener, err := net.ListenUDP("udp", &net.UDPAddr{IP: here.AsSlice(), Port: vxlanPort})
		if err != nil {
			return err
		}
		defer listener.Close()
		l := Leftovers{Process: os.Getpid(), Device: "t0", VNI: 0x123456, From: here, To: here}
		if c, err := l.SendOn(t.Context()); err != nil || c != (Counts{}) {
			t.Errorf("an empty queue: %+v, %v", c, err)
		}
		// Broadcasts need no neighbour: each of these is one frame in the tap's queue, with its checksum left to the reader.
		sender, err := net.DialUDP("udp", nil, &net.UDPAddr{IP: net.IPv4(10, 9, 9, 255), Port: 9})
		if err != nil {
			return err
		}
		defer sender.Close()
		const frames = 20
		for i := range frames {
			if _, err := sender.Write([]byte{'n', byte(i)}); err != nil {
				return err
			}
		}
		c, err := l.SendOn(t.Context())
		if err != nil || c.Relayed != frames || c.Lost != 0 {
			t.Errorf("sent on %+v, %v; want %d", c, err, frames)
		}
		if err := listener.SetReadDeadline(time.Now().Add(5 * time.Second)); err != nil {
			return err
		}
		if received, err = unpack(t, listener, frames); err != nil {
			return err
		}
		for i := range frames {
			if _, err := sender.Write([]byte{'n', byte(i)}); err != nil {
				return err
			}
		}
		late, cancel := context.WithCancel(t.Context())
		cancel()
		if c, err := l.SendOn(late); err != nil || c != (Counts{Lost: frames}) {
			t.Errorf("without time %+v, %v; want %d lost", c, err, frames)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, frame := range received {
		verify(t, frame)
	}
}

func TestTheHolderOfATapIsFound(t *testing.T) {
	tap, err := nic.OpenTap("weft-holder", nic.TapOptions{NoIPv6: true})
	if err != nil {
		t.Fatal(err)
	}
	defer tap.Close()
	if pid := Holder("weft-holder"); pid != os.Getpid() {
		t.Errorf("the holder is %d, not %d", pid, os.Getpid())
	}
	if pid := Holder("weft-holde"); pid != 0 {
		t.Errorf("a tap that is not there is held by %d", pid)
	}
}

// unpack reads numbered frames out of their tunnel.
func unpack(t *testing.T, listener *net.UDPConn, frames int) (received [][]byte, err error) {
	buffer := make([]byte, 2048)
	for i := range frames {
		n, err := listener.Read(buffer)
		if err != nil {
			return nil, err
		}
		if want := []byte{vxlanI, 0, 0, 0, 0x12, 0x34, 0x56, 0}; !bytes.Equal(buffer[:vxlanHeader], want) {
			t.Errorf("VXLAN header %x, want %x", buffer[:vxlanHeader], want)
		}
		inner := bytes.Clone(buffer[vxlanHeader:n])
		l, err := parse(inner)
		if err != nil || !bytes.Equal(inner[l.payload:], []byte{'n', byte(i)}) {
			t.Errorf("frame %d is %x (%v)", i, inner, err)
		}
		received = append(received, inner)
	}
	return received, nil
}

func TestLeftoversOfATapThatIsNotOpen(t *testing.T) {
	here := netip.MustParseAddr("127.0.0.1")
	if _, err := (Leftovers{Process: os.Getpid(), Device: "none", From: here, To: here}).SendOn(t.Context()); err == nil {
		t.Error("no error")
	}
	if _, err := (Leftovers{Process: 1 << 30, Device: "none", From: here, To: here}).SendOn(t.Context()); err == nil {
		t.Error("no error for a process that does not exist")
	}
}

func TestALeftoverOfATrunkIsSentOnItsVLAN(t *testing.T) {
	out := &tunnel{vni: 7, tags: map[fabric.VLANID]fabric.VNI{20: 1020}}
	frame := []byte("\x52\x54\x00\x00\x00\x01\x52\x54\x00\x00\x00\x02\x08\x00packet")
	tagged := func(tag string) []byte { return append(append(bytes.Clone(frame[:12]), tag...), frame[12:]...) }
	for claim, c := range map[string]struct {
		frame, want []byte
		vni         fabric.VNI
	}{
		"untagged":              {frame, frame, 7},
		"tagged":                {tagged("\x81\x00\xa0\x14"), frame, 1020},
		"with a tag as payload": {tagged("\x81\x00\x00\x07"), tagged("\x81\x00\x00\x07"), 7},
		"with both":             {tagged("\x81\x00\x00\x14\x81\x00\x00\x07"), tagged("\x81\x00\x00\x07"), 1020},
		"cut short":             {frame[:14], frame[:14], 7},
	} {
		if vni, got := out.segment(bytes.Clone(c.frame)); vni != c.vni || !bytes.Equal(got, c.want) {
			t.Errorf("%s: VNI %d, % x, want %d, % x", claim, vni, got, c.vni, c.want)
		}
	}
}
