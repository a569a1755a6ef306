package agent

import (
	"maps"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// lossy is a kernel that drops on every device that it is asked about.
type lossy map[int]map[tracing.KernelReason]uint64

func (l lossy) Watch([]int) error { return nil }
func (l lossy) Counts() (map[int]map[tracing.KernelReason]uint64, uint64, error) {
	return l, 2, nil
}

func TestTheKernelsDropsStandAtTheirPorts(t *testing.T) {
	k := &keeper{underlay: "eth0", present: map[string]int{"eth0": 2, "tap-a": 7, "weftvx0": 3, datapath.MirrorDevice: 4, "lo": 1}}
	k.local.Attachments = map[fabric.PortID]attachment{"a": {}}
	at := k.local.Attachments["a"]
	at.Device = "tap-a"
	k.local.Attachments["a"] = at
	if want := map[int]owner{2: {device: "eth0"}, 3: {device: "weftvx0"}, 7: {port: "a", device: "tap-a"}}; !maps.Equal(k.owners(), want) {
		t.Fatalf("watched are %v", k.owners())
	}
	a := &Agent{config: Config{Host: "h1"}, keeper: k}
	a.machine.kernelDrops = lossy{2: {"NO_SOCKET": 5}, 7: {"FULL_RING": 9}, 99: {"FULL_RING": 1}}
	drops, err := a.kernelDropsHere()
	if err != nil || len(drops) != 3 {
		t.Fatalf("%+v, %v", drops, err)
	}
	ports := withKernel([]fabric.PortStatus{{Name: "a", Drops: map[string]uint64{"guard_src_mac": 1}}, {Name: "b"}}, drops)
	if !maps.Equal(ports[0].Drops, map[string]uint64{"guard_src_mac": 1, "kernel:FULL_RING": 9}) || ports[1].Drops != nil {
		t.Errorf("%+v", ports)
	}
	if host := ofNoPort(nil, drops); !maps.Equal(host, map[string]uint64{"kernel:NO_SOCKET": 5, "kernel:UNCOUNTED": 2}) {
		t.Errorf("of no port are %v", host)
	}
}
