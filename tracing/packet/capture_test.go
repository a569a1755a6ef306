package packet_test

import (
	"bytes"
	"io"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/weftnet/weft/tracing/packet"
)

func TestACaptureIsReadAsItWasWritten(t *testing.T) {
	long := append(make([]byte, 12), 8, 0, 0x45, 0, 0x03, 0xe8) // the header of 1000 bytes, cut
	long = append(long, make([]byte, 46)...)
	tagged := append(append(make([]byte, 12), 0x81, 0, 0, 10), long[12:]...)
	arp := append(make([]byte, 12), 8, 6, 0, 1)
	at := time.Unix(1_700_000_000, 123_456_789)
	var b bytes.Buffer
	for section := range 2 { // the second is appended, as when an agent goes on
		c, err := packet.NewCapture(&b, "ids", "a mirror")
		if err != nil {
			t.Fatal(err)
		}
		for _, frame := range [][]byte{long, tagged, arp} {
			if err := c.Write(at.Add(time.Duration(section)), frame); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.Dropped(at, 7); err != nil {
			t.Fatal(err)
		}
		if err := c.Flush(); err != nil {
			t.Fatal(err)
		}
	}
	r, err := pcapgo.NewNgReader(&b, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for section := range 2 {
		for i, want := range []struct {
			frame []byte
			whole int
		}{{long, 1014}, {tagged, 1018}, {arp, 16}} {
			frame, info, err := r.ReadPacketData()
			if err != nil || !bytes.Equal(frame, want.frame) || info.Length != want.whole || !info.Timestamp.Equal(at.Add(time.Duration(section))) {
				t.Errorf("section %d, packet %d: %d bytes of %d at %v: %v", section, i, len(frame), info.Length, info.Timestamp, err)
			}
		}
	}
	if _, _, err := r.ReadPacketData(); err != io.EOF {
		t.Errorf("at the end: %v", err)
	}
}
