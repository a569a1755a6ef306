package impair

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/weftnet/weft/datapath/nic"
	"github.com/weftnet/weft/fabric"
)

const frames = 20000

// rig is a veth pair in a namespace; send puts frames into one end and says how many came out of the other.
type rig struct {
	ns   nic.Namespace
	pins string
}

func newRig(t *testing.T) *rig {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test loads programs into the kernel: run it as root (make test)")
	}
	ns, err := nic.CreateNamespace(fmt.Sprintf("impairtest-%d", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	r := &rig{ns: ns, pins: t.TempDir()}
	t.Cleanup(func() { ns.Delete() })
	if err := unix.Mount("bpf", r.pins, "bpf", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Unmount(r.pins, unix.MNT_DETACH) })
	r.in(t, func() error {
		return errors.Join(nic.CreateVeth(nic.Veth{Name: "v0", Peer: "v1", MAC: fabric.MAC{2, 0, 0, 0, 0, 1}, PeerMAC: fabric.MAC{2, 0, 0, 0, 0, 2}}),
			nic.DisableIPv6("v0"), nic.DisableIPv6("v1"), nic.SetUp("v0"), nic.SetUp("v1"),
			nic.AddAddress("v0", netip.MustParsePrefix("10.97.0.1/24")))
	})
	return r
}

func (r *rig) in(t *testing.T, fn func() error) {
	t.Helper()
	if err := r.ns.Do(fn); err != nil {
		t.Fatal(err)
	}
}

// send sends broadcast frames of a private EtherType out of v0 and counts them at v1.
func (r *rig) send(t *testing.T, n int) (arrived uint64) {
	t.Helper()
	r.in(t, func() error {
		before, err := received("v1")
		if err != nil {
			return err
		}
		if err := transmit("v0", n); err != nil {
			return err
		}
		after, err := received("v1")
		arrived = after - before
		return err
	})
	return arrived
}

func (r *rig) counts(t *testing.T) Counts {
	t.Helper()
	c, err := Read("v0", r.pins)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestLossIsAsAskedAndCounted(t *testing.T) {
	r := newRig(t)
	r.in(t, func() error { return Set("v0", r.pins, Rates{Loss: 0.1}) })
	arrived := r.send(t, frames)
	c := r.counts(t)
	t.Logf("%+v, %d arrived", c, arrived)
	if c.Passed+c.Lost != frames || c.Passed != arrived || c.Doubled != 0 {
		t.Errorf("%d sent, %d arrived, but %+v", frames, arrived, c)
	}
	// Ten standard deviations of a binomial distribution: sqrt(20000·0.1·0.9) = 42.
	if c.Lost < 1580 || c.Lost > 2420 {
		t.Errorf("%d of %d lost at 10 %%", c.Lost, frames)
	}
}

func TestDoubledFramesArriveTwiceAndAreCounted(t *testing.T) {
	r := newRig(t)
	r.in(t, func() error { return Set("v0", r.pins, Rates{Duplicate: 1}) })
	arrived := r.send(t, frames)
	c := r.counts(t)
	// A share of 1 is 2^32-1 of 2^32: one frame in four thousand million is not doubled.
	if arrived != 2*frames || c.Passed != frames || c.Doubled != frames || c.Lost != 0 {
		t.Errorf("%d sent, %d arrived, %+v", frames, arrived, c)
	}
}

func TestRatesCanBeChangedAndCleared(t *testing.T) {
	r := newRig(t)
	r.in(t, func() error { return Set("v0", r.pins, Rates{Loss: 1}) })
	if arrived := r.send(t, 100); arrived != 0 {
		t.Errorf("%d frames came through a loss of everything", arrived)
	}
	r.in(t, func() error { return Set("v0", r.pins, Rates{}) })
	if arrived := r.send(t, 100); arrived != 100 {
		t.Errorf("%d of 100 frames arrived without loss", arrived)
	}
	if c := r.counts(t); c.Lost != 100 || c.Passed != 100 {
		t.Errorf("counted %+v", c)
	}
	r.in(t, func() error { return errors.Join(Clear("v0", r.pins), Clear("v0", r.pins)) })
	if left, err := filepath.Glob(filepath.Join(r.pins, "v0_*")); err != nil || len(left) != 0 {
		t.Errorf("pins left: %v, %v", left, err)
	}
	r.in(t, func() error {
		if n, err := Strip("v0"); n != 0 || err != nil {
			return fmt.Errorf("%d programs are still attached (%v)", n, err)
		}
		return nil
	})
}

func TestStripTakesPinnedProgramsOff(t *testing.T) {
	r := newRig(t)
	r.in(t, func() error { return Set("v0", r.pins, Rates{Loss: 1}) })
	r.in(t, func() error {
		if n, err := Strip("v0"); n != 1 || err != nil {
			return fmt.Errorf("%d programs taken off, want 1 (%v)", n, err)
		}
		return nil
	})
	if arrived := r.send(t, 100); arrived != 100 {
		t.Errorf("%d of 100 frames arrived after the program was taken off", arrived)
	}
}

func TestImpossibleRatesAreRefused(t *testing.T) {
	for _, rates := range []Rates{{Loss: 1.1}, {Duplicate: -0.1}} {
		if err := Set("lo", t.TempDir(), rates); err == nil {
			t.Errorf("%+v was taken", rates)
		}
	}
	if err := Set("nope0", t.TempDir(), Rates{}); err == nil {
		t.Error("a device that is not there was impaired")
	}
}
