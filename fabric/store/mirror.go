package store

import (
	"fmt"
	"time"

	"github.com/weftnet/weft/fabric"
)

// mirror puts a mirror into the draft: what it names exists, its VNI is its own, and its time runs from now on where it is new.
func (a *applying) mirror(m, before *fabric.Mirror) error {
	for i, s := range m.Spec.Sources {
		path := fmt.Sprintf("spec.sources[%d]", i)
		if err := a.referPort(path+".port", s.Port); err != nil {
			return err
		}
		if err := a.refer(path+".switch", fabric.KindSwitch, string(s.Switch)); err != nil {
			return err
		}
	}
	sink := m.Spec.Sink
	if err := a.referPort("spec.sink.port", sink.Port); err != nil {
		return err
	}
	if err := a.refer("spec.sink.host", fabric.KindHost, string(sink.Host)); err != nil {
		return err
	}
	if sink.File != nil {
		if err := a.refer("spec.sink.file.host", fabric.KindHost, string(sink.File.Host)); err != nil {
			return err
		}
	}
	a.limitTime(m, before)
	return a.mirrorVNI(m, before)
}

// referPort checks that a named port exists, and that it is a guest's.
func (a *applying) referPort(field string, name fabric.PortID) error {
	if name == "" {
		return nil
	}
	o, err := a.object(fabric.KindPort, string(name))
	if err != nil {
		return err
	}
	p := as[*fabric.Port](o)
	if p == nil {
		return a.missingPort(field, name)
	}
	if field == "spec.sink.port" && p.IsHost() {
		return fmt.Errorf("%s: %s is the port of host %s itself: name the host as the sink instead: %w", field, name, p.Spec.Host, fabric.ErrInvalid)
	}
	a.present(indexPort(string(name)))
	return nil
}

// missingPort says that there is no such port, and what was probably meant.
func (a *applying) missingPort(field string, name fabric.PortID) error {
	below := indexPort("")
	records, err := a.scan(below, true)
	if err != nil {
		return err
	}
	var known []string
	for _, r := range records {
		known = append(known, r.key[len(below):])
	}
	next := "create it first, or see 'weft get ports'"
	if near := fabric.Nearest(string(name), known); near != "" {
		next = fmt.Sprintf("did you mean %q?", near)
	}
	return fmt.Errorf("%s: there is no port %q: %s: %w", field, name, next, fabric.ErrInvalid)
}

// limitTime says when the mirror ends: its time begins when it is made, or when it is given another one.
func (a *applying) limitTime(m, before *fabric.Mirror) {
	switch {
	case m.Spec.For == 0:
		return
	case before != nil && before.Spec.For == m.Spec.For && before.Spec.Until != nil:
		if m.Spec.Until == nil {
			m.Spec.Until = before.Spec.Until
		}
	case m.Spec.Until == nil || before != nil && before.Spec.For != m.Spec.For:
		until := time.Now().UTC().Add(time.Duration(m.Spec.For)).Truncate(time.Millisecond)
		m.Spec.Until = &until
	}
}

// mirrorVNI keeps, takes or allocates the VNI that copies travel under.
func (a *applying) mirrorVNI(m, before *fabric.Mirror) error {
	if before != nil && m.Spec.VNI == 0 {
		m.Spec.VNI = before.Spec.VNI
	}
	if before != nil && before.Spec.VNI != m.Spec.VNI {
		if err := a.remove(indexVNI(before.Spec.VNI)); err != nil {
			return err
		}
	}
	if m.Spec.VNI == 0 {
		free, err := a.freeVNI()
		if err != nil {
			return err
		}
		m.Spec.VNI = free
	}
	return a.own(indexVNI(m.Spec.VNI), mirrorOwner(m), fmt.Sprintf("spec.vni: %d", m.Spec.VNI))
}

// mirrorOwner is how the index names a mirror; a switch's name is its own there.
func mirrorOwner(m *fabric.Mirror) string { return "mirror " + m.Metadata.Name }
