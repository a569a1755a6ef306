package libvirt

import (
	"encoding/xml"
	"fmt"
	"io"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// Act is what libvirt is about to do, or has done, as far as the network is concerned.
type Act string

// The acts. What each must have before libvirt goes on is the agent's to decide; a refused one ends what libvirt was about to do.
const (
	Plug    Act = "plug"    // a guest's NIC is about to be made; its device is not there yet
	Begin   Act = "begin"   // the guest's devices are there, its machine is about to start
	Receive Act = "receive" // a guest is about to be sent here by another host
	Ended   Act = "ended"   // the guest's machine has ended here
	Release Act = "release" // what the guest had here is free
	Unplug  Act = "unplug"  // a guest's NIC is gone
)

// Call is one call of a hook, for those of the guest's NICs that may be on a switch.
type Call struct {
	Act  Act
	VM   string
	NICs []NIC
}

// NIC is a guest's NIC as libvirt describes it; what it does not know at that time is empty.
type NIC struct {
	MAC fabric.MAC
	// Bridge is the bridge that its device is, or will be, on; Network libvirt's network, Portgroup what the guest wants to be there.
	Bridge, Network, Portgroup string
	// Device is the network device on this host.
	Device string
}

// maxDescription bounds a guest's description, in bytes.
const maxDescription = 4 << 20

// ReadHook reads one call of libvirt's hooks "qemu" and "network" (https://libvirt.org/hooks.html): the name of the hook and its
// arguments, and the description on standard input. It returns false for what does not concern the network, and an error for
// a call that it does not understand.
func ReadHook(args []string, in io.Reader) (Call, bool, error) {
	if len(args) < 4 {
		return Call{}, false, fmt.Errorf("read a hook of libvirt: want HOOK OBJECT OPERATION SUB-OPERATION, got %q", args)
	}
	hook, operation := args[0], args[2]+" "+args[3]
	read, known := calls[hook+" "+operation]
	if !known {
		return Call{}, false, nil
	}
	text, err := io.ReadAll(io.LimitReader(in, maxDescription+1))
	if err == nil && len(text) > maxDescription {
		err = fmt.Errorf("it is larger than %d bytes", maxDescription)
	}
	if err != nil {
		return Call{}, false, fmt.Errorf("read what libvirt says of %s (%s): %w", args[1], operation, err)
	}
	call, err := read(text)
	if err != nil {
		return Call{}, false, fmt.Errorf("read what libvirt says of %s (%s): %w", args[1], operation, err)
	}
	// A guest without a NIC on a bridge or network is none of the fabric's, and neither is its end.
	return call, len(call.NICs) > 0, nil
}

// calls are the operations that matter.
var calls = map[string]func([]byte) (Call, error){
	"qemu prepare begin":         domainCall(Plug, NIC.plain),
	"qemu start begin":           domainCall(Begin, NIC.plugged),
	"qemu migrate begin":         domainCall(Receive, NIC.any),
	"qemu stopped end":           domainCall(Ended, NIC.any),
	"qemu release end":           domainCall(Release, NIC.any),
	"network port-created begin": portCall(Plug),
	"network port-deleted begin": portCall(Unplug),
}

// plain is a NIC that names a bridge by itself: no call of the network hook will follow for it.
func (n NIC) plain() bool { return n.Bridge != "" && n.Network == "" }

// plugged is a NIC with a device on a bridge.
func (n NIC) plugged() bool { return n.Bridge != "" && n.Device != "" }

func (n NIC) any() bool { return n.Bridge != "" || n.Network != "" }

// domain is a guest's description, as far as it matters (https://libvirt.org/formatdomain.html).
type domain struct {
	XMLName    xml.Name `xml:"domain"`
	Name       string   `xml:"name"`
	Interfaces []struct {
		Type string `xml:"type,attr"`
		MAC  struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Source struct {
			Network   string `xml:"network,attr"`
			Bridge    string `xml:"bridge,attr"`
			Portgroup string `xml:"portgroup,attr"`
		} `xml:"source"`
		Target struct {
			Device string `xml:"dev,attr"`
		} `xml:"target"`
	} `xml:"devices>interface"`
}

// domainCall reads a guest's description, and keeps the NICs that matter.
func domainCall(act Act, matters func(NIC) bool) func([]byte) (Call, error) {
	return func(text []byte) (Call, error) {
		var d domain
		if err := xml.Unmarshal(text, &d); err != nil {
			return Call{}, err
		}
		call := Call{Act: act, VM: d.Name}
		for _, i := range d.Interfaces {
			if i.Type != "network" && i.Type != "bridge" {
				continue
			}
			n := NIC{Bridge: i.Source.Bridge, Network: i.Source.Network, Portgroup: i.Source.Portgroup, Device: i.Target.Device}
			if !matters(n) {
				continue
			}
			mac, err := fabric.ParseMAC(i.MAC.Address)
			if err != nil {
				return Call{}, fmt.Errorf("a NIC of %s: %w", d.Name, err)
			}
			n.MAC = mac
			call.NICs = append(call.NICs, n)
		}
		return call, nil
	}
}

// networkPort is what the network hook is told of a NIC (https://libvirt.org/formatnetworkport.html).
type networkPort struct {
	XMLName xml.Name `xml:"hookData"`
	Network string   `xml:"network>name"`
	Port    struct {
		Owner string `xml:"owner>name"`
		Group string `xml:"group"`
		MAC   struct {
			Address string `xml:"address,attr"`
		} `xml:"mac"`
		Plug struct {
			Bridge string `xml:"bridge,attr"`
		} `xml:"plug"`
	} `xml:"networkport"`
}

// portCall reads what is said of one NIC.
func portCall(act Act) func([]byte) (Call, error) {
	return func(text []byte) (Call, error) {
		var p networkPort
		if err := xml.Unmarshal(text, &p); err != nil {
			return Call{}, err
		}
		call := Call{Act: act, VM: p.Port.Owner}
		if p.Port.Plug.Bridge == "" {
			return call, nil
		}
		mac, err := fabric.ParseMAC(strings.TrimSpace(p.Port.MAC.Address))
		if err != nil {
			return Call{}, fmt.Errorf("a NIC of %s: %w", p.Port.Owner, err)
		}
		call.NICs = []NIC{{MAC: mac, Bridge: p.Port.Plug.Bridge, Network: p.Network, Portgroup: p.Port.Group}}
		return call, nil
	}
}
