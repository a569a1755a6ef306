package packet

import (
	"bytes"
	"encoding/binary"
	"errors"
	"testing"
	"time"

	"github.com/google/gopacket/pcapgo"

	"github.com/weftnet/weft/fabric"
	"github.com/weftnet/weft/tracing"
)

func TestAPathIsAPacketFileWithComments(t *testing.T) {
	frame, err := Craft(probe(UDP, "10.10.0.11", "10.10.0.12"))
	if err != nil {
		t.Fatal(err)
	}
	at := time.Unix(1_800_000_000, 123456789).UTC()
	hop := func(host fabric.HostID, stage tracing.Stage, result tracing.Result, after time.Duration) tracing.Step {
		return tracing.Step{Hop: tracing.Hop{Host: host, Stage: stage, Result: result, Time: at.Add(after)}}
	}
	last := hop("h2", tracing.StagePolicyIn, tracing.ResultDrop, 40*time.Microsecond)
	last.Reason, last.Policy, last.Rule, last.Port = tracing.ReasonPolicyDenied, "web-in", "rest", "b"
	p := &tracing.Path{Frame: frame, Hops: []tracing.Step{hop("h1", tracing.StagePortIn, tracing.ResultPass, 0), hop("h1", tracing.StageEncap, tracing.ResultPass, time.Microsecond), last}}
	var file bytes.Buffer
	if err := WritePath(&file, p); err != nil {
		t.Fatal(err)
	}
	want := []string{"weft h1 port.in pass", "weft h1 encap pass", "weft h2 policy.in drop; reason policy_denied; hyper-v 12 FailedSecurityPolicy; rule web-in/rest; port b"}
	got := comments(t, file.Bytes())
	if len(got) != len(want) {
		t.Fatalf("comments %q, want %q", got, want)
	}
	in, err := pcapgo.NewNgReader(&file, pcapgo.DefaultNgReaderOptions)
	if err != nil {
		t.Fatal(err)
	}
	for i, h := range p.Hops {
		if got[i] != want[i] {
			t.Errorf("comment %q, want %q", got[i], want[i])
		}
		data, info, err := in.ReadPacketData()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(data, frame) || !info.Timestamp.Equal(h.Time) {
			t.Errorf("packet %d: %d bytes at %s, want %d at %s", i, len(data), info.Timestamp, len(frame), h.Time)
		}
		if intf, err := in.Interface(info.InterfaceIndex); err != nil || intf.Name != string(h.Host) {
			t.Errorf("packet %d is of interface %q (%v), want %s", i, intf.Name, err, h.Host)
		}
	}
	if _, _, err := in.ReadPacketData(); err == nil {
		t.Error("there are more packets")
	}
	if err := WritePath(&file, &tracing.Path{}); !errors.Is(err, fabric.ErrInvalid) {
		t.Errorf("a path without the probe: %v", err)
	}
}

// comments walks the blocks by their lengths alone and returns the comments of packets.
func comments(t *testing.T, file []byte) (out []string) {
	t.Helper()
	for len(file) >= 12 {
		kind, size := binary.LittleEndian.Uint32(file), int(binary.LittleEndian.Uint32(file[4:]))
		if size%4 != 0 || size > len(file) || binary.LittleEndian.Uint32(file[size-4:]) != uint32(size) {
			t.Fatalf("a block of type %d says that it has %d bytes of %d", kind, size, len(file))
		}
		if kind == blockPacket {
			options := file[28+(int(binary.LittleEndian.Uint32(file[20:]))+3)/4*4:]
			if code, n := binary.LittleEndian.Uint16(options), int(binary.LittleEndian.Uint16(options[2:])); code == optionComment {
				out = append(out, string(options[4:4+n]))
			}
		}
		file = file[size:]
	}
	if len(file) != 0 {
		t.Fatalf("%d bytes are left over", len(file))
	}
	return out
}
