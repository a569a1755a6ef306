package datapath_test

import (
	"encoding/binary"

	"github.com/weftnet/weft/policy"
)

// load prepares the runner for a frame: for one that becomes several packets on a wire, if it is to be an aggregate and can be.
func (d *differ) load(w *trip, aggregate bool) {
	w.packets, w.wire = 1, len(w.frame)
	d.runner.in.GsoSize, d.runner.in.GsoSegs = 0, 0
	if !aggregate {
		return
	}
	p, bad := policy.Parse(w.frame)
	if bad != nil || p.Fragment || d.u.damaged || p.Protocol != protoTCP && p.Protocol != protoUDP {
		return
	}
	headers, end := 14+40, 14+40+int(binary.BigEndian.Uint16(w.frame[18:]))
	if p.Source.Is4() {
		headers, end = 14+int(w.frame[14]&15)*4, 14+int(binary.BigEndian.Uint16(w.frame[16:]))
	} else if w.frame[20] != p.Protocol {
		return // the kernel makes no aggregates of packets with extension headers
	}
	if headers += 8; p.Protocol == protoTCP {
		headers += int(w.frame[headers+4]>>4)*4 - 8
	}
	payload := end - headers
	if payload < 2 || end != len(w.frame) {
		return
	}
	size := max(1+d.u.IntN(payload-1), payload/1024+1) // more packets than 1,024 would be refused
	w.packets = (payload + size - 1) / size
	w.wire += (w.packets - 1) * headers
	d.runner.in.GsoSize = uint32(size)
	if d.u.IntN(2) == 0 { // most devices say how many there will be
		d.runner.in.GsoSegs = uint32(w.packets)
	}
}

// shorten has an IP packet end before its last bytes, which are Ethernet's padding then.
func (u *universe) shorten(f []byte) {
	at := 14 + 2
	switch binary.BigEndian.Uint16(f[12:]) {
	case typeIPv6:
		at = 14 + 4
	case typeIPv4:
	default:
		return
	}
	length := int(binary.BigEndian.Uint16(f[at:]))
	binary.BigEndian.PutUint16(f[at:], uint16(max(0, length-1-u.IntN(30))))
}
