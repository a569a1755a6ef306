package datapathtest

import (
	"errors"
	"fmt"
	"maps"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
)

// putMirrors puts what is copied at ports; the ports name it afterwards.
func (m *Memory) putMirrors(put datapath.State) error {
	var errs []error
	for vni, one := range put.Mirrors {
		if err := one.Check(vni); err != nil {
			errs = append(errs, err)
			continue
		}
		if !m.knows(one.Peer) {
			errs = append(errs, fmt.Errorf("put mirror with VNI %d: %s is not a peer", vni, one.Peer))
			continue
		}
		m.state.Mirrors[vni] = one
	}
	return errors.Join(errs...)
}

// putSinks lets copies end at ports that are there, and at devices of their own.
func (m *Memory) putSinks(put datapath.State) error {
	var errs []error
	for vni, s := range put.Sinks {
		if err := s.Check(vni); err != nil {
			errs = append(errs, err)
			continue
		}
		if _, there := m.state.Ports[s.Device]; !s.Listen && !there {
			errs = append(errs, fmt.Errorf("put the sink of mirror VNI %d: device %s carries no port", vni, s.Device))
			continue
		}
		m.state.Sinks[vni] = s
	}
	return errors.Join(errs...)
}

// copies reports whether all mirrors that a port names are there.
func (m *Memory) copies(p datapath.Port) error {
	for _, vni := range append(p.Mirrors.Sent[:], p.Mirrors.Received[:]...) {
		if _, there := m.state.Mirrors[vni]; vni != 0 && !there {
			return fmt.Errorf("put port %s: the mirror with VNI %d is not in force here", p.Name, vni)
		}
	}
	return nil
}

func (m *Memory) removeMirror(vni fabric.VNI) {
	delete(m.state.Mirrors, vni)
	for device, p := range m.state.Ports {
		for i := range p.Mirrors.Sent {
			if p.Mirrors.Sent[i] == vni {
				p.Mirrors.Sent[i] = 0
			}
			if p.Mirrors.Received[i] == vni {
				p.Mirrors.Received[i] = 0
			}
		}
		m.state.Ports[device] = p
	}
}

// removeSinks ends the copies for a device.
func (m *Memory) removeSinks(device string) {
	maps.DeleteFunc(m.state.Sinks, func(_ fabric.VNI, s datapath.Sink) bool { return s.Device == device })
}
