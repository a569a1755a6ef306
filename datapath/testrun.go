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

// TestFrames gives vp_in each of the frames once, as if the guest behind the device had sent it, without delivering it, and returns
// the mean time of a run as the kernel counts it, with its two readings of the clock. The runs are counted as the port's traffic.
func (d *Datapath) TestFrames(device string, frames [][]byte) (mean time.Duration, err error) {
	counting, err := CountRunTimes()
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, counting.Close()) }()
	found, err := nic.Find(device)
	if err != nil {
		return 0, fmt.Errorf("run %s on %s: %w", vpIn, device, err)
	}
	before, err := d.RunTimes()
	if err != nil {
		return 0, err
	}
	if err := d.runEach(found.Index, frames); err != nil {
		return 0, fmt.Errorf("run %s on %s: %w", vpIn, device, err)
	}
	after, err := d.RunTimes()
	if err != nil {
		return 0, err
	}
	runs := after[vpIn].Runs - before[vpIn].Runs
	if runs < uint64(len(frames)) || runs == 0 {
		return 0, fmt.Errorf("run %s on %s: %d of %d runs were counted", vpIn, device, runs, len(frames))
	}
	return (after[vpIn].Took - before[vpIn].Took) / time.Duration(runs), nil
}

// runEach runs vp_in once on each frame.
func (d *Datapath) runEach(ifindex int, frames [][]byte) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.closed {
		return ErrClosed
	}
	for _, frame := range frames {
		if _, err := runOn(d.programs[vpIn], ifindex, frame, 1); err != nil {
			return err
		}
	}
	return nil
}

// testRun returns the mean time of a run, on a frame met at the device.
func testRun(program *ebpf.Program, ifindex int, frame []byte, times uint32) (time.Duration, error) {
	start := time.Now()
	verdict, err := runOn(program, ifindex, frame, times)
	took := time.Since(start)
	if err != nil {
		return 0, err
	}
	if int32(verdict) != tcxRedirect {
		return 0, fmt.Errorf("the frame is not delivered (verdict %d): give one from the port to a station of its switch", int32(verdict))
	}
	return took / time.Duration(times), nil
}

// runOn runs the program on a frame met at the device and returns its verdict.
func runOn(program *ebpf.Program, ifindex int, frame []byte, times uint32) (verdict uint32, err error) {
	// The part of struct __sk_buff that a caller may set (linux/bpf.h, net/bpf/test_run.c).
	var context struct {
		_       [10]uint32
		Ifindex uint32
		_       [37]uint32
	}
	context.Ifindex = uint32(ifindex)
	return program.Run(&ebpf.RunOptions{Data: frame, Context: context, Repeat: times})
}
