package packet

import (
	"encoding/binary"
	"fmt"
	"io"
	"time"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"
)

// Capture writes frames as a section of a pcapng file (draft-ietf-opsawg-pcapng), which Wireshark, tshark and tcpdump read.
type Capture struct {
	w     *pcapgo.NgWriter
	frame uint64
}

// NewCapture begins a section, with one interface of that name.
func NewCapture(w io.Writer, name, description string) (*Capture, error) {
	out, err := pcapgo.NewNgWriterInterface(w, pcapgo.NgInterface{
		Name: name, Description: description, LinkType: layers.LinkTypeEthernet, TimestampResolution: 9,
	}, pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "weft"}})
	if err != nil {
		return nil, fmt.Errorf("begin a capture: %w", err)
	}
	return &Capture{w: out}, nil
}

// Write adds a frame as it was at that time.
func (c *Capture) Write(at time.Time, frame []byte) error {
	c.frame++
	return c.w.WritePacket(gopacket.CaptureInfo{Timestamp: at, CaptureLength: len(frame), Length: wholeLength(frame)}, frame)
}

// Flush brings everything to the writer; Dropped tells readers how many frames were not written.
func (c *Capture) Flush() error { return c.w.Flush() }

// Dropped writes how many frames there were, and how many of them were lost before they could be written.
func (c *Capture) Dropped(at time.Time, lost uint64) error {
	return c.w.WriteInterfaceStats(0, pcapgo.NgInterfaceStatistics{LastUpdate: at, PacketsReceived: c.frame + lost, PacketsDropped: lost})
}

// wholeLength is how long the frame was before it was cut, as far as an IP header says so.
func wholeLength(frame []byte) int {
	at := 12
	for at+6 <= len(frame) && (binary.BigEndian.Uint16(frame[at:]) == 0x8100 || binary.BigEndian.Uint16(frame[at:]) == 0x88a8) {
		at += 4
	}
	if at+8 > len(frame) {
		return len(frame)
	}
	length := 0
	switch binary.BigEndian.Uint16(frame[at:]) {
	case 0x0800:
		length = at + 2 + int(binary.BigEndian.Uint16(frame[at+4:]))
	case 0x86dd:
		length = at + 2 + 40 + int(binary.BigEndian.Uint16(frame[at+6:]))
	}
	return max(len(frame), length)
}
