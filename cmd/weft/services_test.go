package main

import (
	"strings"
	"testing"

	"github.com/weftnet/weft/fabric"
)

func TestForwardsAreReadFromFlags(t *testing.T) {
	for word, want := range map[string]fabric.Forward{
		"tcp/8080=web-1:80": {Protocol: "tcp", HostPort: 8080, Port: "web-1", PortNumber: 80},
		"udp/53=dns":        {Protocol: "udp", HostPort: 53, Port: "dns"},
	} {
		if got, err := forwardOf(word); err != nil || got != want {
			t.Errorf("%s is read as %+v, %v", word, got, err)
		}
	}
	for _, word := range []string{"", "8080=web-1", "tcp/8080", "tcp/0=web-1", "tcp/99999=web-1", "tcp/80=web-1:x", "tcp/80=web-1:0"} {
		if _, err := forwardOf(word); err == nil || !strings.Contains(err.Error(), "write tcp/8080=web-1:80") {
			t.Errorf("%q: %v", word, err)
		}
	}
	sw := &fabric.Switch{}
	if err := (&natFlags{forwards: []string{"tcp/8080=web-1:80"}}).fill(sw); err != nil || !sw.Spec.Services.NAT.Enabled {
		t.Errorf("a forward asks for NAT: %+v, %v", sw.Spec.Services, err)
	}
}
