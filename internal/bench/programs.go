package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/weftnet/weft/datapath"
)

const (
	// programsName is the name of the measure of BPF programs among the others.
	programsName = "bpf"
	// enoughRuns is from how many runs on a mean says something.
	enoughRuns = 1000
	// testRuns is how often a program is run in a test run, of which there are testRounds: the fastest counts, since what
	// disturbs only ever adds.
	testRuns   = 50_000
	testRounds = 5
)

// programTime is the time one of weft's BPF programs takes for a frame.
type programTime struct {
	Program     string  `json:"program"`
	How         string  `json:"how"`
	Nanoseconds float64 `json:"nanoseconds"`
}

// row is the time as text.
func (p programTime) row() []string {
	return []string{p.Program, p.How, fmt.Sprintf("%.0f ns", p.Nanoseconds)}
}

// timePrograms has the kernel time weft's programs under small UDP, and times the one that meets guests by test run.
func timePrograms(ctx context.Context, s *site, d time.Duration) (times []programTime, err error) {
	counting, err := datapath.CountRunTimes()
	if err != nil {
		return nil, err
	}
	for _, l := range []lane{cross, local} {
		before, errBefore := s.runTimes()
		_, errRate := insist(func() (float64, error) { return packetRate(ctx, s.lanes[l], d) })
		after, errAfter := s.runTimes()
		if err := errors.Join(errBefore, errRate, errAfter); err != nil {
			return nil, errors.Join(fmt.Errorf("time the programs %s: %w", l, err), counting.Close())
		}
		times = append(times, between(before, after, fmt.Sprintf("64-byte UDP %s, under load, with two readings of the clock", l))...)
	}
	if err := counting.Close(); err != nil {
		return nil, err
	}
	byTest, err := s.testRun()
	return append(times, byTest), err
}

// runTimes adds up what each program has run on all hosts.
func (s *site) runTimes() (map[string]datapath.RunTime, error) {
	sum := map[string]datapath.RunTime{}
	for _, plane := range s.planes {
		times, err := plane.RunTimes()
		if err != nil {
			return nil, err
		}
		for name, t := range times {
			sum[name] = datapath.RunTime{Runs: sum[name].Runs + t.Runs, Took: sum[name].Took + t.Took}
		}
	}
	return sum, nil
}

// between is the mean run of each program that has run often enough, in order of name.
func between(before, after map[string]datapath.RunTime, how string) []programTime {
	var times []programTime
	for name, now := range after {
		runs, took := now.Runs-before[name].Runs, now.Took-before[name].Took
		if runs >= enoughRuns {
			times = append(times, programTime{Program: name, How: how, Nanoseconds: float64(took.Nanoseconds()) / float64(runs)})
		}
	}
	slices.SortFunc(times, func(a, b programTime) int { return strings.Compare(a.Program, b.Program) })
	return times
}

// testRun times vp_in for a frame from guest a to guest c, which leaves the frame as it is.
func (s *site) testRun() (programTime, error) {
	t := programTime{Program: "vp_in", How: "64-byte UDP " + string(local) + ", fastest of 5 test runs"}
	frame := smallFrame(newGuest(s.lanes[local].from, 1), newGuest(s.lanes[local].to, 3))
	err := s.hosts[0].Do(func() error {
		for range testRounds {
			took, err := s.planes[0].TestRun(portA, frame, testRuns)
			if err != nil {
				return err
			}
			if ns := float64(took.Nanoseconds()); t.Nanoseconds == 0 || ns < t.Nanoseconds {
				t.Nanoseconds = ns
			}
		}
		return nil
	})
	return t, err
}

// smallFrame is the datagram the blaster sends, as it leaves the guest.
func smallFrame(from, to guest) []byte {
	const ethernet, ip, udp = 14, 20, 8
	f := make([]byte, ethernet+ip+udp+smallPayload)
	copy(f[0:], to.mac[:])
	copy(f[6:], from.mac[:])
	binary.BigEndian.PutUint16(f[12:], 0x0800)
	h := f[ethernet:]
	h[0], h[8], h[9] = 0x45, 64, 17
	binary.BigEndian.PutUint16(h[2:], uint16(len(h)))
	copy(h[12:], from.addr.AsSlice())
	copy(h[16:], to.addr.AsSlice())
	setChecksum(f)
	u := h[ip:]
	binary.BigEndian.PutUint16(u[0:], 49152)
	binary.BigEndian.PutUint16(u[2:], sinkPort)
	binary.BigEndian.PutUint16(u[4:], uint16(len(u)))
	return f
}
