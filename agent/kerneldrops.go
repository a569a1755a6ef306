package agent

import (
	"cmp"
	"context"
	"maps"
	"slices"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/datapath/kerneldrops"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// KernelDrops is what the kernel itself drops on devices, by their numbers; *kerneldrops.Counter is one.
type KernelDrops interface {
	// Watch counts on these devices and no others.
	Watch(devices []int) error
	// Counts are packets by device and reason, and how many found no counter.
	Counts() (drops map[int]map[tracing.KernelReason]uint64, missed uint64, err error)
}

var _ KernelDrops = (*kerneldrops.Counter)(nil)

// owner is what a device is to this host: a port's, or the host's own, by its name.
type owner struct {
	port   fabric.PortID
	device string
}

// ownDevices begins the names of devices that weft makes for itself. Copies of mirrors leave by
// datapath.MirrorDevice, which is never up.
const ownDevices = "weft"

// owners are the devices whose drops concern somebody here, by their numbers: those of ports, the underlay, uplinks and weft's own.
func (k *keeper) owners() map[int]owner {
	k.mu.Lock()
	defer k.mu.Unlock()
	all := map[int]owner{}
	for device, index := range k.present {
		_, uplink := k.have.Uplinks[device]
		own := strings.HasPrefix(device, ownDevices) && device != datapath.MirrorDevice
		if uplink || own || device == k.underlay {
			all[index] = owner{device: device}
		}
	}
	for port, at := range k.local.Attachments {
		if index := k.present[at.Device]; index != 0 {
			all[index] = owner{port: port, device: at.Device}
		}
	}
	return all
}

// keepKernelDrops has the kernel's drops counted on the devices that concern this host, as they come and go.
func (a *Agent) keepKernelDrops(ctx context.Context) error {
	if a.machine.kernelDrops == nil {
		return nil
	}
	for ctx.Err() == nil {
		change := a.news.wait()
		a.trouble("kernel drops", a.machine.kernelDrops.Watch(slices.Sorted(maps.Keys(a.keeper.owners()))))
		pause(ctx, watchGap)
		select {
		case <-ctx.Done():
		case <-change:
		}
	}
	return nil
}

// kernelDropsHere are what the kernel has dropped on this host's devices, in the order of ports, devices and reasons.
func (a *Agent) kernelDropsHere() ([]tracing.Drop, error) {
	if a.machine.kernelDrops == nil {
		return nil, nil
	}
	counts, missed, err := a.machine.kernelDrops.Counts()
	if err != nil {
		return nil, err
	}
	owners := a.keeper.owners()
	var out []tracing.Drop
	for index, reasons := range counts {
		o, known := owners[index]
		if !known {
			continue // it has gone meanwhile
		}
		for reason, n := range reasons {
			out = append(out, tracing.Drop{Host: a.config.Host, Port: o.port, Device: o.device, Kernel: reason, Packets: n})
		}
	}
	if missed > 0 {
		out = append(out, tracing.Drop{Host: a.config.Host, Kernel: tracing.KernelUncounted, Packets: missed})
	}
	slices.SortFunc(out, func(a, b tracing.Drop) int {
		return cmp.Or(cmp.Compare(a.Port, b.Port), cmp.Compare(a.Device, b.Device), cmp.Compare(a.Kernel, b.Kernel))
	})
	return out, nil
}

// kernelDrops tries whether this kernel tells what it drops itself.
func (d *doctor) kernelDrops() {
	c, err := kerneldrops.Open()
	if err != nil {
		d.add("bpf.kernel-drops", api.Warning, "boot a kernel with CONFIG_DEBUG_INFO_BTF; until then see ip -s -s link show",
			"what the kernel itself drops is not counted here: %v", err)
		return
	}
	defer c.Close()
	d.add("bpf.kernel-drops", api.OK, "", "what the kernel itself drops is counted by its own reasons")
}

// withKernel adds the kernel's drops to those of ports, under their names.
func withKernel(ports []fabric.PortStatus, drops []tracing.Drop) []fabric.PortStatus {
	byPort := map[fabric.PortID]map[string]uint64{}
	for _, d := range drops {
		if d.Port == "" {
			continue
		}
		if byPort[d.Port] == nil {
			byPort[d.Port] = map[string]uint64{}
		}
		byPort[d.Port][d.Name()] += d.Packets
	}
	for i := range ports {
		p := &ports[i]
		if p.Drops == nil {
			p.Drops = byPort[p.Name]
			continue
		}
		maps.Copy(p.Drops, byPort[p.Name])
	}
	return ports
}

// ofNoPort adds the kernel's drops at devices of no port to the host's.
func ofNoPort(all map[string]uint64, drops []tracing.Drop) map[string]uint64 {
	for _, d := range drops {
		if d.Port != "" {
			continue
		}
		if all == nil {
			all = map[string]uint64{}
		}
		all[d.Name()] += d.Packets
	}
	return all
}
