package main

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// natFlags are the flags of an internal switch's NAT.
type natFlags struct {
	nat      bool
	forwards []string
}

// fill puts them into the switch; a forward asks for NAT.
func (n *natFlags) fill(o *fabric.Switch) error {
	o.Spec.Services.NAT.Enabled = n.nat || len(n.forwards) > 0
	for _, word := range n.forwards {
		w, err := forwardOf(word)
		if err != nil {
			return err
		}
		o.Spec.Services.NAT.Forwards = append(o.Spec.Services.NAT.Forwards, w)
	}
	return nil
}

// forwardOf reads PROTOCOL/HOSTPORT=PORT[:NUMBER].
func forwardOf(word string) (w fabric.Forward, err error) {
	const form = "write tcp/8080=web-1:80"
	from, to, ok := strings.Cut(word, "=")
	protocol, number, ok2 := strings.Cut(from, "/")
	if !ok || !ok2 {
		return w, fmt.Errorf("--forward %q names no port of the hosts and no guest: %s", word, form)
	}
	w = fabric.Forward{Protocol: protocol, Port: to}
	if w.HostPort, err = portNumber(number); err != nil {
		return w, fmt.Errorf("--forward %q: %q is not a port, 1 to 65535: %s", word, number, form)
	}
	if name, inside, has := strings.Cut(to, ":"); has {
		w.Port = name
		if w.PortNumber, err = portNumber(inside); err != nil {
			return w, fmt.Errorf("--forward %q: %q is not a port, 1 to 65535: %s", word, inside, form)
		}
	}
	return w, nil
}

func portNumber(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err == nil && n == 0 {
		err = strconv.ErrRange
	}
	return uint16(n), err
}
