package store

import (
	"bytes"
	"encoding/json"
	"fmt"

	"go.etcd.io/etcd/api/v3/mvccpb"

	"github.com/weftnet/weft/fabric"
)

// record is one etcd record; a revision of 0 means that it does not exist.
type record struct {
	key      string
	value    []byte
	revision int64
}

func recordOf(kv *mvccpb.KeyValue) record {
	return record{key: string(kv.Key), value: kv.Value, revision: kv.ModRevision}
}

// encodeObject is what is stored of an object: without its revision, which etcd keeps, and without status, which hosts
// report; only a move's status is part of the record.
func encodeObject(o fabric.Object) ([]byte, error) {
	c, err := clone(o)
	if err != nil {
		return nil, err
	}
	c.Meta().Revision = 0
	b, err := json.Marshal(c)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", fabric.Ref(o), err)
	}
	return b, nil
}

// clone copies an object without its status (a move keeps it).
func clone(o fabric.Object) (fabric.Object, error) {
	b, err := json.Marshal(o)
	if err != nil {
		return nil, fmt.Errorf("encode %s: %w", fabric.Ref(o), err)
	}
	c, err := fabric.New(o.Type().Kind)
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(b, c); err != nil {
		return nil, fmt.Errorf("copy %s: %w", fabric.Ref(o), err)
	}
	switch c := c.(type) {
	case *fabric.Host:
		c.Status = fabric.HostStatus{}
	case *fabric.Switch:
		c.Status = fabric.SwitchStatus{}
	case *fabric.Port:
		c.Status = fabric.PortStatus{}
	case *fabric.Mirror:
		c.Status = fabric.MirrorStatus{}
	case *fabric.Policy:
		c.Status = fabric.Force{}
	case *fabric.Group:
		c.Status = fabric.Force{}
	case *fabric.Profile:
		c.Status = fabric.Force{}
	}
	return c, nil
}

// decodeObject reads a record. Unknown fields are left out: a newer release may have written them; what an older one must
// not ignore comes with another apiVersion, which is an error here.
func decodeObject(r record) (fabric.Object, error) {
	p, ok := parse(r.key)
	if !ok || p.location {
		return nil, broken(r, fmt.Errorf("it is no object"))
	}
	o, err := fabric.New(p.kind)
	if err != nil {
		return nil, broken(r, err)
	}
	head := *o.Type()
	if err := json.Unmarshal(r.value, o); err != nil {
		return nil, broken(r, err)
	}
	if *o.Type() != head {
		return nil, broken(r, fmt.Errorf("it says %s %s, not %s %s", o.Type().APIVersion, o.Type().Kind, head.APIVersion, head.Kind))
	}
	*o.Type() = head // the constants, so that ten thousand records share two strings
	o.Meta().Name = p.name
	if port, ok := o.(*fabric.Port); ok && port.Spec.Switch != p.sw {
		return nil, broken(r, fmt.Errorf("it names switch %q", port.Spec.Switch))
	}
	o.Meta().Revision = fabric.Revision(r.revision)
	if err := o.Validate(); err != nil {
		return nil, broken(r, err)
	}
	return o, nil
}

func encodeLocation(l fabric.Location) ([]byte, error) {
	l.Revision = 0
	b, err := json.Marshal(l)
	if err != nil {
		return nil, fmt.Errorf("encode location of port %s: %w", l.Port, err)
	}
	return b, nil
}

func decodeLocation(r record) (fabric.Location, error) {
	var l fabric.Location
	if err := json.Unmarshal(r.value, &l); err != nil {
		return l, broken(r, err)
	}
	p, ok := parse(r.key)
	if !ok || !p.location || string(l.Port) != p.name || l.Switch != p.sw {
		return l, broken(r, fmt.Errorf("it speaks of port %q on switch %q", l.Port, l.Switch))
	}
	l.Revision = fabric.Revision(r.revision)
	return l, nil
}

// broken is the error of a record that cannot be read.
func broken(r record, err error) error {
	return fmt.Errorf("record %s at revision %d (%d bytes) cannot be read: %v: %w", r.key, r.revision, len(r.value), err, fabric.ErrInvalid)
}

// same reports whether two objects ask for the same, whoever wrote them and when.
func same(a, b fabric.Object) (bool, error) {
	x, err := content(a)
	if err != nil {
		return false, err
	}
	y, err := content(b)
	return bytes.Equal(x, y), err
}

func content(o fabric.Object) ([]byte, error) {
	c, err := clone(o)
	if err != nil {
		return nil, err
	}
	c.Meta().Revision, c.Meta().Trace = 0, ""
	return json.Marshal(c)
}
