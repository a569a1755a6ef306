package main

import (
	"testing"
	"time"

	"github.com/weftnet/weft/fabric"
)

func TestLoadsAreWhatCameBetweenTwoLooks(t *testing.T) {
	at := time.Unix(1000, 0)
	status := func(packets, bytes, drops uint64) fabric.PortStatus {
		return fabric.PortStatus{Host: "h1", RxPackets: packets, RxBytes: bytes, Drops: map[string]uint64{"policy_denied": drops}}
	}
	before := map[fabric.PortID]tally{"idle": {at, status(5, 500, 9)}, "busy": {at, status(10, 1000, 0)}, "moved": {at, status(900, 90000, 0)}}
	later := at.Add(2 * time.Second)
	now := map[fabric.PortID]tally{"idle": {later, status(5, 500, 9)}, "busy": {later, status(30, 3000, 4)}, "moved": {later, status(2, 100, 0)}, "new": {later, status(7, 700, 0)}}
	got := loads(before, now)
	if len(got) != 3 || got[0].Port != "busy" || got[1].Port != "moved" || got[2].Port != "idle" {
		t.Fatalf("%+v", got)
	}
	if b := got[0]; b.OutPackets != 10 || b.OutBits != 8000 || b.Dropped != 2 || b.InPackets != 0 {
		t.Errorf("busy: %+v", b)
	}
	if m := got[1]; m.OutPackets != 1 || m.OutBits != 400 {
		t.Errorf("a port that counts anew: %+v", m)
	}
}
