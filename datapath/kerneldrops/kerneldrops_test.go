package kerneldrops

import (
	"errors"
	"fmt"
	"os"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/internal/lab/impair"
	"github.com/weftnet/weft/tracing"
)

// failure ends a test from the thread that is in its namespace, where testing's own way out is not to be used.
type failure struct{ error }

// inNamespace runs the test in a network namespace of its own.
func inNamespace(t *testing.T, name string, test func()) {
	t.Helper()
	if os.Getuid() != 0 {
		t.Fatal("this test makes network namespaces and loads programs into the kernel: run it as root (make test)")
	}
	ns, err := nic.CreateNamespace(fmt.Sprintf("kd%s%d", name, os.Getpid()%100000))
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := ns.Delete(); err != nil {
			t.Error(err)
		}
	}()
	err = ns.Do(func() (err error) {
		defer func() {
			switch p := recover().(type) {
			case nil:
			case failure:
				err = p
			default:
				panic(p)
			}
		}()
		test()
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// check ends the test at an error.
func check(err error) {
	if err != nil {
		panic(failure{err})
	}
}

// must is the value of a function that must not return an error.
func must[T any](v T, err error) T {
	check(err)
	return v
}

// openTap makes a tap that nobody reads, and says how it is numbered.
func openTap(t *testing.T, name string) int {
	t.Helper()
	f := must(nic.OpenTap(name, nic.TapOptions{MTU: 1500, NoIPv6: true}))
	t.Cleanup(func() { f.Close() })
	check(nic.SetUp(name))
	return must(nic.Find(name)).Index
}

// send gives n frames to the device.
func send(t *testing.T, device, n int) {
	t.Helper()
	fd := must(unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, 0))
	defer unix.Close(fd)
	frame := make([]byte, 60)
	frame[12], frame[13] = 0x88, 0xb5 // an ethertype for experiments (IEEE 802)
	for range n {
		// What the device drops may be told here (ENOBUFS); the counters say it too.
		if err := unix.Sendto(fd, frame, 0, &unix.SockaddrLinklayer{Ifindex: device}); err != nil && err != unix.ENOBUFS {
			check(err)
		}
	}
}

func counts(t *testing.T, c *Counter) map[int]map[tracing.KernelReason]uint64 {
	t.Helper()
	drops, missed, err := c.Counts()
	if err != nil || missed != 0 {
		panic(failure{fmt.Errorf("%d found no counter, %w", missed, err)})
	}
	return drops
}

// queue is how many frames a tap holds for its reader (tun's default txqueuelen).
const queue = 500

func TestAFullQueueIsCountedByTheKernelsReason(t *testing.T) {
	inNamespace(t, "a", func() {
		c := must(Open())
		defer c.Close()
		watched, other := openTap(t, "kd0"), openTap(t, "kd1")
		check(c.Watch([]int{watched}))
		const sent = 3 * queue
		send(t, watched, sent)
		send(t, other, sent)
		refused := must(nic.Refused("kd0"))
		got := counts(t, c)
		if n := got[watched]["FULL_RING"]; n == 0 || n != refused || len(got[watched]) != 1 {
			t.Errorf("of %d frames for a guest that takes none the device has refused %d, counted are %v", sent, refused, got[watched])
		}
		if len(got) != 1 {
			t.Errorf("a device that is not watched was counted: %v", got)
		}
		check(c.Watch([]int{other}))
		if got := counts(t, c); len(got) != 0 {
			t.Errorf("what was counted on a device stays when it is watched no more: %v", got)
		}
	})
}

func TestADeviceOfAnotherNamespaceIsNotCounted(t *testing.T) {
	inNamespace(t, "b", func() {
		c := must(Open())
		defer c.Close()
		var here int
		inNamespace(t, "c", func() {
			here = openTap(t, "kd0")
			check(c.Watch([]int{here})) // the number is one of this namespace
			send(t, here, 3*queue)
			if n := must(nic.Refused("kd0")); n == 0 {
				panic(failure{errors.New("the device has refused none: the test shows nothing")})
			}
		})
		if got := counts(t, c); len(got) != 0 {
			t.Errorf("counted in another namespace: %v", got)
		}
	})
}

func TestWhatProgramsOfOursDropIsLeftOut(t *testing.T) {
	inNamespace(t, "d", func() {
		dir := t.TempDir()
		check(unix.Mount("bpf", dir, "bpf", 0, ""))
		defer unix.Unmount(dir, unix.MNT_DETACH)
		c := must(Open())
		defer c.Close()
		device := openTap(t, "kd0")
		check(c.Watch([]int{device}))
		check(impair.Set("kd0", dir, impair.Rates{Loss: 1}))
		send(t, device, queue)
		lost := must(impair.Read("kd0", dir))
		if got := counts(t, c); lost.Lost != queue || len(got) != 0 {
			t.Errorf("a program at tcx has dropped %d of %d, which are counted as the kernel's: %v", lost.Lost, queue, got)
		}
	})
}

func TestReasonsHaveTheNamesOfThisKernel(t *testing.T) {
	inNamespace(t, "e", func() {
		c := must(Open())
		defer c.Close()
		known := map[tracing.KernelReason]bool{}
		for _, name := range c.reasons {
			known[name] = true
		}
		for _, name := range []tracing.KernelReason{"FULL_RING", "NOT_SPECIFIED", "TC_INGRESS"} {
			if !known[name] {
				t.Errorf("%s is no reason of this kernel: %v", name, known)
			}
		}
		if got := c.name(1<<16 + 3); got != "0x10003" {
			t.Errorf("a module's reason is named %q", got)
		}
	})
}
