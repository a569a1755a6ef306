package datapath

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"

	"github.com/weftnet/weft/datapath/nat"
	"github.com/weftnet/weft/datapath/nic"
)

// Uninstall removes the core from pinDir and from the network namespace of the calling thread: the ports' devices are
// lowered first, because without the core they would be doors into the host; then links, programs, maps and the devices
// that the core made go, and before them the host's NAT of internal switches with what it has opened. A directory that another
// process holds is an error that names it; one that is not there is done.
func Uninstall(pinDir string) error {
	if err := nat.Uninstall(""); err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	if _, err := os.Stat(pinDir); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	p, err := openPins(pinDir)
	if err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	defer p.Close()
	if err := errors.Join(p.lowerPorts(), nic.SetDownIfThere(TunnelDevice), nic.SetDownIfThere(probePeer), nic.SetDownIfThere(shaperPeer)); err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	attachments, err := p.openLinks()
	for _, l := range attachments {
		err = errors.Join(err, l.end())
	}
	if err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	if err := errors.Join(p.releaseUplinks(), releaseExits()); err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	if err := errors.Join(os.RemoveAll(pinDir), nic.Delete(probeDevice), nic.Delete(ShaperDevice), nic.Delete(TunnelDevice), nic.Delete(MirrorDevice), nic.DeleteSinks(), nic.TakeHeadroom()); err != nil {
		return fmt.Errorf("uninstall the datapath: %w", err)
	}
	return nil
}

// lowerPorts lowers the devices that the pinned map of ports names.
func (p pins) lowerPorts() error {
	ports, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, "maps", "ports_v1"), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer ports.Close()
	devices, err := nic.Devices()
	if err != nil {
		return err
	}
	var ifindex uint32
	var c corePort
	entries := ports.Iterate()
	for entries.Next(&ifindex, &c) {
		if now, there := devices[int(ifindex)]; there {
			if err := nic.SetDownIfThere(now.Name); err != nil {
				return err
			}
		}
	}
	return entries.Err()
}

// releaseUplinks ends promiscuous mode on the NICs that took it for a switch.
func (p pins) releaseUplinks() error {
	uplinks, err := ebpf.LoadPinnedMap(filepath.Join(p.dir, "maps", "uplinks_v2"), nil)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer uplinks.Close()
	devices, err := nic.Devices()
	if err != nil {
		return err
	}
	var ifindex uint32
	var u coreUplink
	entries := uplinks.Iterate()
	for entries.Next(&ifindex, &u) {
		if now, there := devices[int(ifindex)]; there && u.Flags&uplinkWasPromisc == 0 {
			if err := nic.SetPromiscuous(now.Name, false); err != nil && !nic.IsGone(err) {
				return err
			}
		}
	}
	return entries.Err()
}
