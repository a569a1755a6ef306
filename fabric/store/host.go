package store

import (
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// host puts a host into the draft: its tunnel end point is its own.
func (a *applying) host(h, before *fabric.Host) error {
	if before != nil && before.Spec.VTEP != h.Spec.VTEP {
		if err := a.remove(indexVTEP(before.Spec.VTEP)); err != nil {
			return err
		}
	}
	return a.own(indexVTEP(h.Spec.VTEP), h.Metadata.Name, fmt.Sprintf("spec.vtep: %s", h.Spec.VTEP))
}
