package policy

import (
	"bytes"
	"encoding/binary"
	"testing"
)

func TestAVectorIsNamedByAllOfItsBytes(t *testing.T) {
	v := Vector{Dim: 3, Block: 4, Class: 0x0506, Summary: 1<<63 | 7, Words: [BlockBits / 64]uint64{0: 8, 63: 1<<63 | 9}}
	want, err := binary.Append(nil, binary.BigEndian, v)
	if err != nil {
		t.Fatal(err)
	}
	if got := v.append(nil); !bytes.Equal(got, want) {
		t.Errorf("% x, want % x", got, want)
	}
}
