package datapath

import (
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// tcxRedirect is the verdict of a program that hands the frame to a device (linux/bpf.h, TCX_REDIRECT).
const tcxRedirect = 7

// RunTime is how often one of the core's programs has run, and how long in all, while run times were counted.
type RunTime struct {
	Runs uint64
	Took time.Duration
}

// CountRunTimes has the kernel count the run times of all BPF programs of the machine until the counting is closed. It
// costs every run two readings of the clock.
func CountRunTimes() (io.Closer, error) {
	counting, err := ebpf.EnableStats(uint32(unix.BPF_STATS_RUN_TIME))
	if err != nil {
		return nil, fmt.Errorf("count run times of BPF programs: %w", err)
	}
	return counting, nil
}

// RunTimes reads the run times of this core's programs by name: vp_in (from a guest), ul_in (from the underlay), vx_in
// (from the kernel's VXLAN device), vp_out (into a tap).
func (d *Datapath) RunTimes() (map[string]RunTime, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	times := map[string]RunTime{}
	for name, program := range d.programs {
		stats, err := program.Stats()
		if err != nil {
			return nil, fmt.Errorf("read run times of %s: %w", name, err)
		}
		times[name] = RunTime{Runs: stats.RunCount, Took: stats.Runtime}
	}
	return times, nil
}

// TestRun gives vp_in the frame again and again, as if the guest behind the device had sent it, without delivering it, and
// returns the mean time of a run (BPF_PROG_TEST_RUN). The frame must be one that the core does not change, such as one to
// a port on the same host, since each run gets what the last has left. The runs are counted as the port's traffic. A signal
// to the thread begins the runs anew and makes the mean too large.
func (d *Datapath) TestRun(device string, frame []byte, times uint32) (time.Duration, error) {
	found, err := nic.Find(device)
	if err != nil {
		return 0, fmt.Errorf("run %s on %s: %w", vpIn, device, err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.programs[vpIn] == nil {
		return 0, errors.New("run " + vpIn + ": the datapath is closed")
	}
	took, err := testRun(d.programs[vpIn], found.Index, frame, times)
	if err != nil {
		return 0, fmt.Errorf("run %s on %s: %w", vpIn, device, err)
	}
	return took, nil
}

// testRun returns the mean time of a run, on a frame met at the device.
func testRun(program *ebpf.Program, ifindex int, frame []byte, times uint32) (time.Duration, error) {
	// The part of struct __sk_buff that a caller may set (linux/bpf.h, net/bpf/test_run.c).
	var context struct {
		_       [10]uint32
		Ifindex uint32
		_       [37]uint32
	}
	context.Ifindex = uint32(ifindex)
	options := ebpf.RunOptions{Data: frame, Context: context, Repeat: times}
	start := time.Now()
	verdict, err := program.Run(&options)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if int32(verdict) != tcxRedirect {
		return 0, fmt.Errorf("the frame is not delivered (verdict %d): give one from the port to a station of its switch", int32(verdict))
	}
	return took / time.Duration(times), nil
}
