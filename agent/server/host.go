package server

import (
	"context"
	"fmt"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
)

func (s *Server) hostOperations() {
	register(s, api.GetVersion(), s.version)
	register(s, api.GetDoctor(), s.doctor)
	register(s, api.ConfirmHeld(), s.confirmHeld)
	register(s, api.StatusHere(), s.statusHere)
	register(s, api.PortsHere(), s.portsHere)
	register(s, api.ConnectionsHere(), s.connectionsHere)
	register(s, api.MirrorsHere(), s.mirrorsHere)
	register(s, api.LeftHere(), s.leftHere)
	register(s, api.AsideHere(), s.asideHere)
	register(s, api.AttachPort(), s.attach)
	register(s, api.DetachPort(), s.detach)
	register(s, api.CallHypervisor(), s.hypervisor)
	register(s, api.IntegrateLibvirt(), s.integrate)
}

func (s *Server) version(context.Context, *struct{}) (*answer[api.Version], error) {
	return &answer[api.Version]{api.Version{Version: s.o.Version, Host: s.o.Self, API: fabric.APIVersion}}, nil
}

func (s *Server) doctor(ctx context.Context, _ *struct{}) (*answer[api.List[api.Finding]], error) {
	if s.o.Host == nil {
		return nil, absent("examine its host")
	}
	f, err := s.o.Host.Doctor(ctx)
	if err != nil {
		return nil, err
	}
	return &answer[api.List[api.Finding]]{api.List[api.Finding]{Items: f}}, nil
}

// confirmHeld goes on with what this host holds for a person's word.
func (s *Server) confirmHeld(ctx context.Context, _ *struct{}) (*answer[api.Confirmed], error) {
	if s.o.Host == nil {
		return nil, absent("hold anything")
	}
	message, err := s.o.Host.Confirm(ctx)
	if err != nil {
		return nil, err
	}
	return &answer[api.Confirmed]{api.Confirmed{Host: s.o.Self, Message: message}}, nil
}

// attach binds a port to a device of this host.
func (s *Server) attach(ctx context.Context, in *struct {
	Name string `path:"name" doc:"Name of the port"`
	Body api.Attachment
}) (*answer[api.Attached], error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	v, err := s.view(ctx)
	if err != nil {
		return nil, err
	}
	port, ok := v.snap.Ports[fabric.PortID(in.Name)]
	if !ok {
		e := missing(api.Resource{Singular: "port", Plural: "ports"}, in.Name)
		e.Next = fmt.Sprintf("create it first: weft create port %s --switch NAME", in.Name)
		return nil, e
	}
	st, err := s.o.Plugs.Attach(ctx, fabric.PortID(in.Name), in.Body)
	if err != nil {
		return nil, about("port/"+in.Name, err)
	}
	out := api.Attached{Port: *port, Status: st}
	out.Port.Status = st
	if sw, ok := v.snap.Switches[port.Spec.Switch]; ok {
		out.MTU = v.snap.SwitchMTU(sw)
	}
	return &answer[api.Attached]{out}, nil
}

// detach takes a port off its device.
func (s *Server) detach(ctx context.Context, in *named) (*struct{}, error) {
	if s.o.Plugs == nil {
		return nil, absent("plug ports in")
	}
	if err := s.o.Plugs.Detach(ctx, fabric.PortID(in.Name)); err != nil {
		return nil, about("port/"+in.Name, err)
	}
	return nil, nil
}

// hypervisor takes the word of a hook.
func (s *Server) hypervisor(ctx context.Context, in *struct{ Body api.HypervisorCall }) (*struct{}, error) {
	if s.o.Hypervisor == nil {
		return nil, absent("take calls of a hypervisor")
	}
	if err := s.o.Hypervisor.Call(ctx, in.Body); err != nil {
		return nil, about("vm/"+in.Body.VM, err)
	}
	return nil, nil
}

// integrate gives libvirt what it needs, or takes it away.
func (s *Server) integrate(ctx context.Context, in *struct{ Body api.IntegrateRequest }) (*answer[api.Integration], error) {
	if s.o.Hypervisor == nil {
		return nil, absent("integrate libvirt")
	}
	done, err := s.o.Hypervisor.Integrate(ctx, in.Body)
	if err != nil {
		return nil, about("host/"+string(s.o.Self), err)
	}
	return &answer[api.Integration]{done}, nil
}
