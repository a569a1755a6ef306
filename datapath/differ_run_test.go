package datapath_test

import (
	"testing"
	"unsafe"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

// runner runs programs on frames by the bare system call: packages that wrap it take longer for that than the kernel takes.
type runner struct {
	command runCommand
	in, out skbContext
	data    [2048]byte // what a program has left of the frame
}

// runCommand is the part of union bpf_attr that BPF_PROG_TEST_RUN reads and writes (linux/bpf.h).
type runCommand struct {
	program, verdict      uint32
	sizeIn, sizeOut       uint32
	dataIn, dataOut       uint64
	repeat, duration      uint32
	contextIn, contextOut uint32
	in, out               uint64
	flags, cpu, batch, _  uint32
}

const bpfProgTestRun = 10 // linux/bpf.h, enum bpf_cmd

// run runs a program once, on a frame met at the device with that index, and returns its verdict and what it left of the frame,
// which the next run overwrites. The frame must be on the heap.
func (r *runner) run(tb testing.TB, program *ebpf.Program, device uint32, frame []byte) (verdict uint32, left []byte) {
	r.in.Ifindex = device
	c := &r.command
	*c = runCommand{
		program: uint32(program.FD()), sizeIn: uint32(len(frame)), sizeOut: uint32(len(r.data)),
		dataIn: pointer(&frame[0]), dataOut: pointer(&r.data[0]),
		contextIn: uint32(unsafe.Sizeof(r.in)), contextOut: uint32(unsafe.Sizeof(r.out)),
		in: pointer(&r.in), out: pointer(&r.out),
	}
	if _, _, errno := unix.RawSyscall(unix.SYS_BPF, bpfProgTestRun, uintptr(unsafe.Pointer(c)), unsafe.Sizeof(*c)); errno != 0 {
		tb.Fatalf("run %v on %d bytes: %v", program, len(frame), errno)
	}
	return c.verdict, r.data[:min(int(c.sizeOut), len(r.data))]
}

func pointer[T any](p *T) uint64 { return uint64(uintptr(unsafe.Pointer(p))) }
