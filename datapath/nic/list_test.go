package nic

import (
	"encoding/binary"
	"errors"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"
)

// The list is read by ourselves, one device by the library: both must see the same.
func TestTheListOfDevicesSaysWhatEachSaysOfItself(t *testing.T) {
	here, there := space(t, "list-a"), space(t, "list-b")
	err := here.Do(func() error {
		return errors.Join(
			CreateVeth(Veth{Name: "far", Peer: "eth0", PeerNamespace: there, MTU: 1400}), CreateVeth(Veth{Name: "near", Peer: "nearer"}),
			CreateBridge("br0", 1300), SetMaster("near", "br0"), SetUp("near"), SetUp("br0"),
			change("mark", "near", func(l netlink.Link) error { return netlink.LinkSetAlias(l, "an alias") }),
		)
	})
	if err != nil {
		t.Fatal(err)
	}
	err = here.Do(func() error {
		all, err := listLinks()
		if err != nil {
			return err
		}
		found := map[string]listed{}
		for _, l := range all {
			one, err := Find(l.Name)
			if err != nil {
				return err
			}
			if l.Device != one {
				t.Errorf("in the list %+v, by itself %+v", l.Device, one)
			}
			found[l.Name] = l
		}
		if l := found["near"]; l.Alias != "an alias" || l.Master != found["br0"].Index || !l.Up {
			t.Errorf("a device with an alias on a bridge is %+v", l)
		}
		if far := found["far"]; !far.PeerElsewhere || far.MTU != 1400 || found["near"].PeerElsewhere || len(found) != 5 {
			t.Errorf("the list is %+v", found)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

func TestADamagedListIsRefused(t *testing.T) {
	whole := make([]byte, 16+8)
	binary.NativeEndian.PutUint16(whole[16:], 8)
	binary.NativeEndian.PutUint16(whole[18:], 4) // IFLA_MTU with four bytes
	for name, m := range map[string][]byte{
		"a head alone":                       whole[:15],
		"an attribute longer than the rest":  append(append([]byte{}, whole[:16]...), 9, 0, 4, 0, 1, 0, 0, 0),
		"an attribute shorter than its head": append(append([]byte{}, whole[:16]...), 3, 0, 4, 0),
	} {
		if l, err := readLink(m); err == nil {
			t.Errorf("%s is taken for %+v", name, l)
		}
	}
	if l, err := readLink(whole); err != nil || !reflect.DeepEqual(l, listed{}) {
		t.Errorf("%+v, %v", l, err)
	}
}
