package lab

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
)

// delayed is how many frames are on a delaying cable at most, in each direction; then it takes no more, and the device
// behind it fills up and loses, as a long cable between fast ends does.
const delayed = 4096

// plugInDelayed joins one host's namespace to the bridge by a cable that takes time: both ends are taps, and a process
// carries frames between them. It serves frames up to the MTU only.
func (l *Lab) plugInDelayed(ul, ns nic.Namespace, port string) error {
	var far, near *os.File
	err := ns.Do(func() (err error) {
		far, err = nic.OpenTap("eth0", nic.TapOptions{MTU: l.Underlay.MTU, QueueLength: arrivalQueue})
		return err
	})
	if err != nil {
		return err
	}
	defer far.Close()
	err = ul.Do(func() (err error) {
		near, err = nic.OpenTap(port, nic.TapOptions{MTU: l.Underlay.MTU, QueueLength: arrivalQueue, NoIPv6: true})
		return err
	})
	if err != nil {
		return err
	}
	defer near.Close()
	cmd := exec.Command(l.Binary, "lab", "hook", "cable", l.Underlay.Delay.String())
	cmd.ExtraFiles = []*os.File{near, far}
	_, err = detach(ul, l.file("cable-"+port+".log"), cmd)
	return err
}

// RunCable carries frames between the taps on descriptors 3 and 4, each for as long as the delay, until SIGTERM.
func RunCable(ctx context.Context, delay time.Duration) error {
	ctx, cancel := signal.NotifyContext(ctx, unix.SIGTERM, unix.SIGINT)
	defer cancel()
	for _, fd := range []int{3, 4} {
		if err := unix.SetNonblock(fd, true); err != nil { // before NewFile, so that closing ends a read
			return fmt.Errorf("run a cable between descriptors 3 and 4: %w", err)
		}
	}
	near, far := os.NewFile(3, "near"), os.NewFile(4, "far")
	var lanes sync.WaitGroup
	lanes.Go(func() { carry(near, far, delay) })
	lanes.Go(func() { carry(far, near, delay) })
	<-ctx.Done()
	near.Close()
	far.Close()
	lanes.Wait()
	return nil
}

// carry moves frames one way.
func carry(from, to *os.File, delay time.Duration) {
	type frame struct {
		due  time.Time
		data []byte
	}
	travelling := make(chan frame, delayed)
	var arrive sync.WaitGroup
	arrive.Go(func() {
		for f := range travelling {
			time.Sleep(time.Until(f.due))
			_, _ = to.Write(f.data) // a device that is down loses it
		}
	})
	buffer := make([]byte, frameBuffer)
	for {
		n, err := from.Read(buffer)
		if err != nil {
			break
		}
		travelling <- frame{time.Now().Add(delay), append([]byte(nil), buffer[:n]...)}
	}
	close(travelling)
	arrive.Wait()
}
