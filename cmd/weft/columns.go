package main

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"github.com/weftnet/weft/api"
	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// columns are the heads of a kind's table; with wide there are more.
func columns(kind fabric.Kind, wide bool) []string {
	narrow, more := []string{"NAME"}, []string(nil)
	switch kind {
	case fabric.KindHost:
		narrow, more = []string{"NAME", "VTEP", "ALIVE", "READY", "GENERATION", "PORTS"}, []string{"SERVER", "API", "MTU", "VERSION", "KERNEL"}
	case fabric.KindSwitch:
		narrow, more = []string{"NAME", "TYPE", "VNI", "SUBNETS", "MTU", "PORTS", "IN FORCE"}, []string{"PROFILE", "POLICIES", "DEFAULT", "ABSENT"}
	case fabric.KindPort:
		narrow, more = []string{"NAME", "SWITCH", "HOST", "STATE", "MAC", "ADDRESSES"}, []string{"VM", "PROFILE", "POLICIES", "EPOCH", "DEVICE", "RX", "TX", "DROPS"}
	case fabric.KindProfile:
		narrow, more = []string{"NAME", "GUARDS OFF", "POLICIES", "DEFAULT", "IN FORCE"}, []string{"ABSENT"}
	case fabric.KindPolicy:
		narrow, more = []string{"NAME", "IN", "OUT", "STATEFUL", "IN FORCE"}, []string{"GROUPS", "ABSENT"}
	case fabric.KindGroup:
		narrow, more = []string{"NAME", "PORTS", "CIDRS", "IN FORCE"}, []string{"ABSENT"}
	case fabric.KindMirror:
		narrow, more = []string{"NAME", "STATE", "PORTS", "DIRECTION", "SINK", "LEFT"}, []string{"VNI", "SEEN", "COPIED", "GIVEN", "BYTES", "LOST"}
	case fabric.KindMove:
		narrow, more = []string{"NAME", "VM", "FROM", "TO", "PHASE", "PAUSE", "GAP", "LOST"}, []string{"EPOCH", "RELAYED", "DUPLICATED", "FLOWS", "TRACE"}
	}
	if wide {
		return append(narrow, more...)
	}
	return narrow
}

// row is an object's line in its kind's table.
func row(o fabric.Object, wide bool) []string {
	var narrow, more []string
	switch o := o.(type) {
	case *fabric.Host:
		s := o.Status
		narrow = []string{o.Metadata.Name, o.Spec.VTEP.String(), yes(s.Alive), yes(s.Ready), number(s.Generation), strconv.Itoa(len(s.Ports))}
		more = []string{yes(o.Spec.Server), o.Spec.API, strconv.Itoa(o.Spec.UnderlayMTU), s.Version, s.Kernel}
	case *fabric.Switch:
		s := o.Status
		narrow = []string{o.Metadata.Name, string(o.Spec.Type), number(o.Spec.VNI), join(o.Spec.Subnets), strconv.Itoa(s.MTU), strconv.Itoa(s.Ports), inForce(fabric.Force{Hosts: s.Hosts, Absent: s.Absent})}
		more = []string{o.Spec.Profile, strings.Join(o.Spec.Policies, ","), string(o.Spec.DefaultAction), join(s.Absent)}
	case *fabric.Port:
		s := o.Status
		narrow = []string{o.Metadata.Name, string(o.Spec.Switch), string(s.Host), string(s.State), o.Spec.MAC.String(), join(o.Spec.Addresses)}
		more = []string{o.Spec.VM, o.Spec.Profile, strings.Join(o.Spec.Policies, ","), number(s.Epoch), s.Device, size(s.RxBytes), size(s.TxBytes), strconv.FormatUint(dropped(s), 10)}
	case *fabric.Profile:
		narrow = []string{o.Metadata.Name, strings.Join(guardsOff(o.Spec.Guards), ","), strings.Join(o.Spec.Policies, ","), string(o.Spec.DefaultAction), inForce(o.Status)}
		more = []string{join(o.Status.Absent)}
	case *fabric.Policy:
		narrow, more = policyRow(o)
	case *fabric.Group:
		narrow = []string{o.Metadata.Name, labels(o.Spec.Ports), join(o.Spec.CIDRs), inForce(o.Status)}
		more = []string{join(o.Status.Absent)}
	case *fabric.Mirror:
		narrow, more = mirrorRow(o)
	case *fabric.Move:
		narrow, more = moveRow(o)
	}
	if wide {
		return append(narrow, more...)
	}
	return narrow
}

// inForce is on how many hosts a record is in force, of how many.
func inForce(f fabric.Force) string {
	return fmt.Sprintf("%d/%d", len(f.Hosts), len(f.Hosts)+len(f.Absent))
}

func moveRow(o *fabric.Move) (narrow, more []string) {
	r := o.Status.Result
	narrow = []string{o.Metadata.Name, o.Spec.VM, string(o.Spec.From), string(o.Spec.To), string(o.Status.Phase), millis(r.GuestPauseMs), millis(r.FabricGapMs), strconv.FormatUint(r.Lost, 10)}
	more = []string{number(o.Status.Epoch), strconv.FormatUint(r.Relayed, 10), strconv.FormatUint(r.Duplicated, 10), strconv.FormatUint(r.FlowsMoved, 10), api.TraceID(o.Metadata.Trace)}
	return narrow, more
}

// guardsOff names the guards that are turned off.
func guardsOff(g fabric.Guards) []string {
	var off []string
	for _, one := range []struct {
		name string
		on   *bool
	}{{"mac", g.MAC}, {"ip", g.IP}, {"arp", g.ARP}, {"dhcpServer", g.DHCPServer}, {"ra", g.RA}, {"l2Control", g.L2Control}, {"vxlan", g.VXLAN}} {
		if one.on != nil && !*one.on {
			off = append(off, one.name)
		}
	}
	return off
}

// dropped is the sum of a port's drops, without probes: they were never a guest's.
func dropped(s fabric.PortStatus) (n uint64) {
	for name, d := range s.Drops {
		if !ofProbes(name) {
			n += d
		}
	}
	return n
}

// ofProbes reports whether what is dropped for a reason are our own probes.
func ofProbes(reason string) bool {
	r, err := tracing.ParseReason(reason)
	return err == nil && r.Class() == tracing.ClassProbe
}

func yes(b bool) string {
	if b {
		return "yes"
	}
	return "no"
}

// number prints a number that is absent when it is 0.
func number[T fabric.Revision | fabric.VNI | fabric.Epoch](n T) string {
	if n == 0 {
		return ""
	}
	return fmt.Sprint(n)
}

// millis prints milliseconds; 0 is not measured.
func millis(ms float64) string {
	if ms == 0 {
		return ""
	}
	if ms < 0.1 {
		return "< 0.1 ms"
	}
	return strconv.FormatFloat(ms, 'f', 1, 64) + " ms"
}

// size prints bytes in decimal units.
func size(n uint64) string {
	f, units := float64(n), []string{"B", "kB", "MB", "GB", "TB"}
	for f >= 1000 && len(units) > 1 {
		f, units = f/1000, units[1:]
	}
	if units[0] == "B" {
		return strconv.FormatUint(n, 10) + " B"
	}
	return strconv.FormatFloat(f, 'f', 1, 64) + " " + units[0]
}

// join prints a list.
func join[T netip.Addr | netip.Prefix | fabric.HostID](items []T) string {
	words := make([]string, len(items))
	for i, v := range items {
		words[i] = fmt.Sprint(v)
	}
	return strings.Join(words, ",")
}

func labels(m map[string]string) string {
	var words []string
	for _, k := range slices.Sorted(maps.Keys(m)) {
		words = append(words, k+"="+m[k])
	}
	return strings.Join(words, ",")
}
