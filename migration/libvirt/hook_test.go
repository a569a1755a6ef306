package libvirt

import (
	"fmt"
	"reflect"
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// What libvirt 9.0 tells its hooks, shortened.
const (
	prepared = `<domain type='qemu' id='2'><name>vm1</name><uuid>0bdeeb42-d4fe-4e3f-8cc7-97898580fa73</uuid><devices>
<interface type='network'><mac address='52:54:00:01:02:03'/><source network='blue' portgroup='web'/><model type='virtio'/></interface>
<interface type='bridge'><mac address='52:54:00:01:02:04'/><source bridge='sw-blue'/></interface>
<interface type='user'><mac address='52:54:00:01:02:05'/></interface></devices></domain>`
	started = `<domain type='qemu' id='2'><name>vm1</name><devices>
<interface type='bridge'><mac address='52:54:00:01:02:03'/><source network='blue' portgroup='web' portid='3626b60a-0c03-4322-b4e4-4a7a93c8b90c' bridge='sw-blue'/><target dev='vnet0'/></interface>
</devices></domain>`
	created = `<hookData><network connections='1'><name>blue</name><forward mode='bridge'/><bridge name='sw-blue'/></network>
<networkport><uuid>3626b60a-0c03-4322-b4e4-4a7a93c8b90c</uuid><owner><name>vm1</name></owner><group>web</group>
<mac address='52:54:00:01:02:03'/><plug type='bridge' bridge='sw-blue'/></networkport></hookData>`
	natted = `<hookData><network><name>default</name></network><networkport><owner><name>vm1</name></owner><mac address='52:54:00:01:02:03'/><plug type='network'/></networkport></hookData>`
)

func mac(last byte) fabric.MAC { return fabric.MAC{0x52, 0x54, 0, 1, 2, last} }

func TestHooksAreRead(t *testing.T) {
	both := []NIC{{MAC: mac(3), Network: "blue", Portgroup: "web"}, {MAC: mac(4), Bridge: "sw-blue"}}
	plugged := NIC{MAC: mac(3), Network: "blue", Portgroup: "web", Bridge: "sw-blue"}
	ready := plugged
	ready.Device = "vnet0"
	for _, c := range []struct {
		name, hook, operation, text string
		want                        Call
		matters                     bool
	}{
		{"before the start only NICs on bridges are new", "qemu", "prepare begin", prepared, Call{Plug, "vm1", both[1:]}, true},
		{"at the start the devices are there", "qemu", "start begin", started, Call{Begin, "vm1", []NIC{ready}}, true},
		{"a NIC without a device is not begun", "qemu", "start begin", prepared, Call{}, false},
		{"a migration has all NICs", "qemu", "migrate begin", prepared, Call{Receive, "vm1", both}, true},
		{"the end of a machine", "qemu", "stopped end", prepared, Call{Ended, "vm1", both}, true},
		{"what it had is free", "qemu", "release end", prepared, Call{Release, "vm1", both}, true},
		{"a libvirtd that comes again asks nothing", "qemu", "reconnect begin", prepared, Call{}, false},
		{"a NIC is made", "network", "port-created begin", created, Call{Plug, "vm1", []NIC{plugged}}, true},
		{"a NIC goes", "network", "port-deleted begin", created, Call{Unplug, "vm1", []NIC{plugged}}, true},
		{"a NIC behind libvirt's own NAT", "network", "port-created begin", natted, Call{}, false},
		{"a network starts", "network", "start begin", natted, Call{}, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			call, matters, err := ReadHook(append([]string{c.hook, "vm1"}, strings.Fields(c.operation+" -")...), strings.NewReader(c.text))
			if err != nil || matters != c.matters || matters && !reflect.DeepEqual(call, c.want) {
				t.Errorf("%+v, %v, %v; want %+v, %v", call, matters, err, c.want, c.matters)
			}
		})
	}
}

func TestWhatIsNoHookIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		args []string
		text string
	}{
		"too few arguments": {[]string{"qemu", "vm1"}, prepared},
		"no XML":            {[]string{"qemu", "vm1", "start", "begin"}, "name: vm1"},
		"another document":  {[]string{"qemu", "vm1", "start", "begin"}, created},
		"a NIC without MAC": {[]string{"qemu", "vm1", "stopped", "end"}, "<domain><name>vm1</name><devices><interface type='bridge'><source bridge='b'/></interface></devices></domain>"},
		"too large":         {[]string{"qemu", "vm1", "start", "begin"}, "<domain><!--" + strings.Repeat(" ", maxDescription) + "--></domain>"},
	} {
		if _, matters, err := ReadHook(c.args, strings.NewReader(c.text)); err == nil || matters {
			t.Errorf("%s: %v, %v", name, matters, err)
		}
	}
}

// FuzzReadHook holds the reader to: what matters names a NIC with a MAC on a bridge or a network.
func FuzzReadHook(f *testing.F) {
	for _, text := range []string{prepared, started, created, natted} {
		for operation := range calls {
			f.Add(operation, text)
		}
	}
	f.Fuzz(func(t *testing.T, operation, text string) {
		hook, rest, _ := strings.Cut(operation, " ")
		call, matters, err := ReadHook(append([]string{hook, "vm1"}, strings.Fields(rest)...), strings.NewReader(text))
		if err != nil || !matters {
			return
		}
		for _, n := range call.NICs {
			if n.Bridge == "" && n.Network == "" {
				t.Fatalf("%s: %+v", operation, n)
			}
		}
		if len(call.NICs) == 0 || call.Act == "" {
			t.Fatalf("%s matters, and says nothing", operation)
		}
	})
}

func TestEventsAreRead(t *testing.T) {
	vm, n, ok := readNotice(`event MIGRATION at 1795400333.065597 for domain 'it's one': {"status":"pre-switchover"}`)
	if !ok || vm != "it's one" || n.Name != "MIGRATION" || n.Time.UnixMicro() != 1795400333065597 || string(n.Data) != `{"status":"pre-switchover"}` {
		t.Errorf("%q, %+v, %v", vm, n, ok)
	}
	if _, n, ok := readNotice("event STOP at 1795400333.000001 for domain 'vm1': <null>"); !ok || len(n.Data) != 0 {
		t.Errorf("%+v, %v", n, ok)
	}
	for _, line := range []string{"", "events received: 1", "event STOP for domain 'vm1': <null>", "event STOP at 99999999999999999999.000000 for domain 'vm1': <null>"} {
		if _, n, ok := readNotice(line); ok {
			t.Errorf("%q was read as %+v", line, n)
		}
	}
}

func TestNetworksHaveUUIDsOfTheirOwn(t *testing.T) {
	seen := map[string]fabric.SwitchID{}
	for i := range 100 {
		sw := fabric.SwitchID(fmt.Sprint("sw-", i))
		u := networkUUID(sw)
		if other, taken := seen[u]; taken || len(u) != 36 || u[14] != '8' || !strings.ContainsRune("89ab", rune(u[19])) || u != networkUUID(sw) {
			t.Fatalf("%s has %s, as %s", sw, u, other)
		}
		seen[u] = sw
	}
}
