package tracing

import (
	"encoding/hex"
	"encoding/json"
	"os"
	"strconv"
	"testing"

	"github.com/weftnet/weft/fabric"
)

// vector is one entry of testdata/labels.json, which was written by an implementation independent of both Go and C.
type vector struct {
	Name  string     `json:"name"`
	Key0  string     `json:"key0"`
	Key1  string     `json:"key1"`
	VNI   fabric.VNI `json:"vni"`
	Frame string     `json:"frame"`
	Label string     `json:"label"`
}

func vectors(tb testing.TB) []vector {
	tb.Helper()
	raw, err := os.ReadFile("testdata/labels.json")
	if err != nil {
		tb.Fatal(err)
	}
	var all []vector
	if err := json.Unmarshal(raw, &all); err != nil {
		tb.Fatal(err)
	}
	if len(all) == 0 {
		tb.Fatal("testdata/labels.json has no vectors")
	}
	return all
}

func TestLabelVectors(t *testing.T) {
	for _, v := range vectors(t) {
		t.Run(v.Name, func(t *testing.T) {
			frame, err := hex.DecodeString(v.Frame)
			if err != nil {
				t.Fatal(err)
			}
			if got := Label(number(t, v.Key0), number(t, v.Key1), v.VNI, frame); got != number(t, v.Label) {
				t.Fatalf("label is %016x, want %s", got, v.Label)
			}
		})
	}
}

func number(tb testing.TB, text string) uint64 {
	tb.Helper()
	n, err := strconv.ParseUint(text, 16, 64)
	if err != nil {
		tb.Fatal(err)
	}
	return n
}

func TestLabelKeysFollowTheSecret(t *testing.T) {
	a0, a1 := LabelKeys([]byte("one"))
	b0, b1 := LabelKeys([]byte("two"))
	if a0 == a1 || a0 == b0 || a1 == b1 {
		t.Fatalf("keys repeat: %x %x %x %x", a0, a1, b0, b1)
	}
	if c0, c1 := LabelKeys([]byte("one")); c0 != a0 || c1 != a1 {
		t.Fatal("the same secret gave other keys")
	}
}

// FuzzLabel checks that no frame makes Label read outside it, and that a frame's end cannot change what is behind the
// claimed length.
func FuzzLabel(f *testing.F) {
	for _, v := range vectors(f) {
		frame, err := hex.DecodeString(v.Frame)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(uint64(1), uint64(2), frame)
	}
	f.Fuzz(func(t *testing.T, key0, key1 uint64, frame []byte) {
		label := Label(key0, key1, 4711, frame)
		if len(frame) < 14 && label != 0 {
			t.Fatalf("%d bytes have label %x", len(frame), label)
		}
		if again := Label(key0, key1, 4711, append([]byte(nil), frame...)); again != label {
			t.Fatal("the same bytes have two labels")
		}
	})
}
