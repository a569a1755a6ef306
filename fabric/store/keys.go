package store

import (
	"fmt"
	"net/netip"
	"strings"

	"github.com/weftnet/weft/fabric"
)

// The layout of etcd. Everything wanted lies under one prefix, so that one watch sees every change in order; leased status
// lies outside, so that the watch sees none of it.
const (
	prefix         = "/weft/v1/"
	indexPrefix    = prefix + "index/"
	indexEnd       = prefix + "index0" // '0' follows '/'
	locationPrefix = prefix + "location/"
	prefixEnd      = "/weft/v10" // '0' follows '/'
	incarnationKey = prefix + "incarnation"
	subnetsKey     = indexPrefix + "subnets"
	statusPrefix   = "/weft/status/v1/"
)

// word is a kind in keys and sentences: "port".
func word(kind fabric.Kind) string { return strings.ToLower(string(kind)) }

func kindPrefix(kind fabric.Kind) string { return prefix + word(kind) + "/" }

// key is the key of an object of any kind but Port, whose key holds its switch.
func key(kind fabric.Kind, name string) string { return kindPrefix(kind) + name }

func portKey(sw fabric.SwitchID, name string) string {
	return kindPrefix(fabric.KindPort) + string(sw) + "/" + name
}

func portsOf(sw fabric.SwitchID) string { return kindPrefix(fabric.KindPort) + string(sw) + "/" }

func objectKey(o fabric.Object) string {
	if p, ok := o.(*fabric.Port); ok {
		return portKey(p.Spec.Switch, p.Metadata.Name)
	}
	return key(o.Type().Kind, o.Meta().Name)
}

func locationKey(sw fabric.SwitchID, port fabric.PortID) string {
	return locationPrefix + string(sw) + "/" + string(port)
}

func locationsOf(sw fabric.SwitchID) string { return locationPrefix + string(sw) + "/" }

func statusKey(h fabric.HostID) string { return statusPrefix + string(h) }

// The index: each record's value is the name of the owner.

func indexPort(name string) string  { return indexPrefix + "port/" + name }
func indexMAC(m fabric.MAC) string  { return indexPrefix + "mac/" + m.String() }
func indexVTEP(a netip.Addr) string { return indexPrefix + "vtep/" + a.String() }
func indexVNI(v fabric.VNI) string  { return fmt.Sprintf("%s%d", indexVNIs(), v) }
func indexVNIs() string             { return indexPrefix + "vni/" }
func indexAddresses(sw fabric.SwitchID) string {
	return indexPrefix + "address/" + string(sw) + "/"
}
func indexAddress(sw fabric.SwitchID, a netip.Addr) string { return indexAddresses(sw) + a.String() }

// place says what a key is the key of.
type place struct {
	kind     fabric.Kind // empty for a location, the incarnation and unknown keys
	location bool
	sw       fabric.SwitchID // of a port or location
	name     string
}

// parse reads a key under prefix; ok is false for keys of another release, which are left alone.
func parse(k string) (place, bool) {
	table, rest, ok := strings.Cut(strings.TrimPrefix(k, prefix), "/")
	if !ok || rest == "" {
		return place{}, false
	}
	switch table {
	case "port", "location":
		sw, name, ok := strings.Cut(rest, "/")
		p := place{sw: fabric.SwitchID(sw), name: name, location: table == "location"}
		if !p.location {
			p.kind = fabric.KindPort
		}
		return p, ok && name != "" && !strings.Contains(name, "/")
	}
	for _, kind := range fabric.Kinds() {
		if table == word(kind) {
			return place{kind: kind, name: rest}, !strings.Contains(rest, "/")
		}
	}
	return place{}, false
}
