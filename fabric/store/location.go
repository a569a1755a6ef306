package store

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/weftnet/weft/fabric"
)

// UpdateLocations writes the location records, and the move when it is not nil, in one transaction. Each record, the
// move's included, is compared with the revision it carries (Location.Revision, Metadata.Revision); 0 means that it must
// not exist yet. The ports must exist. fabric.ErrConflict names the first record that differs, and nothing is written.
func (s *Store) UpdateLocations(ctx context.Context, move *fabric.Move, locations ...fabric.Location) error {
	d := s.newDraft(ctx)
	doing := "write locations"
	if len(locations) > 0 {
		doing = fmt.Sprintf("write the location of port %s", locations[0].Port)
	}
	if move != nil {
		doing = "write move " + move.Metadata.Name
	}
	if err := d.place(move, locations); err != nil {
		return fmt.Errorf("%s: %w", doing, err)
	}
	_, done, err := d.commit(doing)
	switch {
	case err == nil && done:
		return nil
	case err == nil:
		return fmt.Errorf("%s: %w", doing, s.differs(ctx, d, locations))
	case errors.Is(err, ErrUnavailable) && ctx.Err() == nil && s.written(ctx, d):
		return nil
	}
	return err
}

// place puts the records into the draft as they were read by the caller; one round trip decides.
func (d *draft) place(move *fabric.Move, locations []fabric.Location) error {
	if move != nil {
		if err := move.Validate(); err != nil {
			return err
		}
		value, err := encodeObject(move)
		if err != nil {
			return err
		}
		if err := d.replace(objectKey(move), move.Metadata.Revision, value); err != nil {
			return err
		}
	}
	for _, l := range locations {
		value, err := encodeLocation(l)
		if err != nil {
			return err
		}
		if err := d.replace(locationKey(l.Switch, l.Port), l.Revision, value); err != nil {
			return err
		}
		d.present(portKey(l.Switch, string(l.Port)))
		if err := d.covered(l); err != nil {
			return err
		}
	}
	return nil
}

// replace writes a record that must be at the revision given.
func (d *draft) replace(k string, at fabric.Revision, value []byte) error {
	if _, twice := d.writes[k]; twice {
		return fmt.Errorf("record %s is given twice: %w", k, fabric.ErrInvalid)
	}
	d.read[k] = record{key: k, revision: int64(at)}
	return d.put(k, value)
}

// differs finds the first record that is not as the draft expected.
func (s *Store) differs(ctx context.Context, d *draft, locations []fabric.Location) error {
	now := s.newDraft(ctx)
	for k := range d.writes {
		r, err := now.get(k)
		if err != nil {
			return err
		}
		if expected := d.read[k].revision; r.revision != expected {
			return fmt.Errorf("record %s is at revision %d, not at %d: read it again and decide anew: %w", k, r.revision, expected, fabric.ErrConflict)
		}
	}
	for _, l := range locations {
		r, err := now.get(portKey(l.Switch, string(l.Port)))
		if err != nil {
			return err
		}
		if r.revision == 0 {
			return fmt.Errorf("port %s is not on switch %s: it was deleted: %w", l.Port, l.Switch, fabric.ErrNotFound)
		}
	}
	return fmt.Errorf("the records changed in between: read them again and decide anew: %w", fabric.ErrConflict)
}

// written reports whether a transaction whose answer was lost was carried out: all its records are as it wrote them.
func (s *Store) written(ctx context.Context, d *draft) bool {
	now := s.newDraft(ctx)
	for k, w := range d.writes {
		r, err := now.get(k)
		if err != nil || w == nil || string(r.value) != *w {
			return false
		}
	}
	return true
}

// GetLocation returns the location of a port; one with no host and revision 0 when nobody ever held it. fabric.ErrNotFound
// when there is no such port.
func (s *Store) GetLocation(ctx context.Context, port fabric.PortID) (fabric.Location, error) {
	d := s.newDraft(ctx)
	owner, err := d.get(indexPort(string(port)))
	if err != nil {
		return fabric.Location{}, err
	}
	if owner.revision == 0 {
		return fabric.Location{}, fmt.Errorf("port %s: %w", port, fabric.ErrNotFound)
	}
	sw := fabric.SwitchID(owner.value)
	r, err := d.get(locationKey(sw, port))
	if err != nil {
		return fabric.Location{}, err
	}
	if r.revision == 0 {
		return fabric.Location{Port: port, Switch: sw}, nil
	}
	return decodeLocation(r)
}

// ListLocations returns the locations of all ports that were ever held, ordered by switch and port.
func (s *Store) ListLocations(ctx context.Context) ([]fabric.Location, error) {
	records, err := s.newDraft(ctx).scan(locationPrefix, false)
	if err != nil {
		return nil, err
	}
	locations := make([]fabric.Location, 0, len(records))
	for _, r := range records {
		l, err := decodeLocation(r)
		if err != nil {
			return nil, err
		}
		locations = append(locations, l)
	}
	return slices.Clip(locations), nil
}
