package api

import (
	"errors"
	"fmt"

	"github.com/weftnet/weft/fabric"
)

// Decode reads one object from JSON as strictly as fabric.Decode. Findings name fields but no lines, because people do not
// see the JSON that programs send. The error wraps fabric.ErrInvalid.
func Decode(b []byte) (fabric.Object, error) {
	objects, err := fabric.Decode("", b)
	var findings fabric.Findings
	if errors.As(err, &findings) {
		for i := range findings {
			findings[i].Line, findings[i].Column = 0, 0
		}
		return nil, findings
	}
	if err != nil {
		return nil, err
	}
	if len(objects) != 1 {
		return nil, fmt.Errorf("%d objects where one belongs: %w", len(objects), fabric.ErrInvalid)
	}
	return objects[0], nil
}
