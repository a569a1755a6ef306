package packet

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"io"
	"strings"

	"github.com/google/gopacket/layers"
	"github.com/google/gopacket/pcapgo"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

// Parts of a pcapng file (draft-ietf-opsawg-pcapng sections 3.5 and 4.3): the block of a packet, the option that comments on it, and
// the end of its options.
const (
	blockPacket   = 6
	optionComment = 1
	packetHead    = 32 // the block's head and trailer, and what stands before the packet's bytes
)

// WritePath writes the way of a probe as pcapng: an interface for every host, the probe once for every stage, and what the stage made of
// it as the packet's comment. The error wraps fabric.ErrInvalid where the path does not have the probe's bytes.
func WritePath(w io.Writer, p *tracing.Path) error {
	if len(p.Frame) == 0 {
		return fmt.Errorf("write the path as pcapng: it does not have the probe's bytes: %w", fabric.ErrInvalid)
	}
	var hosts []fabric.HostID
	numbers := map[fabric.HostID]int{}
	for _, h := range p.Hops {
		if _, there := numbers[h.Host]; !there {
			numbers[h.Host] = len(hosts)
			hosts = append(hosts, h.Host)
		}
	}
	if len(hosts) == 0 {
		hosts = []fabric.HostID{"none"} // a file has at least one interface
	}
	if err := writeHosts(w, hosts); err != nil {
		return fmt.Errorf("write the path as pcapng: %w", err)
	}
	for _, h := range p.Hops {
		if _, err := w.Write(packetBlock(numbers[h.Host], h, p)); err != nil {
			return fmt.Errorf("write the path as pcapng: %w", err)
		}
	}
	return nil
}

// writeHosts begins the file.
func writeHosts(w io.Writer, hosts []fabric.HostID) error {
	interfaceOf := func(h fabric.HostID) pcapgo.NgInterface {
		return pcapgo.NgInterface{Name: string(h), LinkType: layers.LinkTypeEthernet, TimestampResolution: 9}
	}
	out, err := pcapgo.NewNgWriterInterface(w, interfaceOf(hosts[0]), pcapgo.NgWriterOptions{SectionInfo: pcapgo.NgSectionInfo{Application: "weft"}})
	if err != nil {
		return err
	}
	for _, h := range hosts[1:] {
		if _, err := out.AddInterface(interfaceOf(h)); err != nil {
			return err
		}
	}
	return out.Flush()
}

// packetBlock is an enhanced packet block with a comment, which the library does not write.
func packetBlock(number int, h tracing.Step, p *tracing.Path) []byte {
	comment := []byte(stepComment(h))
	at := uint64(0)
	if !h.Time.IsZero() {
		at = uint64(h.Time.UnixNano())
	}
	size := packetHead + padded(len(p.Frame)) + 4 + padded(len(comment)) + 4
	var b bytes.Buffer
	word := func(v uint32) { b.Write(binary.LittleEndian.AppendUint32(nil, v)) }
	fill := func(content []byte) {
		b.Write(content)
		b.Write(make([]byte, padded(len(content))-len(content)))
	}
	word(blockPacket)
	word(uint32(size))
	word(uint32(number))
	word(uint32(at >> 32))
	word(uint32(at))
	word(uint32(len(p.Frame)))
	word(uint32(len(p.Frame)))
	fill(p.Frame)
	word(optionComment | uint32(len(comment))<<16)
	fill(comment)
	word(0)
	word(uint32(size))
	return b.Bytes()
}

// padded is a length up to the next word.
func padded(n int) int { return (n + 3) &^ 3 }

// stepComment is what a stage made of the packet.
func stepComment(h tracing.Step) string {
	words := []string{fmt.Sprintf("weft %s %s %s", h.Host, h.Stage, h.Result)}
	if h.Reason != 0 {
		words = append(words, "reason "+h.Reason.String())
		if name := h.Reason.HyperV(); name != "" {
			words = append(words, "hyper-v "+name)
		}
	}
	if name := tracing.RuleName(h.Policy, h.Rule); name != "" {
		words = append(words, "rule "+name)
	}
	if h.Port != "" {
		words = append(words, "port "+string(h.Port))
	}
	if h.VNI != 0 {
		words = append(words, fmt.Sprintf("vni %d", h.VNI))
	}
	if h.PeerHost != "" {
		words = append(words, "peer "+string(h.PeerHost))
	}
	return strings.Join(words, "; ")
}
