package agent

import (
	"net/netip"
	"testing"

	"github.com/weftnet/weft/datapath"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/policy"
	"github.com/weftnet/weft/tracing"
)

func TestASentenceTellsWhatARuleHasDecided(t *testing.T) {
	ends := func(protocol uint8) datapath.Decision {
		return datapath.Decision{
			Direction: fabric.In, EtherType: 0x0800, Protocol: protocol, Length: 60,
			Source: netip.MustParseAddrPort("10.0.0.1:1000"), Destination: netip.MustParseAddrPort("10.0.0.2:80"),
		}
	}
	denied, out, echo, frame := ends(6), ends(17), ends(1), ends(0)
	denied.Reason, out.Direction, echo.ICMPType = tracing.ReasonPolicyDenied, fabric.Out, 8
	frame.Source, frame.Destination, frame.EtherType, frame.Reason = netip.AddrPort{}, netip.AddrPort{}, 0x88cc, tracing.ReasonPolicyRejected
	for want, d := range map[string]datapath.Decision{
		"Rule p/r denied tcp 10.0.0.1:1000 > 10.0.0.2:80 to port a (60 bytes).":         denied,
		"Rule p/r allowed udp 10.0.0.1:1000 > 10.0.0.2:80 from port a (60 bytes).":      out,
		"Rule p/r allowed icmp type 8 code 0 10.0.0.1 > 10.0.0.2 to port a (60 bytes).": echo,
		"Rule p/r allowed protocol 47 10.0.0.1 > 10.0.0.2 to port a (60 bytes).":        ends(47),
		"Rule p/r rejected a frame of EtherType 0x88cc to port a (60 bytes).":           frame,
	} {
		if got := sentence("a", policy.RuleRef{Policy: "p", Rule: "r"}, d); got != want {
			t.Errorf("%s\nwant %s", got, want)
		}
	}
	if got, want := sentence("a", policy.RuleRef{}, denied), "A rule that is no longer known denied tcp 10.0.0.1:1000 > 10.0.0.2:80 to port a (60 bytes)."; got != want {
		t.Errorf("%s\nwant %s", got, want)
	}
}
